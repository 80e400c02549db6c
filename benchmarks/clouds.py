"""Time of an answer's clouds, beside those of sensor_msgs_py.

Run `python -m benchmarks.clouds --rounds 30` where ROS's package sensor_msgs_py is importable: it
is part of a ROS installation and not among the wheels (`--without-peer` measures ours alone).

A generated scene is enlarged to 1280x720. Alternately, `points` and `object_points` of an answer
about its first objects are made as the node makes them, and with `create_cloud` from NumPy arrays,
of the same points and ids. Both start with depth, picture and masks and end with two messages.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import time
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table
from std_msgs.msg import Header

from benchmarks.machine import processor
from segzero_ros.conversions.point_cloud import PointPacker
from segzero_ros.ros.perception import display_messages
from segzero_ros.simulation.scenes import make_scene
from segzero_ros.spatial.clouds import cloud_of
from segzero_ros.types import Answer, Frame, Intrinsics, Query, Roi, Segment, Status

WIDTH, HEIGHT = 1280, 720
WARM_UP = 3


def enlarged(seed: int, objects: int) -> tuple[Frame, tuple[Segment, ...]]:
    """Return a scene's frame in 1280x720 and its first objects with their true masks."""
    scene = make_scene(seed, sentences=False)
    scale = WIDTH / scene.frame.width
    top = round((scene.frame.height * scale - HEIGHT) / 2)

    def resize(image: np.ndarray[Any, Any], way: int) -> np.ndarray[Any, Any]:
        larger = cv2.resize(image, None, fx=scale, fy=scale, interpolation=way)
        return np.ascontiguousarray(larger[top : top + HEIGHT])

    k, depth = scene.frame.intrinsics, scene.frame.depth
    assert k is not None
    assert depth is not None
    middle = (scale - 1) / 2
    intrinsics = Intrinsics(
        k.fx * scale,
        k.fy * scale,
        k.cx * scale + middle,
        k.cy * scale + middle - top,
        WIDTH,
        HEIGHT,
    )
    frame = Frame(
        resize(scene.frame.image, cv2.INTER_LINEAR),
        0,
        'camera',
        resize(depth, cv2.INTER_NEAREST),
        intrinsics,
    )
    segments = []
    for number in range(1, objects + 1):
        mask = resize(scene.mask(number - 1).astype(np.uint8), cv2.INTER_NEAREST) > 0
        roi = Roi.around(mask)
        segments.append(Segment(number, '', 1.0, roi, (), roi, mask[roi.slices].copy()))
    return frame, tuple(segments)


def peer(frame: Frame, ids: np.ndarray[Any, Any]) -> tuple[Any, Any]:
    """Return both clouds by sensor_msgs_py."""
    from sensor_msgs.msg import PointField
    from sensor_msgs_py.point_cloud2 import create_cloud

    names = ('x', 'y', 'z', 'rgb', 'object')
    fields = [
        PointField(name=name, offset=4 * number, datatype=PointField.FLOAT32, count=1)
        for number, name in enumerate(names)
    ]
    fields[-1].datatype = PointField.UINT16
    offsets = [field.offset for field in fields]
    kind = np.dtype(
        {'names': names, 'formats': ['f4'] * 4 + ['u2'], 'offsets': offsets, 'itemsize': 20}
    )
    depth, k = frame.depth, frame.intrinsics
    assert depth is not None
    assert k is not None
    rows, columns = np.indices(depth.shape)
    points = np.zeros(depth.shape, kind)
    points['z'] = np.where(depth > 0, depth, np.nan)
    points['x'] = (columns - k.cx) / k.fx * points['z']
    points['y'] = (rows - k.cy) / k.fy * points['z']
    rgb = frame.image.astype(np.uint32)
    points['rgb'] = (rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]).view(np.float32)
    points['object'] = ids
    # An organised cloud is not made: `create_cloud` takes an array's first axis as the width.
    whole = create_cloud(Header(), fields, points.reshape(-1), 20)
    whole.height, whole.width, whole.row_step = HEIGHT, WIDTH, 20 * WIDTH
    return whole, create_cloud(Header(), fields, points[ids > 0], 20)


def timed(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each way, alternately."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(WARM_UP + rounds):
        for name, run in ways.items():
            started = time.perf_counter()
            run()
            if number >= WARM_UP:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=30)
    parser.add_argument('--seed', type=int, default=200001)
    parser.add_argument('--objects', type=int, default=2)
    parser.add_argument('--without-peer', action='store_true')
    options = parser.parse_args()
    frame, segments = enlarged(options.seed, options.objects)
    packer = PointPacker()

    def ours(organised: bool = True) -> list[Any]:
        answer = Answer(Query('all'), Status.OK, frame=frame, segments=segments)
        cloud = cloud_of(frame, segments)
        assert cloud is not None
        made = packer.pack(cloud, frame.image, organised=organised, objects=True)
        return [display_messages.cloud(answer, each, is_dense=False) for each in made if each]

    cloud = cloud_of(frame, segments)
    assert cloud is not None
    ways: dict[str, Callable[[], Any]] = {
        'both clouds': ours,
        'object_points alone': lambda: ours(organised=False),
    }
    if not options.without_peer:
        # The ids are given to the peer: it has no way to find flying pixels.
        ways['sensor_msgs_py'] = lambda: peer(frame, cloud.object_ids)
        for mine, other in zip(ours(), peer(frame, cloud.object_ids), strict=True):
            ours_xyz, peer_xyz = (
                np.frombuffer(each.data, np.float32).reshape(-1, 5)[:, :3]
                for each in (mine, other)
            )
            np.testing.assert_allclose(ours_xyz, peer_xyz, atol=1e-6)
    seconds = timed(ways, options.rounds)
    table = Table('way', 'p50', 'p95')
    for name, values in seconds.items():
        table.add_row(name, *(f'{1000 * np.percentile(values, q):.1f} ms' for q in (50, 95)))
    console = Console()
    points = np.count_nonzero(cloud.object_ids)
    console.print(f'{processor()}, {options.objects} objects, {points} points of objects')
    console.print(table)


if __name__ == '__main__':
    main()
