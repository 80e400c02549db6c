"""What messages are made of: definitions of this installation, and those that bags carry.

Each channel of a bag is read by its own definition. No ROS installation is needed, only this
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

# As rosbags has them: constants and fields of each type.
Types: TypeAlias = dict[str, tuple[Any, Any]]
HEADER = 'std_msgs/msg/Header'
# What a camera sends and a query is: the same fields in every distribution of ROS 1 and 2.
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
# Lines for a preprocessor, as `#include`, also continued ones: rosbags' grammar has none.
_PREPROCESSOR = re.compile(r'^[ \t]*#(?:.*\\\n)*.*$', re.MULTILINE)
_PLAIN_STRING = re.compile(r'[\w/][\w/ .:-]*[\w/.:-]|[\w/]')
_WIDE = re.compile(r'^[ \t]*(wstring|wchar)\b', re.MULTILINE)


class BagError(SegZeroError):
    """A bag cannot be written or read; the text names the cause and the cure."""


class UnknownType(BagError):
    """There is no definition of a message type.

    Attributes:
        name: the type that is not known.
    """

    def __init__(self, name: str, looked_in: list[Path]) -> None:
        self.name = name
        places = ', '.join(str(path) for path in looked_in)
        super().__init__(
            f'There is no definition of {name}: looked in {places}. '
            'Source the installation that holds it (AMENT_PREFIX_PATH).'
        )


class Unreadable(BagError):
    """The messages of a channel cannot be read; the text says why, as the end of a sentence."""


@dataclass(frozen=True)
class Interface:
    """How the messages of a channel are read.

    Attributes:
        type: as `sensor_msgs/msg/Image`.
        typestore: holds the type and all that it is made of.
        is_ros1: whether the messages are serialized as in ROS 1, and have to be converted.
        layout: equal for two definitions of the type by which the same bytes mean the same.
        definition: the bag's own text in the language `ros2msg`; empty where it has none.
    """

    type: str
    typestore: Typestore
    is_ros1: bool
    layout: tuple[Any, ...]
    definition: str = ''


class Definitions:
    """Message definitions: Jazzy's own, whatever interface files are installed, and bags'."""

    def __init__(self) -> None:
        self.typestore: Typestore = get_typestore(Stores.ROS2_JAZZY)
        for name in _jazzy_with_char():
            del self.typestore.fielddefs[name], self.typestore.types[name]
        self.typestore.register(_jazzy_with_char())
        self._parsed: dict[tuple[str, str], Typestore] = {}

    def require(self, name: str) -> Typestore:
        """Return the typestore after making sure that it holds a type and all that it is made of.

        Args:
            name: as `segzero_ros/msg/SegmentationResult`.

        Raises:
            UnknownType: no interface file of that name is installed.
        """
        if name in self.typestore.fielddefs:
            return self.typestore
        types = _parse_msg(_plain(_interface_file(name).read_text()), name)
        for inner in sorted(_parts(types)):
            self.require(inner)
        self.typestore.register(_with_rosidl_bytes(types))
        return self.typestore

    def of_channel(self, channel: Channel) -> Interface:
        """Return how the messages of a channel are read.

        Raises:
            Unreadable: they cannot be.
        """
        encoding = channel.message_encoding or ('ros1' if _says_ros1(channel) else 'cdr')
        if encoding not in ('cdr', 'ros1'):
            whose = 'of Foxglove' if channel.type.startswith('foxglove') else 'not of ROS'
            raise Unreadable(
                f'its messages ({channel.type or "no type"}, {encoding}) are {whose}; '
                'to have them read, convert them to messages of ROS first (docs/replay.md)'
            )
        if not is_ros_type(channel.type):
            named = f'{channel.type!r} is no type of ROS' if channel.type else 'it names no type'
            raise Unreadable(named)
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
                # It may be known here all the same.
                if not self._is_known(name):
                    raise
            else:
                lacking = self._lacking(store, name)
                if lacking:
                    raise Unreadable(f'its {name} has no field {lacking[0]!r}')
                text = _plain(channel.definition) if channel.schema_encoding == 'ros2msg' else ''
                return Interface(name, store, False, layout_of(store, name), text)
        store = self.require(name)
        return Interface(name, store, False, layout_of(store, name))

    def _is_known(self, name: str) -> bool:
        try:
            self.require(name)
        except UnknownType:
            return False
        return True

    def _lacking(self, store: Typestore, name: str) -> list[str]:
        """Return the fields that a camera's type has to have, and has not."""
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
                raise Unreadable(f'{name} of ROS 1 has other fields than that of ROS 2')
        return Interface(name, store, True, layout)

    def _embedded(self, channel: Channel) -> Typestore:
        key = channel.type, channel.definition
        if key not in self._parsed:
            self._parsed[key] = self._complete(_parse(channel))
            if channel.type not in self._parsed[key].fielddefs:
                del self._parsed[key]
                raise TypesysError(f'it defines other types than {channel.type}')
        return self._parsed[key]

    def _complete(self, types: Types) -> Typestore:
        """Return a typestore of some types and of those of this installation that they need."""
        types = dict(types)
        missing = _parts(types)
        while missing:
            for name in missing:
                types[name] = self.require(name).fielddefs[name]
            missing = _parts(types)
        store = get_typestore(Stores.EMPTY)
        store.register(_with_rosidl_bytes(_with_quotes(types)))
        return store


def layout_of(store: Typestore, name: str) -> tuple[Any, ...]:
    """Return what decides how a type's bytes are read: its fields' names and kinds, to the ground.

    Names count without capitals (ROS 1 has `D` where ROS 2 has `d`), and a header without the
    `seq` of ROS 1.
    """
    return tuple(
        (field.lower(), _kind_of(store, kind))
        for field, kind in store.fielddefs[name][1]
        if not (name == HEADER and field == 'seq')
    )


def layouts_of(store: Typestore, name: str) -> dict[str, tuple[Any, ...]]:
    """Return the layout of a type, and those of all types that it is made of."""
    found = {name: layout_of(store, name)}
    for inner in _parts({name: store.fielddefs[name]}):
        found.update(layouts_of(store, inner))
    return found


def _kind_of(store: Typestore, kind: Any) -> Any:
    sort, what = kind
    if sort == Nodetype.NAME:
        return layout_of(store, what)
    if sort in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        return int(sort), _kind_of(store, what[0]), what[1]
    return what


def _says_ros1(channel: Channel) -> bool:
    return channel.schema_encoding == 'ros1msg'


def _why_unknown(channel: Channel, unknown: str, is_ros1: bool) -> str:
    """Return why a channel cannot be read without a type, as the end of a sentence."""
    part = '' if unknown == channel.type else f' (a part of {channel.type})'
    package, _, short = unknown.partition('/msg/')
    cure = f'source the workspace that holds {package}'
    if is_ros1:
        return (
            f'messages of ROS 1 are converted to types of ROS 2, and there is no definition of '
            f'{unknown}{part} for ROS 2 here; if there is one, {cure}'
        )
    other = re.search(rf'\b(enum|union|bitmask|bitset)\s+{short}\b', channel.definition)
    if other and channel.schema_encoding in _IDL:
        return f'its {channel.type} has a field of a type that is not supported: {other[0]}'
    return f'there is no definition of {unknown}{part}, in the bag or here; {cure}'


def _plain(text: str) -> str:
    """Return a definition with the line ends that rosbags' grammars expect."""
    return _LINE_END.sub('\n', text.removeprefix(_BYTE_ORDER_MARK))


def _parse_msg(text: str, name: str) -> Types:
    wide = _WIDE.search(text)
    if wide:
        raise _too_wide(name, wide[1])
    return dict(get_types_from_msg(text, name))


def _too_wide(name: str, kind: str) -> Unreadable:
    # rosbags can neither read nor write them.
    return Unreadable(f'its {name} has a field of the type {kind}, which is not supported')


def _parse(channel: Channel) -> Types:
    definition = _plain(channel.definition)
    if channel.schema_encoding in ('ros2msg', 'ros1msg'):
        return _parse_msg(definition, channel.type)
    if channel.schema_encoding not in _IDL:
        raise TypesysError(f'it is written in {channel.schema_encoding!r}')
    types: Types = {}
    for text in definition.split(_IDL_SEPARATOR):
        # Behind the separator stands the name of the file.
        idl = text.partition('\n')[2] if _IDL_SEPARATOR in definition else text
        idl = _PREPROCESSOR.sub('', idl)
        if idl.strip():
            types.update(get_types_from_idl(idl))
    for _, fields in types.values():
        for _, (sort, what) in fields:
            inner = what[0] if sort in (Nodetype.ARRAY, Nodetype.SEQUENCE) else (sort, what)
            if inner[0] == Nodetype.BASE and inner[1][0] in ('wstring', 'wchar'):
                raise _too_wide(channel.type, inner[1][0])
    return types


def _parts(types: Types) -> set[str]:
    """Return the types that some types are made of, and that are not among them."""
    found = set()
    for _, fields in types.values():
        for _, (sort, what) in fields:
            inner = what[0] if sort in (Nodetype.ARRAY, Nodetype.SEQUENCE) else (sort, what)
            if inner[0] == Nodetype.NAME and inner[1] not in types:
                found.add(str(inner[1]))
    return found


@cache
def _jazzy_with_char() -> Types:
    """Return those types of Jazzy that have a char, without it."""
    types = get_typestore(Stores.ROS2_JAZZY).fielddefs
    rosidl = _with_rosidl_bytes(types)
    return {name: rosidl[name] for name in types if rosidl[name] != types[name]}


def _with_quotes(types: Types) -> Types:
    """Return types whose constants can be read again in the text that rosbags makes of them.

    It writes a string as it is, and what looks like a comment then makes a whole bag unreadable.
    Strings that no quotes help are left out; they have no part in how messages are read.
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
    """Return types with uint8 where they say char: rosidl makes it so, and hashes it so."""
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
        # Beside this package's modules: in a checkout, and in an installation that nobody sourced.
        here = Path(__file__).parent.parent.parent
        folders.append(here / 'msg')
        folders += [prefix / 'share' / package / 'msg' for prefix in here.parents]
    for folder in folders:
        path = folder / f'{message}.msg'
        if path.is_file():
            return path
    raise UnknownType(name, folders)
