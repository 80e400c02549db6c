"""The bag of a replay: the original's messages, and the results among them at their times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
import heapq
from typing import Any

import cv2
import numpy as np
from rosbags.typesys.store import Typestore

from segzero_ros.conversions import detections, markers, result
from segzero_ros.conversions.text import clean_text
from segzero_ros.replay.bag import (
    BagError,
    BagMessage,
    BagReader,
    BagWriter,
    Definitions,
    UnknownType,
)
from segzero_ros.replay.definitions import layouts_of
from segzero_ros.replay.output import ReplayOutput
from segzero_ros.replay.overlay_files import OverlayFiles
from segzero_ros.replay.records import Record, with_frame
from segzero_ros.replay.topics import IMAGE, RESULT, TEXT
from segzero_ros.types import Answer, Frame, Status

# Of these, there is something to show; as in the node.
_SHOWN = (Status.OK, Status.NOT_FOUND)
# As in the node, detections are there where vision_msgs is installed.
_DISPLAYS: dict[str, tuple[str, Callable[[result.Make, Answer], Any]]] = {
    'markers': (markers.MARKERS, markers.markers),
    'detections': (detections.DETECTIONS, detections.detections),
    'detections_3d': (detections.DETECTIONS_3D, detections.detections_3d),
}


class ResultMessages:
    """Answers as serialized messages, on the node's topics."""

    def __init__(self, namespace: str, folder: ReplayOutput, *, overlays: bool) -> None:
        self._prefix = namespace.rstrip('/')
        self._overlays = OverlayFiles(folder) if overlays else None
        definitions = Definitions()
        self._store: Typestore = definitions.require(RESULT)
        self._displays = {
            name: (kind, make)
            for name, (kind, make) in _DISPLAYS.items()
            if _is_known(definitions, kind)
        }

    @property
    def topics(self) -> dict[str, str]:
        """The type of each topic."""
        types = {'result': RESULT, 'reasoning': TEXT, 'label_image': IMAGE}
        types.update((name, kind) for name, (kind, _) in self._displays.items())
        if self._overlays:
            types['overlay'] = IMAGE
        return {f'{self._prefix}/{name}': kind for name, kind in types.items()}

    def layouts(self) -> dict[str, tuple[Any, ...]]:
        """Return the layouts of all types, and of what they are made of."""
        kinds = self.topics.values()
        return {k: v for kind in kinds for k, v in layouts_of(self._store, kind).items()}

    def of(self, number: int, record: Record) -> Iterator[BagMessage]:
        """Give the messages of an answer, by its number from 0."""
        # The pixels are not needed, but what they are about is.
        height, width = record.size
        frame = None
        if record.stamp_ns is not None:
            blank = np.broadcast_to(np.zeros(3, np.uint8), (height, width, 3))
            frame = Frame(blank, record.stamp_ns, record.frame_id)
        answer = with_frame(record, frame)
        if answer.reasoning:
            text = self._make(TEXT, data=clean_text(answer.reasoning) + '\n')
            yield self._message('reasoning', TEXT, text, record.time_ns)
        yield self._message('result', RESULT, result.to_result(self._make, answer), record.time_ns)
        if answer.frame is None or answer.status not in _SHOWN:
            return
        labels = result.label_image(self._make, answer)
        yield self._message('label_image', IMAGE, labels, record.time_ns)
        for name, (kind, fill) in self._displays.items():
            yield self._message(name, kind, fill(self._make, answer), record.time_ns)
        if self._overlays is not None:
            picture = cv2.cvtColor(self._overlays.read(number), cv2.COLOR_BGR2RGB)
            header = result.header_of(self._make, answer)
            overlay = result.rgb_image(self._make, np.asarray(picture, np.uint8), header)
            yield self._message('overlay', IMAGE, overlay, record.time_ns)

    def _message(self, name: str, kind: str, message: Any, time_ns: int) -> BagMessage:
        data = bytes(self._store.serialize_cdr(message, kind))
        return BagMessage(f'{self._prefix}/{name}', kind, data, time_ns)

    def _make(self, name: str, /, **fields: Any) -> Any:
        if isinstance(fields.get('data'), bytes):
            fields['data'] = np.frombuffer(fields['data'], np.uint8)
        return self._store.types[name](**fields)


def _is_known(definitions: Definitions, kind: str) -> bool:
    try:
        definitions.require(kind)
    except UnknownType:
        return False
    return True


def write_bag(
    source: BagReader,
    folder: ReplayOutput,
    records: Iterable[Record],
    namespace: str,
    *,
    originals: bool = True,
    overlays: bool = True,
) -> list[str]:
    """Write the bag with the results; it gets its name when it is complete.

    Args:
        source: the bag that was replayed.
        folder: where the bag goes, and the overlays are.
        records: the answers, in order; an error that they raise leaves no bag.
        namespace: of the results' topics; topics of the original with the same names are replaced.
        originals: whether the original's messages are in it too.
        overlays: whether the pictures of the answers are.

    Returns:
        Remarks for a person, about what was left out.
    """
    made = ResultMessages(namespace, folder, overlays=overlays)
    remarks: list[str] = []
    damage = source.damage
    path = folder.work / folder.bag.name
    with BagWriter(path) as bag:
        copied = _add_originals(source, bag, made, remarks) if originals else set()
        for topic, kind in made.topics.items():
            bag.add_topic(topic, kind)
        originals_in_order = source.messages(copied) if copied else iter(())
        answers = (
            message for number, record in enumerate(records) for message in made.of(number, record)
        )
        for message in heapq.merge(originals_in_order, answers, key=lambda entry: entry.stamp_ns):
            bag.write(message.topic, message.data, message.stamp_ns)
    folder.place_bag(path)
    if source.damage != damage:
        remarks.append(source.damage)
    return remarks


def _add_originals(
    source: BagReader, bag: BagWriter, made: ResultMessages, remarks: list[str]
) -> set[str]:
    remarks += source.remarks
    copied = set()
    # Readers know one definition of each type; that of the results is this installation's.
    declared = made.layouts()
    for topic, kind in sorted(source.topics.items()):
        if topic in made.topics:
            remarks.append(f'The recorded {topic} is replaced; --namespace keeps both.')
            continue
        interface = source.interface_of(topic)
        layouts = layouts_of(interface.typestore, kind)
        other = [name for name, layout in layouts.items() if declared.get(name, layout) != layout]
        if other:
            remarks.append(
                f'{topic} is left out of the new bag: its {other[0]} has other fields than '
                'that of other topics in it.'
            )
            continue
        try:
            bag.add_topic(topic, kind, interface=interface, qos=source.qos_of(topic))
        except BagError as error:
            remarks.append(f'{topic} is left out of the new bag: {error}')
            continue
        declared.update(layouts)
        copied.add(topic)
    return copied
