"""Answers survive the wire, and whatever a model writes can be put on it."""

from __future__ import annotations

from array import array
import math
from typing import Any

from hypothesis import given, settings, strategies
import numpy as np
import pytest

pytest.importorskip('rclpy')

from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import String

from segzero_ros.conversions.image import decode_image
from segzero_ros.msg import SegmentationResult
from segzero_ros.ros.message_factory import (
    answer_from,
    clean_text,
    filled,
    label_image,
    mask_from,
    rgb_image,
    to_ns,
    to_result,
    to_time,
)
from segzero_ros.types import (
    Answer,
    BadImage,
    Frame,
    Pose3D,
    PoseStatus,
    Query,
    Roi,
    Segment,
    Status,
    Timing,
)

HEIGHT, WIDTH = 30, 50
STAMP = 1_700_000_000_123_456_789
TEXTS = ('query_id', 'query', 'message', 'reasoning', 'raw_answer', 'reasoner', 'segmenter')


def blob(height: int, width: int, seed: int) -> Any:
    mask = np.random.default_rng(seed).random((height, width)) > 0.4
    mask[0, 0] = mask[-1, -1] = True
    return mask


def answer(**changes: Any) -> Answer:
    """Return an answer with a posed object, one without a score, and one with an empty mask."""
    cup = Segment(
        id=1,
        label='the red cup',
        score=0.875,
        box=Roi(3, 4, 20, 10),
        points=((10.5, 8.25), (12.0, 9.0)),
        mask_roi=Roi(4, 5, 17, 9),
        mask=blob(9, 17, 1),
        pose=Pose3D((0.1, -0.2, 1.5), (0.0, 0.6, 0.0, 0.8), (0.08, 0.1, 0.09)),
        pose_status=PoseStatus.POSE_OK,
    )
    plate = Segment(
        id=2,
        label='',
        score=math.nan,
        box=Roi(10, 2, 40, 28),
        points=(),
        mask_roi=Roi(10, 2, 40, 28),
        mask=np.ones((28, 40), np.bool_),
        pose_status=PoseStatus.DEPTH_TOO_SPARSE,
    )
    nothing = Segment(
        id=7,
        label='crumb',
        score=0.0,
        box=Roi(0, 0, 1, 1),
        points=(),
        mask_roi=Roi(0, 0, 0, 0),
        mask=np.zeros((0, 0), np.bool_),
        pose_status=PoseStatus.NO_INTRINSICS,
    )
    fields: dict[str, Any] = {
        'query': Query('the red cup on the plate — 紅杯', 'q-17'),
        'status': Status.OK,
        'message': '1 of 4 boxes dropped.',
        'frame': Frame(
            np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8),
            STAMP,
            'camera_optical_frame',
        ),
        'reasoning': 'It is red.\nIt is on the plate.',
        'raw_answer': '<think>It is red.</think>',
        'segments': (cup, plate, nothing),
        'reasoner': 'attributes',
        'segmenter': 'grabcut',
        'timing': Timing(0.25, 1.5, 0.5, 0.125, 2.0, 0.0625, 117),
    }
    return Answer(**{**fields, **changes})


def over_the_wire(message: Any) -> Any:
    return deserialize_message(serialize_message(message), type(message))


def test_an_answer_survives_the_wire() -> None:
    sent = answer()
    received = answer_from(over_the_wire(to_result(sent)), sent.frame)
    for name in ('query', 'status', 'message', 'frame', 'reasoning', 'raw_answer', 'timing'):
        assert getattr(received, name) == getattr(sent, name)
    assert (received.reasoner, received.segmenter) == ('attributes', 'grabcut')
    assert len(received.segments) == 3
    for one, other in zip(sent.segments, received.segments, strict=True):
        assert (one.id, one.label, one.box, one.mask_roi) == (
            other.id,
            other.label,
            other.box,
            other.mask_roi,
        )
        assert (one.points, one.pose, one.pose_status) == (
            other.points,
            other.pose,
            other.pose_status,
        )
        assert one.score == other.score or (math.isnan(one.score) and math.isnan(other.score))
        assert other.mask.dtype == np.bool_
        assert np.array_equal(one.mask, other.mask)


def test_everything_carries_the_header_of_the_frame() -> None:
    result = to_result(answer())
    messages = [result, label_image(answer()), *(found.mask for found in result.objects)]
    for message in messages:
        assert to_ns(message.header.stamp) == STAMP
        assert message.header.frame_id == 'camera_optical_frame'
    assert (result.image_height, result.image_width) == (HEIGHT, WIDTH)


def test_a_mask_is_mono8_of_the_size_of_its_region() -> None:
    found = over_the_wire(to_result(answer())).objects[0]
    assert (found.mask_roi.x_offset, found.mask_roi.y_offset) == (4, 5)
    assert (found.mask.height, found.mask.width, found.mask.step) == (9, 17, 17)
    assert found.mask.encoding == 'mono8'
    pixels = np.frombuffer(found.mask.data, np.uint8).reshape(9, 17)
    assert np.array_equal(pixels, np.where(blob(9, 17, 1), 255, 0))


def test_an_answer_without_a_frame_or_objects_is_a_result() -> None:
    bare = answer(frame=None, segments=(), status=Status.NO_IMAGE, message='No image came yet.')
    result = over_the_wire(to_result(bare))
    assert result.status == SegmentationResult.NO_IMAGE
    assert to_ns(result.header.stamp) == 0
    assert result.header.frame_id == ''
    assert (result.image_height, result.image_width, list(result.objects)) == (0, 0, [])
    assert answer_from(result).frame is None


def test_an_unknown_age_of_the_frame_stays_unknown() -> None:
    timing = answer_from(over_the_wire(to_result(answer(timing=Timing())))).timing
    assert math.isnan(timing.frame_age)


@pytest.mark.parametrize('status', Status)
def test_every_status_has_its_number(status: Status) -> None:
    result = to_result(answer(status=status))
    assert result.status == getattr(SegmentationResult, status.name)
    assert answer_from(result).status is status


def test_the_better_object_has_the_pixel_where_masks_overlap() -> None:
    sent = answer()
    message = over_the_wire(label_image(sent))
    assert (message.encoding, message.step) == ('mono16', 2 * WIDTH)
    labels = np.frombuffer(message.data, '>u2' if message.is_bigendian else '<u2')
    labels = labels.reshape(HEIGHT, WIDTH)
    cup, plate = (segment.full_mask(HEIGHT, WIDTH) for segment in sent.segments[:2])
    assert (cup & plate).any()
    assert np.array_equal(labels == 1, cup)
    assert np.array_equal(labels == 2, plate & ~cup)
    assert set(np.unique(labels)) == {0, 1, 2}


def test_a_picture_survives_the_wire() -> None:
    picture = answer().frame.image[:, ::-1]
    message = over_the_wire(rgb_image(picture, to_result(answer()).header))
    assert np.array_equal(decode_image(message), picture)


@pytest.mark.parametrize('stamp_ns', [0, 1, 999_999_999, 1_000_000_000, STAMP, -1, -1_500_000_000])
def test_stamps_survive_both_ways(stamp_ns: int) -> None:
    time = to_time(stamp_ns)
    assert 0 <= time.nanosec < 1_000_000_000
    assert to_ns(over_the_wire(time)) == stamp_ns


ANY_TEXT = strategies.text(strategies.characters(exclude_categories=()))


@settings(max_examples=200, deadline=None)
@given(text=ANY_TEXT)
def test_any_text_can_be_put_on_the_wire(text: str) -> None:
    cleaned = clean_text(text)
    assert over_the_wire(String(data=cleaned)).data == cleaned
    if '\0' not in text and text.isprintable():
        assert cleaned == text


def test_every_text_of_a_result_is_cleaned() -> None:
    bad = 'x\0\ud800'
    wild = answer(
        query=Query(bad, bad),
        frame=Frame(np.zeros((HEIGHT, WIDTH, 3), np.uint8), 0, bad),
        message=bad,
        reasoning=bad,
        raw_answer=bad,
        reasoner=bad,
        segmenter=bad,
        segments=(Segment(1, bad, 0.5, Roi(0, 0, 1, 1), (), Roi(0, 0, 1, 1), blob(1, 1, 0)),),
    )
    result = over_the_wire(to_result(wild))
    for text in (*(getattr(result, name) for name in TEXTS), result.header.frame_id):
        assert text == 'x\ufffd\ufffd'
    assert result.objects[0].label == 'x\ufffd\ufffd'


def broken(**fields: Any) -> Any:
    found = to_result(answer()).objects[0]
    for name, value in fields.items():
        setattr(found.mask, name, value)
    return found


@pytest.mark.parametrize(
    ('found', 'sentence'),
    [
        (broken(height=8), 'object 1 must be mono8 of 17x9 .* is mono8 of 17x8'),
        (broken(encoding='rgb8'), 'is rgb8 of'),
        (broken(encoding=''), 'is empty of'),
        (broken(step=16), 'step 16'),
        (broken(data=bytes(152)), '152 bytes'),
    ],
)
def test_a_broken_mask_is_refused(found: Any, sentence: str) -> None:
    with pytest.raises(BadImage, match=sentence):
        mask_from(found)


def test_a_mask_with_padded_rows_is_read() -> None:
    rows = np.pad(blob(9, 17, 1).astype(np.uint8) * 255, ((0, 0), (0, 3)), constant_values=255)
    assert np.array_equal(mask_from(broken(step=20, data=rows.tobytes())), blob(9, 17, 1))


def test_a_result_about_another_picture_is_refused() -> None:
    result = to_result(answer())
    other = Frame(np.zeros((HEIGHT, WIDTH + 1, 3), np.uint8))
    with pytest.raises(BadImage, match='about an image of 50x30 pixels, but the frame has 51x30'):
        answer_from(result, other)


def test_a_mask_that_reaches_out_of_the_image_is_refused() -> None:
    result = to_result(answer())
    result.objects[0].mask_roi.x_offset = WIDTH - 16
    with pytest.raises(BadImage, match='exceeds the image of 50x30'):
        answer_from(result)


def test_labels_of_no_image_are_refused() -> None:
    with pytest.raises(BadImage, match="'q-17' has no image"):
        label_image(answer(frame=None))


def test_a_message_takes_an_array_of_bytes_without_copying_it() -> None:
    data = array('B', bytes(range(12)))
    image = filled(Image, {'height': 2, 'width': 2, 'data': data})
    assert image.data is data
    assert filled(Image, {'data': bytes(3)}).data == array('B', bytes(3))
    assert filled(String, {'data': 'text'}).data == 'text'
