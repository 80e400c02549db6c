"""Message definitions: those of this installation, and those embedded in bags.

Each channel of a bag is read with its own definition. No ROS installation is needed, only this
package's interface files.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
import os
from pathlib import Path
import re
from typing import Any, TypeAlias

from rosbags.interfaces import Nodetype
from rosbags.typesys import (
    get_types_from_idl,
    get_types_from_msg,
    get_typestore,
    Stores,
    TypesysError,
)
from rosbags.typesys.store import Typestore

from segzero_ros.replay.storage.base import Channel, DAMAGES
from segzero_ros.replay.storage.names import is_ros_type
from segzero_ros.types import SegZeroError

# Constants and fields by type, as in rosbags.
Types: TypeAlias = dict[str, tuple[Any, Any]]
HEADER = 'std_msgs/msg/Header'
# Types of cameras and queries, whose fields are the same in all distributions of ROS 1 and 2.
_STABLE = frozenset(
    (
        'sensor_msgs/msg/Image',
        'sensor_msgs/msg/CompressedImage',
        'sensor_msgs/msg/CameraInfo',
        'std_msgs/msg/String',
    )
)
_IDL_SEPARATOR = '=' * 80 + '\nIDL: '
_IDL = ('ros2idl', 'omgidl')
_BYTE_ORDER_MARK = '\ufeff'
_LINE_END = re.compile(r'[ \t]*(?:\r\n?|\n)')
# Preprocessor lines such as `#include`, also continued ones, which rosbags cannot parse.
_PREPROCESSOR = re.compile(r'^[ \t]*#(?:.*\\\n)*.*$', re.MULTILINE)
_PLAIN_STRING = re.compile(r'[\w/][\w/ .:-]*[\w/.:-]|[\w/]')
_WIDE = re.compile(r'^[ \t]*(wstring|wchar)\b', re.MULTILINE)


class BagError(SegZeroError):
    """A bag cannot be written or read; the message has the reason and a hint."""


class UnknownType(BagError):
    """There is no definition of a message type.

    Attributes:
        name: the unknown type.
    """

    def __init__(self, name: str, searched: list[Path]) -> None:
        self.name = name
        folders = ', '.join(str(path) for path in searched)
        super().__init__(
            f'There is no definition of {name} in {folders}. '
            'Source the workspace that contains it (AMENT_PREFIX_PATH).'
        )


class Unreadable(BagError):
    """A channel cannot be read; the message is the reason, as the end of a sentence."""


@dataclass(frozen=True)
class Interface:
    """The message type of a channel, and how to deserialize it.

    Attributes:
        type: such as `sensor_msgs/msg/Image`.
        typestore: has the type and its nested types.
        is_ros1: whether the messages are serialized as in ROS 1, and need conversion.
        layout: equal for definitions with the same serialization.
        definition: the definition in the bag as `ros2msg`; empty without any.
    """

    type: str
    typestore: Typestore
    is_ros1: bool
    layout: tuple[Any, ...]
    definition: str = ''


class Definitions:
    """Message definitions of Jazzy, of installed interface files, and of bags."""

    def __init__(self) -> None:
        self.typestore: Typestore = get_typestore(Stores.ROS2_JAZZY)
        for name in _jazzy_with_char():
            del self.typestore.fielddefs[name], self.typestore.types[name]
        self.typestore.register(_jazzy_with_char())
        self._parsed: dict[tuple[str, str], Typestore] = {}

    def require(self, name: str) -> Typestore:
        """Return the typestore, after adding a type and its nested types.

        Args:
            name: such as `segzero_ros/msg/SegmentationResult`.

        Raises:
            UnknownType: its interface file is not installed.
        """
        if name in self.typestore.fielddefs:
            return self.typestore
        types = _parse_msg(_plain(_interface_file(name).read_text()), name)
        for inner in sorted(_nested(types)):
            self.require(inner)
        self.typestore.register(_with_rosidl_bytes(types))
        return self.typestore

    def of_channel(self, channel: Channel) -> Interface:
        """Return the interface of a channel.

        Raises:
            Unreadable: its messages cannot be read.
        """
        encoding = channel.message_encoding or ('ros1' if _is_ros1(channel) else 'cdr')
        if encoding not in ('cdr', 'ros1'):
            origin = 'Foxglove' if channel.type.startswith('foxglove') else 'non-ROS'
            raise Unreadable(
                f'it has {origin} messages ({channel.type or "no type"}, {encoding}); '
                'convert them to ROS messages first (docs/replay.md)'
            )
        if not is_ros_type(channel.type):
            raise Unreadable(
                f'{channel.type!r} is not a ROS type' if channel.type else 'it has no message type'
            )
        try:
            return self._of_ros1(channel) if encoding == 'ros1' else self._of_ros2(channel)
        except UnknownType as error:
            raise Unreadable(_why_unknown(channel, error.name, encoding == 'ros1')) from error
        except DAMAGES as error:
            raise Unreadable(f'its definition of {channel.type} cannot be parsed') from error

    def _of_ros2(self, channel: Channel) -> Interface:
        name = channel.type
        if channel.definition and channel.schema_encoding not in ('', 'unknown'):
            try:
                store = self._embedded(channel)
            except (UnknownType, *DAMAGES):
                # The type may be installed here.
                if not self._is_installed(name):
                    raise
            else:
                missing = self._missing_fields(store, name)
                if missing:
                    raise Unreadable(f'its definition of {name} has no field {missing[0]!r}')
                text = _plain(channel.definition) if channel.schema_encoding == 'ros2msg' else ''
                return Interface(name, store, False, layout_of(store, name), text)
        store = self.require(name)
        return Interface(name, store, False, layout_of(store, name))

    def _is_installed(self, name: str) -> bool:
        try:
            self.require(name)
        except UnknownType:
            return False
        return True

    def _missing_fields(self, store: Typestore, name: str) -> list[str]:
        """Return the missing fields of a camera's type."""
        if name not in _STABLE:
            return []
        known = {field for field, _ in store.fielddefs[name][1]}
        return [field for field, _ in self.require(name).fielddefs[name][1] if field not in known]

    def _of_ros1(self, channel: Channel) -> Interface:
        name = channel.type
        store = self.require(name)
        layout = layout_of(store, name)
        if channel.definition:
            try:
                recorded = layout_of(self._embedded(channel), name)
            except DAMAGES:
                if name not in _STABLE:
                    raise
                recorded = layout
            if recorded != layout:
                raise Unreadable(f'{name} has other fields in ROS 1 than in ROS 2')
        return Interface(name, store, True, layout)

    def _embedded(self, channel: Channel) -> Typestore:
        key = channel.type, channel.definition
        if key not in self._parsed:
            self._parsed[key] = self._complete(_parse(channel))
            if channel.type not in self._parsed[key].fielddefs:
                del self._parsed[key]
                raise TypesysError(f'it does not define {channel.type}')
        return self._parsed[key]

    def _complete(self, types: Types) -> Typestore:
        """Return a typestore of some types, with their nested types from this installation."""
        types = dict(types)
        missing = _nested(types)
        while missing:
            for name in missing:
                types[name] = self.require(name).fielddefs[name]
            missing = _nested(types)
        store = get_typestore(Stores.EMPTY)
        store.register(_with_rosidl_bytes(_with_quotes(types)))
        return store


def layout_of(store: Typestore, name: str) -> tuple[Any, ...]:
    """Return a type's fields with names and types, recursively, which define its serialization.

    Names are lower case (`D` in ROS 1 is `d` in ROS 2); the `seq` of a ROS 1 header is omitted.
    """
    return tuple(
        (field.lower(), _kind_of(store, kind))
        for field, kind in store.fielddefs[name][1]
        if not (name == HEADER and field == 'seq')
    )


def own_text(interface: Interface | None, store: Typestore, kind: str) -> str | None:
    """Return a bag's own definition text of an action type.

    For other types rosbags generates the text.
    """
    if all('/msg/' in name for name in layouts_of(store, kind)):
        return None
    if interface is None or not interface.definition:
        raise BagError(
            f'The definition of {kind} cannot be written: for action types this needs a ros2msg '
            'definition in the bag.'
        )
    return interface.definition


def layouts_of(store: Typestore, name: str) -> dict[str, tuple[Any, ...]]:
    """Return the layouts of a type and of its nested types, by name."""
    found = {name: layout_of(store, name)}
    for inner in _nested({name: store.fielddefs[name]}):
        found.update(layouts_of(store, inner))
    return found


def _kind_of(store: Typestore, kind: Any) -> Any:
    sort, what = kind
    if sort == Nodetype.NAME:
        return layout_of(store, what)
    if sort in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        return int(sort), _kind_of(store, what[0]), what[1]
    return what


def _is_ros1(channel: Channel) -> bool:
    return channel.schema_encoding == 'ros1msg'


def _why_unknown(channel: Channel, unknown: str, is_ros1: bool) -> str:
    """Return why a channel with an unknown type cannot be read, as the end of a sentence."""
    part = '' if unknown == channel.type else f' (nested in {channel.type})'
    package, _, short = unknown.partition('/msg/')
    hint = f'source the workspace that contains {package}'
    if is_ros1:
        return (
            f'ROS 1 messages are converted to ROS 2 types, and there is no ROS 2 definition of '
            f'{unknown}{part}; if there is one, {hint}'
        )
    other = re.search(rf'\b(enum|union|bitmask|bitset)\s+{short}\b', channel.definition)
    if other and channel.schema_encoding in _IDL:
        return f'its {channel.type} has a field of an unsupported type: {other[0]}'
    return f'there is no definition of {unknown}{part}, neither in the bag nor here; {hint}'


def _plain(text: str) -> str:
    """Return a definition with the line ends that rosbags can parse."""
    return _LINE_END.sub('\n', text.removeprefix(_BYTE_ORDER_MARK))


def _parse_msg(text: str, name: str) -> Types:
    wide = _WIDE.search(text)
    if wide:
        raise _unsupported(name, wide[1])
    return dict(get_types_from_msg(text, name))


def _unsupported(name: str, kind: str) -> Unreadable:
    # rosbags supports neither reading nor writing them.
    return Unreadable(f'its {name} has a field of the unsupported type {kind}')


def _parse(channel: Channel) -> Types:
    definition = _plain(channel.definition)
    if channel.schema_encoding in ('ros2msg', 'ros1msg'):
        return _parse_msg(definition, channel.type)
    if channel.schema_encoding not in _IDL:
        raise TypesysError(f'its encoding is {channel.schema_encoding!r}')
    types: Types = {}
    for text in definition.split(_IDL_SEPARATOR):
        # The separator is followed by the name of the file.
        idl = text.partition('\n')[2] if _IDL_SEPARATOR in definition else text
        idl = _PREPROCESSOR.sub('', idl)
        if idl.strip():
            types.update(get_types_from_idl(idl))
    for _, fields in types.values():
        for _, (sort, what) in fields:
            inner = what[0] if sort in (Nodetype.ARRAY, Nodetype.SEQUENCE) else (sort, what)
            if inner[0] == Nodetype.BASE and inner[1][0] in ('wstring', 'wchar'):
                raise _unsupported(channel.type, inner[1][0])
    return types


def _nested(types: Types) -> set[str]:
    """Return the nested types of some types that are not among them."""
    found = set()
    for _, fields in types.values():
        for _, (sort, what) in fields:
            inner = what[0] if sort in (Nodetype.ARRAY, Nodetype.SEQUENCE) else (sort, what)
            if inner[0] == Nodetype.NAME and inner[1] not in types:
                found.add(str(inner[1]))
    return found


@cache
def _jazzy_with_char() -> Types:
    """Return Jazzy's types with a char, with uint8 instead."""
    types = get_typestore(Stores.ROS2_JAZZY).fielddefs
    rosidl = _with_rosidl_bytes(types)
    return {name: rosidl[name] for name in types if rosidl[name] != types[name]}


def _with_quotes(types: Types) -> Types:
    """Return types whose constants can be parsed again from the text that rosbags generates.

    It does not quote strings, so that a `#` in one makes the bag unreadable. Strings that cannot
    be quoted are omitted; constants do not affect the serialization.
    """
    return {
        name: ([quoted for constant in constants for quoted in _quoted(*constant)], fields)
        for name, (constants, fields) in types.items()
    }


def _quoted(name: str, kind: str, value: Any) -> list[tuple[str, str, Any]]:
    if kind != 'string' or _PLAIN_STRING.fullmatch(value):
        return [(name, kind, value)]
    quotes = [mark for mark in ('"', "'") if not {mark, '\n', '\\'} & set(value)]
    return [(name, kind, f'{mark}{value}{mark}') for mark in quotes[:1]]


def _with_rosidl_bytes(types: Types) -> Types:
    """Return types with uint8 instead of char, as rosidl generates and hashes them."""
    return {
        name: (constants, [(field, _without_char(kind)) for field, kind in fields])
        for name, (constants, fields) in types.items()
    }


def _without_char(kind: Any) -> Any:
    sort, what = kind
    if sort in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        return sort, (_without_char(what[0]), what[1])
    return (sort, ('uint8', 0)) if sort == Nodetype.BASE and what[0] == 'char' else kind


def _interface_file(name: str) -> Path:
    package, _, message = name.split('/')
    sourced = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    folders = [Path(prefix, 'share', package, 'msg') for prefix in sourced if prefix]
    if package == 'segzero_ros':
        # In a checkout, and in an installation that was not sourced.
        here = Path(__file__).parent.parent.parent
        folders.append(here / 'msg')
        folders += [prefix / 'share' / package / 'msg' for prefix in here.parents]
    for folder in folders:
        path = folder / f'{message}.msg'
        if path.is_file():
            return path
    raise UnknownType(name, folders)
