"""The picture of an answer shows every part of it, at every size, in every script."""

from __future__ import annotations

from itertools import combinations
import math

import cv2
import numpy as np
import pytest

from segzero_ros import text_drawing
from segzero_ros.overlay import draw_overlay
from segzero_ros.overlay_layout import object_colour, project_box, readable_on
from segzero_ros.types import (
    Answer,
    Frame,
    Intrinsics,
    Pose3D,
    PoseStatus,
    Query,
    RgbImage,
    Roi,
    Segment,
    Status,
    Timing,
)

# Machado, Oliveira and Fernandes (2009), severity 1.0: how linear RGB is seen.
SEEN_BY = {
    'protanopia': ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)),
    'deuteranopia': ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)),
    'tritanopia': ((1.256, -0.077, -0.179), (-0.078, 0.931, 0.148), (0.005, 0.691, 0.304)),
}


def grey(height: int = 480, width: int = 640) -> RgbImage:
    return np.full((height, width, 3), 120, np.uint8)


BOX = Roi(200, 150, 120, 90)


def segment(number: int = 1, box: Roi = BOX, **changes: object) -> Segment:
    values: dict[str, object] = {
        'id': number,
        'label': 'red cup',
        'score': 0.9,
        'box': box,
        'points': ((box.x + box.width / 2, box.y + box.height / 2),),
        'mask_roi': box,
        'mask': np.ones((box.height, box.width), np.bool_),
    }
    return Segment(**{**values, **changes})  # type: ignore[arg-type]


def answer(
    image: RgbImage | None = None,
    segments: tuple[Segment, ...] = (),
    status: Status = Status.OK,
    query: str = 'the red cup',
    message: str = '',
    reasoning: str = '',
    intrinsics: Intrinsics | None = None,
) -> Answer:
    frame = Frame(grey() if image is None else image, intrinsics=intrinsics)
    return Answer(
        Query(query, 'q'),
        status,
        message,
        frame,
        reasoning,
        '',
        segments,
        timing=Timing(total=0.042),
    )


def lightness_ab(colour: tuple[int, int, int], seen: object = None) -> np.ndarray:
    channels = np.asarray(colour, np.float64) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    if seen is not None:
        linear = np.clip(np.asarray(seen) @ linear, 0, 1)
    back = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return cv2.cvtColor(back.astype(np.float32).reshape(1, 1, 3), cv2.COLOR_RGB2LAB)[0, 0]


@pytest.mark.parametrize('seen', [None, *SEEN_BY.values()], ids=['everybody', *SEEN_BY])
def test_the_first_seven_colours_are_told_apart_with_any_colour_blindness(seen: object) -> None:
    shades = [lightness_ab(object_colour(number), seen) for number in range(1, 8)]
    assert min(np.linalg.norm(a - b) for a, b in combinations(shades, 2)) > 8


def test_ids_have_distinct_colours_and_any_id_has_one() -> None:
    assert len({object_colour(number) for number in range(1, 22)}) == 21
    assert object_colour(65535) == object_colour(65535)


@pytest.mark.parametrize('number', range(1, 22))
def test_the_text_on_a_chip_has_the_contrast_that_wcag_asks_for(number: int) -> None:
    def luminance(colour: tuple[int, int, int]) -> float:
        channels = np.asarray(colour) / 255
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        return float(linear @ (0.2126, 0.7152, 0.0722))

    colour = object_colour(number)
    dark, bright = sorted((luminance(colour), luminance(readable_on(colour))))
    assert (bright + 0.05) / (dark + 0.05) >= 4.5


def test_the_mask_is_tinted_the_rest_is_dimmed_and_the_frame_is_left_alone() -> None:
    given = answer(segments=(segment(),))
    picture = draw_overlay(given)
    assert (given.frame is not None) and (given.frame.image == 120).all()
    inside, outside = picture[175, 230].astype(int), picture[400, 40].astype(int)
    towards = np.asarray(object_colour(1)) - 120
    assert (np.sign(inside - 120) == np.sign(towards)).all()
    assert (outside < 100).all()


def test_the_picture_is_the_image_when_nothing_was_found() -> None:
    picture = draw_overlay(answer(status=Status.NOT_FOUND, message='Nothing is red.'))
    assert (picture[:480] == 120).all()
    assert picture.shape[0] > 480
    assert picture.shape[1] == 640


def test_each_object_is_drawn_in_its_own_colour_with_box_point_and_chip() -> None:
    boxes = (Roi(60, 200, 100, 80), Roi(360, 200, 100, 80))
    small = [Roi(box.x + 40, box.y + 30, 20, 20) for box in boxes]
    disc = np.ones((20, 20), np.bool_)
    objects = tuple(
        segment(number, box, mask_roi=roi, mask=disc)
        for number, (box, roi) in enumerate(zip(boxes, small, strict=True), start=1)
    )
    picture = draw_overlay(answer(segments=objects))
    for number, box in enumerate(boxes, start=1):
        drawn = (picture[:480] == object_colour(number)).all(axis=-1)
        centre = drawn[236:245, box.x + 46 : box.x + 55]
        corner = drawn[box.y + box.height - 3 : box.y + box.height + 2, box.x : box.x + 10]
        chip = drawn[box.y - 22 : box.y - 4, box.x : box.x + 60]
        assert centre.sum() > 9
        assert corner.sum() >= 10
        assert chip.mean() > 0.4
        other = boxes[2 - number]
        assert not drawn[other.slices].any()


def test_holes_of_a_mask_stay_untinted_and_an_empty_mask_is_drawn_as_its_box() -> None:
    ring = np.ones((90, 120), np.bool_)
    ring[20:70, 10:40] = False
    picture = draw_overlay(answer(segments=(segment(mask=ring),)))
    assert (np.ptp(picture[190, 225]) == 0) and picture[190, 225, 0] < 120
    rim = (picture[165:175, 215:235] == object_colour(1)).all(axis=-1)
    assert rim.sum() >= 20
    empty = segment(mask=np.zeros((0, 0), np.bool_), mask_roi=Roi(0, 0, 0, 0))
    picture = draw_overlay(answer(segments=(empty,)))
    assert (picture[190, 225] == 120).all()
    assert (picture[150:153, 200:210] == object_colour(1)).all(axis=-1).any()


def test_a_pose_is_written_on_the_chip() -> None:
    pose = Pose3D((0.12, -0.3, 1.204), (0.0, 0.0, 0.0, 1.0), (0.1, 0.1, 0.1))
    flat = draw_overlay(answer(segments=(segment(),)))
    lifted = draw_overlay(answer(segments=(segment(pose=pose, pose_status=PoseStatus.POSE_OK),)))
    area = [
        int((picture[:150] == object_colour(1)).all(axis=-1).sum()) for picture in (flat, lifted)
    ]
    assert area[1] > 2 * area[0]


@pytest.mark.parametrize(
    'size', [(1, 1), (48, 64), (240, 320), (480, 640), (1080, 1920), (2160, 3840), (400, 30)]
)
def test_sizes_of_text_and_lines_follow_the_image(size: tuple[int, int]) -> None:
    height, width = size
    box = Roi(width // 4, height // 4, max(1, width // 2), max(1, height // 2))
    picture = draw_overlay(answer(grey(height, width), (segment(box=box),)))
    scale = picture.shape[1] // width
    assert picture.shape[1] == width * scale >= 480
    assert picture.dtype == np.uint8
    strip = picture[height * scale :]
    # The strip is a tenth to a third of a 4:3 or 16:9 picture: readable, and no more.
    if height >= 240 and width >= 320:
        assert 0.07 < strip.shape[0] / (height * scale) < 0.35
    assert (strip.max(axis=-1) > 200).any()


def test_chips_do_not_cover_each_other_where_there_is_room() -> None:
    together = tuple(segment(number, Roi(300, 220, 60, 40)) for number in range(1, 5))
    picture = draw_overlay(answer(segments=together))
    chip = [int((picture[:480] == object_colour(n)).all(axis=-1).sum()) for n in range(1, 5)]
    assert min(chip) > 700


def test_objects_at_the_borders_and_in_crowds_are_drawn() -> None:
    borders = (Roi(0, 0, 5, 5), Roi(635, 475, 5, 5), Roi(0, 0, 640, 480))
    crowd = [segment(i, box) for i, box in enumerate(borders, start=1)]
    crowd += [segment(4 + i, Roi(10 + 15 * i, 200, 12, 12), label='ball') for i in range(40)]
    assert draw_overlay(answer(segments=tuple(crowd))).shape[1] == 640


def caption(text: str) -> RgbImage:
    return draw_overlay(answer(query=text))[480:]


def test_letters_beyond_ascii_are_drawn_as_themselves_not_as_question_marks() -> None:
    for text in ('größte Tasse', '红色的杯子', 'красная чашка', '赤いカップ'):
        marks = ''.join(letter if letter.isascii() else '?' for letter in text)
        assert not np.array_equal(caption(text), caption(marks))


def test_without_the_fonts_of_opencv_5_letters_are_spelled_in_ascii(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert text_drawing.plain('größte Tasse — “café” ≥ 5') == 'grosste Tasse - "cafe" >= 5'
    assert '?' not in text_drawing.plain('红色的杯子')
    monkeypatch.delattr(cv2, 'FontFace', raising=False)
    old = caption('größte Tasse')
    assert (old.max(axis=-1) > 200).sum() > 200
    assert np.array_equal(old, caption('grosste Tasse'))


def test_a_long_caption_is_wrapped_to_the_width_and_ends_in_an_ellipsis() -> None:
    letters = text_drawing.TextDrawing()
    text = 'a long story about cups ' * 40 + 'x' * 300
    lines = letters.wrap(text, 16, 300, 3)
    assert len(lines) == 3
    assert lines[-1].endswith('…')
    assert all(letters.width(line, 16) <= 300 for line in lines)
    assert letters.wrap('Wort' * 60, 16, 300, 20)[0].startswith('WortWort')
    assert letters.wrap('', 16, 300, 3) == []
    joined = ' '.join(letters.wrap('one two three four five six seven eight', 16, 100, 9))
    assert joined == 'one two three four five six seven eight'


def test_the_caption_shows_query_message_and_reasoning() -> None:
    heights = [
        draw_overlay(answer(message=message, reasoning=reasoning)).shape[0]
        for message, reasoning in (('', ''), ('Two boxes dropped.', ''), ('Two.', 'Red is there.'))
    ]
    assert heights == sorted(set(heights))
    said = 'I do not know the word "cup".'
    once, twice = (draw_overlay(answer(message=said, reasoning=text)) for text in ('', said))
    assert np.array_equal(once, twice)
    assert not np.array_equal(caption('the red cup'), caption('the blue cup'))
    assert np.array_equal(caption('the red\n\tcup '), caption('the red cup'))


def test_the_status_is_shown_in_a_colour_of_its_kind() -> None:
    pills = []
    for status in (Status.OK, Status.NOT_FOUND, Status.ERROR):
        corner = draw_overlay(answer(status=status))[480:510, 540:].reshape(-1, 3)
        colours, counts = np.unique(corner, axis=0, return_counts=True)
        pills.append(tuple(colours[np.argsort(counts)[-2]]))
    assert len(set(pills)) == 3


def test_an_answer_without_a_frame_is_a_picture_that_says_so() -> None:
    missing = Answer(Query('the red cup'), Status.NO_IMAGE, 'No image has arrived on /image.')
    picture = draw_overlay(missing)
    assert picture.shape[1] >= 480
    assert (picture.max(axis=-1) > 200).sum() > 100


CAMERA = Intrinsics(500.0, 500.0, 319.5, 239.5, 640, 480)
# A quarter turn about the optical axis.
TURNED = (0.0, 0.0, math.sqrt(0.5), math.sqrt(0.5))


def test_a_box_in_space_is_projected_as_the_pinhole_camera_sees_it() -> None:
    pose = Pose3D((0.1, 0.0, 2.0), TURNED, (0.2, 0.4, 1.0))
    found = project_box(pose, CAMERA)
    expected = {
        (round(319.5 + 500 * (0.1 + x) / (2 + z), 3), round(239.5 + 500 * y / (2 + z), 3), 2 + z)
        # Turned by 90°, the box is 0.4 m wide and 0.2 m high.
        for x in (-0.2, 0.2)
        for y in (-0.1, 0.1)
        for z in (-0.5, 0.5)
    }
    assert set(map(tuple, found.round(3).tolist())) == expected


def test_a_box_in_space_is_drawn_where_its_edges_are() -> None:
    pose = Pose3D((0.0, 0.0, 2.0), (0.0, 0.0, 0.0, 1.0), (1.0, 0.8, 0.2))
    picture = draw_overlay(answer(segments=(segment(pose=pose),), intrinsics=CAMERA))
    colour = np.array(object_colour(1), float)
    for x, y, _ in project_box(pose, CAMERA):
        around = picture[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2]
        assert np.abs(around - colour).sum(-1).min() < 120


@pytest.mark.parametrize('depth', [0.0, 0.1, -1.0, 1e-9, 1e9])
def test_a_box_in_space_at_the_lens_or_far_off_hides_nothing_else(depth: float) -> None:
    pose = Pose3D((0.3, 0.0, depth), (0.0, 0.0, 0.0, 1.0), (0.2, 0.2, 0.2))
    with_box = draw_overlay(answer(segments=(segment(pose=pose),), intrinsics=CAMERA))
    without = draw_overlay(answer(segments=(segment(pose=pose),)))
    assert with_box.shape == without.shape
    assert (with_box != without).any(-1).mean() < 0.01


def test_a_narrow_and_very_high_picture_is_not_enlarged_beyond_all_bounds() -> None:
    """Enlarged to a readable width it would take 1.5 GB."""
    frame = Frame(grey(200_000, 100))
    mask = np.ones((50, 80), np.bool_)
    segment = Segment(1, 'cup', 0.5, Roi(5, 9, 80, 50), (), Roi(5, 9, 80, 50), mask)
    answer = Answer(Query('the cup', 'q'), Status.OK, '', frame, segments=(segment,))
    drawn = draw_overlay(answer)
    assert drawn.shape[1] == 100
    assert drawn.shape[0] < 210_000
    assert not np.array_equal(drawn[9:59, 5:85], frame.image[9:59, 5:85])
