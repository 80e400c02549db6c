"""Output bag of a replay: the original messages and the results, ordered by time."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
import heapq
from typing import Any

import cv2
import numpy as np
from rosbags.typesys.store import Typestore

from segzero_ros.conversions import detections, label_images, markers, point_cloud, result
from segzero_ros.conversions.text import clean_text
from segzero_ros.replay.bag import (
    BagError,
    BagMessage,
    BagReader,
    BagWriter,
    Definitions,
    UnknownType,
)
from segzero_ros.replay.cloud_files import CloudFiles
from segzero_ros.replay.definitions import layouts_of
from segzero_ros.replay.output import ReplayOutput
from segzero_ros.replay.overlay_files import OverlayFiles
from segzero_ros.replay.records import Record, WITH_DISPLAYS, with_frame
from segzero_ros.replay.topics import IMAGE, RESULT, TEXT
from segzero_ros.types import Answer, Frame

# As in the node, detections need vision_msgs.
_DISPLAYS: dict[str, tuple[str, Callable[[result.Make, Answer], Any]]] = {
    'markers': (markers.MARKERS, markers.markers),
    'detections': (detections.DETECTIONS, detections.detections),
    'detections_3d': (detections.DETECTIONS_3D, detections.detections_3d),
}

_CLOUDS = ('points', 'object_points')


class ResultMessages:
    """Converts answers to serialized messages on the node's topics."""

    def __init__(
        self, namespace: str, folder: ReplayOutput, *, overlays: bool, clouds: bool
    ) -> None:
        self._prefix = namespace.rstrip('/')
        self._overlays = OverlayFiles(folder) if overlays else None
        self._clouds = CloudFiles(folder) if clouds else None
        definitions = Definitions()
        self._store: Typestore = definitions.require(RESULT)
        self._displays = {
            name: (kind, make)
            for name, (kind, make) in _DISPLAYS.items()
            if _is_installed(definitions, kind)
        }

    @property
    def topics(self) -> dict[str, str]:
        """The types of the topics."""
        types = {'result': RESULT, 'reasoning': TEXT, 'label_image': IMAGE}
        types.update((name, kind) for name, (kind, _) in self._displays.items())
        if self._overlays:
            types['overlay'] = IMAGE
        if self._clouds:
            types |= dict.fromkeys(_CLOUDS, point_cloud.CLOUD)
        return {f'{self._prefix}/{name}': kind for name, kind in types.items()}

    def layouts(self) -> dict[str, tuple[Any, ...]]:
        """Return the layouts of all types and their nested types."""
        kinds = self.topics.values()
        return {k: v for kind in kinds for k, v in layouts_of(self._store, kind).items()}

    def of(self, number: int, record: Record) -> Iterator[BagMessage]:
        """Yield the messages of an answer, by its number from 0."""
        # Only the image's size, stamp and frame are needed, not its pixels.
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
        if answer.frame is None or answer.status not in WITH_DISPLAYS:
            return
        labels = label_images.label_image(self._make, answer)
        yield self._message('label_image', IMAGE, labels, record.time_ns)
        for name, (kind, fill) in self._displays.items():
            yield self._message(name, kind, fill(self._make, answer), record.time_ns)
        if self._overlays is not None:
            image = cv2.cvtColor(self._overlays.read(number), cv2.COLOR_BGR2RGB)
            header = result.header_of(self._make, answer)
            overlay = result.rgb_image(self._make, np.asarray(image, np.uint8), header)
            yield self._message('overlay', IMAGE, overlay, record.time_ns)
        if self._clouds is not None and (clouds := self._clouds.read(number)) is not None:
            header = result.header_of(self._make, answer)
            for name, packed in zip(_CLOUDS, clouds, strict=True):
                dense = name == 'object_points'
                cloud = point_cloud.cloud_message(self._make, header, packed, is_dense=dense)
                yield self._message(name, point_cloud.CLOUD, cloud, record.time_ns)

    def _message(self, name: str, kind: str, message: Any, time_ns: int) -> BagMessage:
        data = bytes(self._store.serialize_cdr(message, kind))
        return BagMessage(f'{self._prefix}/{name}', kind, data, time_ns)

    def _make(self, name: str, /, **fields: Any) -> Any:
        if isinstance(fields.get('data'), (bytes, array)):
            fields['data'] = np.frombuffer(fields['data'], np.uint8)
        return self._store.types[name](**fields)


def _is_installed(definitions: Definitions, kind: str) -> bool:
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
    clouds: bool = False,
) -> list[str]:
    """Write the bag with the results; it is moved to its final path when it is complete.

    Args:
        source: the replayed bag.
        folder: of the replay.
        records: the answers, in order; after an exception from them there is no bag.
        namespace: of the result topics; original topics of the same names are replaced.
        originals: whether to copy the original messages.
        overlays: whether to write the overlays.
        clouds: whether to write the clouds.

    Returns:
        Warnings about topics that were not copied.
    """
    results = ResultMessages(namespace, folder, overlays=overlays, clouds=clouds)
    warnings: list[str] = []
    damage = source.damage
    path = folder.work / folder.bag.name
    with BagWriter(path) as bag:
        copied = _add_originals(source, bag, results, warnings) if originals else set()
        for topic, kind in results.topics.items():
            bag.add_topic(topic, kind)
        originals_in_order = source.messages(copied) if copied else iter(())
        answers = (
            message
            for number, record in enumerate(records)
            for message in results.of(number, record)
        )
        for message in heapq.merge(originals_in_order, answers, key=lambda entry: entry.stamp_ns):
            bag.write(message.topic, message.data, message.stamp_ns)
    folder.move_bag(path)
    if source.damage != damage:
        warnings.append(source.damage)
    return warnings


def _add_originals(
    source: BagReader, bag: BagWriter, results: ResultMessages, warnings: list[str]
) -> set[str]:
    warnings += source.warnings
    copied = set()
    # A bag has one definition of each type; for the results it is the installed one.
    declared = results.layouts()
    for topic, kind in sorted(source.topics.items()):
        if topic in results.topics:
            warnings.append(f'The recorded {topic} is replaced; use --namespace to keep both.')
            continue
        interface = source.interface_of(topic)
        layouts = layouts_of(interface.typestore, kind)
        other = [name for name, layout in layouts.items() if declared.get(name, layout) != layout]
        if other:
            warnings.append(
                f'{topic} is not copied to the new bag: its {other[0]} has other fields than on '
                'other topics.'
            )
            continue
        try:
            bag.add_topic(topic, kind, interface=interface, qos=source.qos_of(topic))
        except BagError as error:
            warnings.append(f'{topic} is not copied to the new bag: {error}')
            continue
        declared.update(layouts)
        copied.add(topic)
    return copied
