"""Bags of every kind for the tests, written by rosbags alone: none of this package's own code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import get_typestore, Stores

from segzero_ros.simulation import make_scene
from segzero_ros.types import Frame

START = 1_700_000_000_000_000_000
STEP = 100_000_000
KINDS = (
    'mcap',
    'mcap storage',
    'mcap message',
    'mcap file',
    'sqlite3',
    'sqlite3 message',
    'sqlite3 file',
    'rosbag1',
    'rosbag1 bz2',
    'rosbag1 lz4',
)
IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
INFO = 'sensor_msgs/msg/CameraInfo'
TEXT = 'std_msgs/msg/String'


@cache
def scene_frame(seed: int) -> Frame:
    """Return a small generated table-top with depth."""
    return make_scene(seed, width=320, height=240, sentences=False).frame


class Entry(NamedTuple):
    topic: str
    type: str
    fields: dict[str, Any]
    received_ns: int


class Recording:
    """Messages to be written as a bag; stamps count from START."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        # The optical frame of what is added next.
        self.frame_id = 'camera'

    def picture(
        self,
        topic: str,
        frame: Frame,
        at_ns: int,
        *,
        encoding: str = 'rgb8',
        late_ns: int = 0,
        stamp_ns: int | None = None,
    ) -> None:
        """Add an Image; depth as 16UC1 or 32FC1, colour as rgb8, bgr8 or mono8."""
        pixels = {
            'rgb8': lambda: frame.image,
            'bgr8': lambda: frame.image[..., ::-1],
            'mono8': lambda: cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY),
            '16UC1': lambda: np.nan_to_num(frame.depth * 1000).astype(np.uint16),
            '32FC1': lambda: frame.depth,
        }[encoding]()
        height, width = pixels.shape[:2]
        data = np.ascontiguousarray(pixels).reshape(height, -1).view(np.uint8)
        fields = {
            'height': height,
            'width': width,
            'encoding': encoding,
            'is_bigendian': 0,
            'step': data.shape[1],
            'data': data.reshape(-1),
        }
        self._add(topic, IMAGE, fields, at_ns, late_ns, stamp_ns)

    def jpeg(self, topic: str, frame: Frame, at_ns: int) -> None:
        """Add a CompressedImage, as image_transport writes it."""
        bgr = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
        data = cv2.imencode('.jpg', bgr, (cv2.IMWRITE_JPEG_QUALITY, 95))[1].reshape(-1)
        self.compressed(topic, 'bgr8; jpeg compressed bgr8', data, at_ns)

    def compressed(self, topic: str, form: str, data: np.ndarray, at_ns: int) -> None:
        """Add a CompressedImage of any format."""
        self._add(topic, COMPRESSED, {'format': form, 'data': data}, at_ns, 0, None)

    def info(self, topic: str, frame: Frame, at_ns: int, late_ns: int = 0) -> None:
        """Add the frame's CameraInfo."""
        k = frame.intrinsics
        matrix = np.array([k.fx, 0, k.cx, 0, k.fy, k.cy, 0, 0, 1.0])
        fields = {
            'height': k.height,
            'width': k.width,
            'distortion_model': 'plumb_bob',
            'd': np.zeros(5),
            'k': matrix,
            'r': np.eye(3).reshape(-1),
            'p': np.insert(matrix.reshape(3, 3), 3, 0, axis=1).reshape(-1),
            'binning_x': 0,
            'binning_y': 0,
            'roi': (0, 0, 0, 0, False),
        }
        self._add(topic, INFO, fields, at_ns, late_ns, None)

    def text(self, topic: str, words: str, at_ns: int) -> None:
        """Add a String."""
        self.entries.append(Entry(topic, TEXT, {'data': words}, START + at_ns))

    def camera(self, frames: Sequence[Frame], prefix: str = '/camera', *, depth: bool = True):
        """Add colour, camera_info and then depth of every frame, STEP apart."""
        for number, frame in enumerate(frames):
            at = number * STEP
            self.picture(f'{prefix}/color/image_raw', frame, at)
            self.info(f'{prefix}/color/camera_info', frame, at, late_ns=1_000_000)
            if depth:
                topic = f'{prefix}/aligned_depth_to_color/image_raw'
                self.picture(topic, frame, at, encoding='16UC1', late_ns=5_000_000)
        return self

    def _add(self, topic, kind, fields, at_ns, late_ns, stamp_ns) -> None:
        stamp = START + at_ns if stamp_ns is None else stamp_ns
        fields = {'stamp': stamp, 'frame_id': self.frame_id, **fields}
        self.entries.append(Entry(topic, kind, fields, START + at_ns + late_ns))

    def write(self, path: Path, kind: str = 'mcap') -> Path:
        """Write the bag; return its path."""
        storage, _, how = kind.partition(' ')
        if storage == 'rosbag1':
            path = path.with_suffix('.bag')
            store, writer = get_typestore(Stores.ROS1_NOETIC), Writer1(path)
            if how:
                writer.set_compression(Writer1.CompressionFormat[how.upper()])
        else:
            store = get_typestore(Stores.ROS2_JAZZY)
            writer = Writer2(path, version=9, storage_plugin=StoragePlugin[storage.upper()])
            if how:
                writer.set_compression(CompressionMode[how.upper()], CompressionFormat.ZSTD)
        serialize = store.serialize_ros1 if storage == 'rosbag1' else store.serialize_cdr
        with writer as bag:
            connections: dict[str, Any] = {}
            for entry in sorted(self.entries, key=lambda entry: entry.received_ns):
                if entry.topic not in connections:
                    connections[entry.topic] = bag.add_connection(
                        entry.topic, entry.type, typestore=store
                    )
                message = _message(store.types, entry)
                data = serialize(message, entry.type)
                bag.write(connections[entry.topic], entry.received_ns, data)
        return path


def _message(types: dict[str, Callable[..., Any]], entry: Entry) -> Any:
    fields = dict(entry.fields)
    ros1 = 'd' not in types[INFO].__dataclass_fields__
    if 'stamp' in fields:
        stamp = types['builtin_interfaces/msg/Time'](*divmod(fields.pop('stamp'), 10**9))
        frame_id = fields.pop('frame_id')
        head = (7, stamp, frame_id) if ros1 else (stamp, frame_id)
        fields['header'] = types['std_msgs/msg/Header'](*head)
    if 'roi' in fields:
        fields['roi'] = types['sensor_msgs/msg/RegionOfInterest'](*fields['roi'])
    if ros1:
        fields = {key.upper() if key in 'dkrp' else key: value for key, value in fields.items()}
    return types[entry.type](**fields)
