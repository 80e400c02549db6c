"""Transforms are read from the bytes of a TFMessage as an independent library writes them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest

stores = pytest.importorskip('rosbags.typesys')

from segzero_ros.conversions.transforms import BadTransforms, read_transforms, to_transforms
from segzero_ros.spatial.transforms import StampedTransform, Transform

STORE = stores.get_typestore(stores.Stores.ROS2_JAZZY)
TYPE = 'tf2_msgs/msg/TFMessage'


def make(name: str, /, **fields: Any) -> Any:
    return STORE.types[name](**fields)


def stamped(parent: str, child: str, stamp_ns: int = 1_790_000_000_123_456_789) -> Any:
    transform = Transform((0.1, -2.0, 3e7), (0.5, -0.5, 0.5, -0.5))
    return StampedTransform(parent, child, stamp_ns, transform)


def written(*transforms: Any, little_endian: bool = True) -> bytes:
    message = to_transforms(make, list(transforms))
    return bytes(STORE.serialize_cdr(message, TYPE, little_endian=little_endian))


@pytest.mark.parametrize('little_endian', [True, False])
@pytest.mark.parametrize('count', [0, 1, 2, 40])
def test_what_was_written_is_read(count: int, little_endian: bool) -> None:
    # Names of every length, for every alignment of what follows them.
    names = [('p' * (number % 9 + 1), 'c' * (number % 7 + 1)) for number in range(count)]
    wanted = [stamped(*pair, number) for number, pair in enumerate(names)]
    assert read_transforms(written(*wanted, little_endian=little_endian)) == wanted


@pytest.mark.parametrize(
    ('parent', 'child'), [('base', 'über'), ('über', ''), ('', 'base'), ('', '')]
)
def test_names_are_utf_8_and_may_be_empty(parent: str, child: str) -> None:
    assert read_transforms(written(stamped(parent, child))) == [stamped(parent, child)]


def test_a_leading_slash_is_no_part_of_a_name() -> None:
    (found,) = read_transforms(written(stamped('/map', '/robot/base')))
    assert (found.parent, found.child) == ('map', 'robot/base')


def test_no_prefix_of_a_message_is_read_as_another_one() -> None:
    whole = written(stamped('odom', 'base_link'), stamped('base_link', 'camera'))
    for size in range(len(whole)):
        with pytest.raises(BadTransforms, match=f'{size} bytes'):
            read_transforms(whole[:size])


def test_any_bytes_are_refused_in_words() -> None:
    random = np.random.default_rng(5)
    whole = np.frombuffer(written(stamped('odom', 'base_link')), np.uint8)
    for _ in range(2000):
        changed = whole.copy()
        changed[random.integers(0, len(whole), 3)] = random.integers(0, 256, 3)
        with suppress(BadTransforms):
            read_transforms(changed.tobytes())


def test_a_message_holds_what_it_was_made_of() -> None:
    message = to_transforms(make, [stamped('eye', 'segzero_object_1')])
    (found,) = message.transforms
    assert (found.header.frame_id, found.child_frame_id) == ('eye', 'segzero_object_1')
    assert (found.header.stamp.sec, found.header.stamp.nanosec) == (1_790_000_000, 123_456_789)
    shift, turn = found.transform.translation, found.transform.rotation
    assert (shift.x, shift.y, shift.z) == (0.1, -2.0, 3e7)
    assert (turn.x, turn.y, turn.z, turn.w) == (0.5, -0.5, 0.5, -0.5)
