"""Truth lies where a person drew it, whatever drew it and however the camera was held."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
import pytest

from segzero_ros.evaluation.coco_json import CocoJson, read_segmentation
from segzero_ros.evaluation.datasets import open_dataset
from segzero_ros.evaluation.lisa_folder import LisaFolder
from segzero_ros.evaluation.samples import DataError, decode_labelled_image, Sample

TEXT = 'the red thing'


def samples(dataset) -> list[Sample]:
    return [sample for _, sample in dataset.read(range(len(dataset)))]


def plain(folder: Path, name: str = 'a.png', width: int = 60, height: int = 40) -> None:
    cv2.imwrite(str(folder / name), np.full((height, width, 3), 90, np.uint8))


def coco(folder: Path, *annotations: dict, size: dict | None = None, name='a.png') -> CocoJson:
    numbered = [
        {'id': number, 'image_id': 1, 'text': TEXT, **one}
        for number, one in enumerate(annotations, 1)
    ]
    content = {
        'images': [{'id': 1, 'file_name': name, **(size or {})}],
        'annotations': numbered,
    }
    (folder / 'own.json').write_text(json.dumps(content))
    return open_dataset(str(folder / 'own.json'))


class TestPolygons:
    """Item by item what pycocotools' own API makes of the same annotation."""

    def published(self, segmentation, height: int, width: int) -> np.ndarray:
        api = COCO()
        api.imgs = {1: {'id': 1, 'height': height, 'width': width}}
        return api.annToMask({'image_id': 1, 'segmentation': segmentation}) != 0

    def polygon(self, rng: np.random.Generator, height: int, width: int) -> list[float]:
        corners = int(rng.integers(3, 9))
        kind = rng.integers(4)
        centre = rng.uniform((-0.2 * width, -0.2 * height), (1.2 * width, 1.2 * height))
        if kind == 0:  # Any corners: often concave, crossing itself and partly outside.
            points = rng.uniform((-0.3 * width, -0.3 * height), (1.3 * width, 1.3 * height),
                                 (corners, 2))  # fmt: skip
        elif kind == 1:  # A star around a centre: concave.
            angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
            radii = rng.uniform(0, max(height, width) / 2, corners)
            points = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        elif kind == 2:  # Convex, on whole pixels.
            angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
            size = rng.uniform(0.5, max(height, width) / 2 + 1)
            points = np.round(centre + size * np.stack([np.cos(angles), np.sin(angles)], 1))
        else:  # Tiny.
            points = centre + rng.uniform(-2, 2, (corners, 2))
        return points.ravel().tolist()

    @pytest.mark.slow
    def test_ten_thousand_are_drawn_as_pycocotools_draws_them(self):
        rng = np.random.default_rng(19)
        for _ in range(10_000):
            height, width = (int(side) for side in rng.integers(1, 60, 2))
            parts = [self.polygon(rng, height, width) for _ in range(rng.integers(1, 4))]
            found = read_segmentation(parts, height, width)
            assert np.array_equal(found, self.published(parts, height, width)), parts

    @pytest.mark.parametrize('side', [1, 3, 8, 20, 80])
    def test_a_square_has_the_area_that_was_labelled(self, side):
        square = [40, 60, 40 + side, 60, 40 + side, 60 + side, 40, 60 + side]
        found = read_segmentation([square], 240, 320)
        assert found.sum() == side * side and found[60 : 60 + side, 40 : 40 + side].all()

    def test_other_ways_to_write_a_polygon_are_the_same_polygon(self):
        square = [2, 1, 6, 1, 6, 4, 2, 4]
        pairs = [square[at : at + 2] for at in range(0, 8, 2)]
        expected = read_segmentation([square], 8, 10)
        assert expected.sum() == 12
        for written in (square, [pairs], [[str(value) for value in square]]):
            assert np.array_equal(read_segmentation(written, 8, 10), expected)

    def test_codes_are_read_as_pycocotools_reads_them(self):
        rng = np.random.default_rng(20)
        for _ in range(300):
            height, width = (int(side) for side in rng.integers(1, 40, 2))
            drawn = np.asfortranarray(rng.random((height, width)) < rng.random(), np.uint8)
            code = coco_mask.encode(drawn)
            packed = {'size': code['size'], 'counts': code['counts'].decode()}
            assert np.array_equal(read_segmentation(packed, height, width), drawn != 0)
            flat = drawn.ravel(order='F').astype(int)
            edges = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
            runs = np.diff(edges).tolist()
            plain_code = {'size': code['size'], 'counts': [0, *runs] if flat[0] else runs}
            found = read_segmentation(plain_code, height, width)
            assert np.array_equal(found, self.published(plain_code, height, width))
            both = read_segmentation([packed, plain_code], height, width)
            assert np.array_equal(both, found)

    @pytest.mark.parametrize(
        'segmentation',
        [
            [[1, 2, 3, 4, 5]],
            [[1, 2, 3, 4, 5, float('nan')]],
            [[1, 2, 3, 4, 5, 1e12]],
            [['a', 'b', 3, 4, 5, 6]],
            {'size': [40, 60], 'counts': [5, 5]},
            {'size': [40, 60], 'counts': [-5, 2405]},
            {'size': [40, 60], 'counts': 'zz'},
            {'size': [39, 60], 'counts': [2340]},
            'polygons',
            7,
        ],
    )
    def test_what_is_no_polygon_and_no_code_is_named(self, tmp_path, segmentation):
        plain(tmp_path)
        with pytest.raises(DataError, match=r'own\.json|60x40 pixels, .* made for 60x39'):
            samples(coco(tmp_path, {'segmentation': segmentation}))

    def test_without_pycocotools_the_error_names_the_extra(self, tmp_path, monkeypatch):
        plain(tmp_path)
        monkeypatch.setitem(__import__('sys').modules, 'pycocotools', None)
        dataset = coco(tmp_path, {'segmentation': [[1, 1, 9, 1, 9, 9]]})
        with pytest.raises(DataError, match='scripts/install_models data'):
            samples(dataset)


# How a picture with red in a known place is stored by a camera held each of eight ways.
SHOWN = np.full((48, 96, 3), 255, np.uint8)
SHOWN[8:20, 60:88] = (255, 0, 0)
CORNERS = [60, 8, 88, 8, 88, 20, 60, 20]
ORIENTATIONS = range(1, 9)
# The transform that undoes what EXIF's orientation asks for.
UNDO = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def stored(orientation: int, shown: np.ndarray = SHOWN) -> np.ndarray:
    image, undo = Image.fromarray(shown), UNDO[orientation]
    return np.asarray(image if undo is None else image.transpose(undo))


def photograph(orientation: int, shown: np.ndarray = SHOWN, kind: str = 'JPEG') -> bytes:
    """Return the file of a picture that is to be turned so as to be seen as shown."""
    exif = Image.Exif()
    exif[0x112] = orientation
    file = io.BytesIO()
    Image.fromarray(stored(orientation, shown)).save(file, kind, exif=exif, quality=98)
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(file.getvalue())))
    assert turned.size == shown.shape[1::-1]
    return file.getvalue()


def on_red(sample: Sample) -> float:
    """Return the IoU of the true mask with what is red in the picture."""
    red = (sample.image[..., 0] > 128) & (sample.image[..., 1] < 128)
    return float((red & sample.mask).sum() / (red | sample.mask).sum())


def inside(orientation: int, x: float, y: float) -> tuple[float, float]:
    """Return where a corner of the shown picture is in the stored one."""
    height, width = SHOWN.shape[:2]
    flat = {
        1: (x, y),
        2: (width - x, y),
        3: (width - x, height - y),
        4: (x, height - y),
        5: (y, x),
        6: (y, width - x),
        7: (height - y, width - x),
        8: (height - y, x),
    }
    return flat[orientation]


@pytest.mark.parametrize('orientation', ORIENTATIONS)
class TestOrientations:
    @pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
    def test_a_picture_is_read_as_it_is_shown(self, orientation, kind):
        found = decode_labelled_image(photograph(orientation, kind=kind), '')
        assert found.shape == SHOWN.shape
        assert np.abs(found.astype(int) - SHOWN).mean() < 6

    @pytest.mark.parametrize('sized', [True, False])
    def test_coco_drawn_on_the_shown_picture(self, tmp_path, orientation, sized):
        (tmp_path / 'a.jpg').write_bytes(photograph(orientation))
        size = {'width': 96, 'height': 48} if sized else {}
        (sample,) = samples(coco(tmp_path, {'segmentation': [CORNERS]}, size=size, name='a.jpg'))
        assert sample.image.shape == SHOWN.shape and on_red(sample) > 0.95

    def test_coco_drawn_on_the_stored_picture(self, tmp_path, orientation):
        if orientation < 5:
            pytest.skip('the size is the same both ways: shown is taken')
        (tmp_path / 'a.jpg').write_bytes(photograph(orientation))
        corners = [
            value
            for x, y in zip(CORNERS[::2], CORNERS[1::2], strict=True)
            for value in inside(orientation, x, y)
        ]
        size = {'width': 48, 'height': 96}
        (sample,) = samples(coco(tmp_path, {'segmentation': [corners]}, size=size, name='a.jpg'))
        assert sample.image.shape == (96, 48, 3) and on_red(sample) > 0.95

    @pytest.mark.parametrize('turned', [True, False])
    def test_a_code_says_itself_which_picture_it_is_of(self, tmp_path, orientation, turned):
        if orientation < 5 and not turned:
            pytest.skip('the size is the same both ways: shown is taken')
        (tmp_path / 'a.jpg').write_bytes(photograph(orientation))
        red = np.zeros((48, 96), np.uint8)
        red[8:20, 60:88] = 1
        drawn = red if turned else stored(orientation, red)
        code = coco_mask.encode(np.asfortranarray(drawn))
        code['counts'] = code['counts'].decode()
        (sample,) = samples(coco(tmp_path, {'segmentation': code}, name='a.jpg'))
        assert on_red(sample) > 0.95

    @pytest.mark.parametrize('sized', [True, False])
    def test_labelme_and_lisa(self, tmp_path, orientation, sized):
        (tmp_path / 'a.jpg').write_bytes(photograph(orientation))
        polygon = [[60, 8], [87, 8], [87, 19], [60, 19]]
        content = {'text': [TEXT], 'shapes': [{'label': 'target', 'points': polygon}]}
        if sized:
            content |= {'imageWidth': 96, 'imageHeight': 48, 'imagePath': 'a.jpg'}
        (tmp_path / 'a.json').write_text(json.dumps(content))
        (sample,) = samples(open_dataset(str(tmp_path)))
        assert on_red(sample) > 0.95

    @pytest.mark.slow
    def test_parquet_whose_mask_is_of_the_shown_or_the_stored_picture(
        self, tmp_path, orientation, writing
    ):
        red = np.zeros((48, 96), bool)
        red[8:20, 60:88] = True
        for number, drawn in enumerate((red, stored(orientation, red))):
            if number and orientation < 5:
                continue
            row = {
                'image': {'bytes': photograph(orientation), 'path': 'a.jpg'},
                'text': TEXT,
                'mask': drawn.tolist(),
            }
            without = ('bbox', 'count', 'image_id', 'ann_id', 'img_height', 'img_width')
            path = writing(tmp_path / f'{number}.parquet', [row], without)
            (sample,) = samples(open_dataset(str(path)))
            assert on_red(sample) > 0.95


def test_a_square_picture_is_read_as_it_is_shown():
    square = SHOWN[:, 40:88]
    found = decode_labelled_image(photograph(6, square), '', (48, 48))
    assert np.abs(found.astype(int) - square).mean() < 6


@pytest.mark.slow
@pytest.mark.parametrize('layout', ['coco', 'labelme', 'parquet'])
def test_a_picture_of_another_size_than_its_labels_is_refused_with_both_sizes(
    tmp_path, layout, writing
):
    plain(tmp_path)
    if layout == 'coco':
        dataset = coco(tmp_path, {'bbox': [1, 1, 5, 5]}, size={'width': 120, 'height': 80})
    elif layout == 'labelme':
        shape = {'label': 'mug', 'points': [[1, 1], [5, 1], [5, 5]]}
        content = {'shapes': [shape], 'imageWidth': 120, 'imageHeight': 80}
        (tmp_path / 'a.json').write_text(json.dumps(content))
        dataset = LisaFolder(tmp_path)
    else:
        row = {
            'image': {'bytes': (tmp_path / 'a.png').read_bytes(), 'path': None},
            'text': TEXT,
            'bbox': [1.0, 1.0, 5.0, 5.0],
            'img_width': 120,
            'img_height': 80,
        }
        path = writing(tmp_path / 'a.parquet', [row], ('mask', 'count', 'image_id', 'ann_id'))
        dataset = open_dataset(str(path))
    with pytest.raises(DataError, match='60x40 pixels, but its labels were made for 120x80'):
        samples(dataset)


class TestBoxes:
    @pytest.fixture(autouse=True)
    def picture(self, tmp_path):
        plain(tmp_path)

    @pytest.mark.parametrize(
        'drawn',
        [
            {'segmentation': []},
            {'segmentation': [[]]},
            {'segmentation': None},
            {},
            {'segmentation': [[4, 4, 9, 9]]},
            {'segmentation': {'size': [40, 60], 'counts': [2400]}},
            {'segmentation': [], 'keypoints': [12, 12, 2]},
        ],
    )
    def test_a_box_without_a_mask_is_a_box(self, tmp_path, drawn):
        (sample,) = samples(coco(tmp_path, {'bbox': [10, 5, 20, 8], **drawn}))
        assert sample.mask is None and sample.masks == () and sample.count == 1
        assert sample.boxes == ((10.0, 5.0, 30.0, 13.0),)

    @pytest.mark.parametrize('nothing', [{}, {'bbox': None}, {'bbox': []}, {'bbox': [0, 0, 0, 0]}])
    def test_nothing_is_what_says_so(self, tmp_path, nothing):
        (sample,) = samples(coco(tmp_path, {'segmentation': [], **nothing}))
        assert sample.mask is not None and not sample.mask.any()
        assert (sample.count, sample.boxes, sample.masks) == (0, (), ())

    @pytest.mark.parametrize(
        ('unclear', 'reason'),
        [
            ({}, 'annotation 1 has no area'),
            ({'segmentation': None}, 'annotation 1 has no area'),
            ({'segmentation': [], 'bbox': [10, 5, 0, 0]}, 'annotation 1 has no area'),
            ({'segmentation': [[5, 5, 6, 5, 7, 5]]}, 'annotation 1 has no area'),
            ({'segmentation': [], 'bbox': [10, 5, -3, 4]}, r'not \[x, y, width, height\]'),
            ({'segmentation': [], 'bbox': [70, 5, 9, 4]}, 'outside the image of 60x40'),
        ],
    )
    def test_what_says_neither_is_named(self, tmp_path, unclear, reason):
        with pytest.raises(DataError, match=reason):
            samples(coco(tmp_path, unclear))

    def test_a_polygon_smaller_than_a_pixel_is_not_nothing(self, tmp_path):
        tiny = [5.1, 5.1, 5.3, 5.1, 5.3, 5.3]
        (sample,) = samples(coco(tmp_path, {'segmentation': [tiny]}))
        assert sample.mask is None and sample.boxes == ((5.1, 5.1, 5.3, 5.3),)

    def test_keypoints_alone_say_how_many_but_not_where(self, tmp_path):
        person = {'keypoints': [12, 12, 2, 15, 20, 2], 'num_keypoints': 2}
        (sample,) = samples(coco(tmp_path, person, person))
        assert (sample.mask, sample.boxes, sample.count) == (None, (), 2)

    def test_one_object_with_a_mask_and_one_with_a_box_are_two_boxes(self, tmp_path):
        masked = {'segmentation': [[1, 1, 5, 1, 5, 5, 1, 5]]}
        (sample,) = samples(coco(tmp_path, masked, {'bbox': [10, 5, 20, 8]}))
        assert sample.mask is None and sample.masks == () and sample.count == 2
        assert sample.boxes == ((1.0, 1.0, 5.0, 5.0), (10.0, 5.0, 30.0, 13.0))

    def test_a_crowd_is_ignored_beside_others_and_meant_alone(self, tmp_path):
        brushed = np.zeros((40, 60), np.uint8)
        brushed[5:15, 5:15] = 1
        code = coco_mask.encode(np.asfortranarray(brushed))
        crowd = {
            'iscrowd': 1,
            'segmentation': {'size': [40, 60], 'counts': code['counts'].decode()},
        }
        (alone,) = samples(coco(tmp_path, crowd))
        assert np.array_equal(alone.mask, brushed != 0) and alone.ignore is None
        assert alone.count is None
        square = {'segmentation': [[20, 20, 30, 20, 30, 30, 20, 30]]}
        (beside,) = samples(coco(tmp_path, crowd, square))
        assert np.array_equal(beside.ignore, brushed != 0)
        assert beside.mask.sum() == 100 and beside.count == 1

    def test_a_picture_without_annotations_is_nothing_where_a_text_asks_and_no_question_else(
        self, tmp_path
    ):
        content = {
            'images': [
                {'id': '1', 'file_name': 'a.png', 'text': 'a zebra'},
                {'id': 2, 'file_name': 'a.png'},
                {'id': 3, 'file_name': 'a.png'},
            ],
            'categories': [{'id': 4, 'name': 'mug'}],
            # Some programs write one number as text and as a number.
            'annotations': [{'image_id': '3', 'category_id': '4', 'bbox': [1, 1, 5, 5]}],
        }
        (tmp_path / 'own.json').write_text(json.dumps(content))
        mug, zebra = samples(open_dataset(str(tmp_path / 'own.json')))
        assert (mug.text, mug.boxes) == ('mug', ((1.0, 1.0, 6.0, 6.0),))
        assert zebra.text == 'a zebra' and not zebra.mask.any() and zebra.count == 0

    def test_a_row_of_parquet_with_a_box_and_an_empty_mask_is_a_box(self, tmp_path, writing):
        row = {
            'image': {'bytes': (tmp_path / 'a.png').read_bytes(), 'path': None},
            'text': TEXT,
            'mask': np.zeros((40, 60), bool).tolist(),
            'bbox': [1.0, 1.0, 5.0, 5.0],
        }
        without = ('count', 'image_id', 'ann_id', 'img_height', 'img_width')
        (sample,) = samples(open_dataset(str(writing(tmp_path / 'a.parquet', [row], without))))
        assert sample.mask is None and sample.boxes == ((1.0, 1.0, 5.0, 5.0),)


def bitmap(mask: np.ndarray) -> str:
    return base64.b64encode(cv2.imencode('.png', mask * np.uint8(255))[1].tobytes()).decode()


class TestShapes:
    """What labelme and X-AnyLabeling draw."""

    def written(self, folder: Path, *shapes: dict, **more) -> LisaFolder:
        plain(folder, 'A.JPG')
        content = {'version': '5.5.0', 'flags': {}, 'shapes': list(shapes), **more}
        (folder / 'A.json').write_text(json.dumps(content))
        return open_dataset(str(folder))

    def test_each_label_is_a_question_where_no_text_asks(self, tmp_path):
        shapes = [
            {'label': 'mug', 'points': [[10, 5], [20, 15]], 'shape_type': 'rectangle'},
            {'label': 'pen', 'points': [[30, 5], [50, 5], [50, 9], [30, 9]]},
            {'label': 'mug', 'points': [[40, 25], [40, 29]], 'shape_type': 'circle'},
            {'label': 'ignore', 'points': [[0, 0], [3, 0], [3, 3], [0, 3]]},
            {'label': 'flag', 'points': [[0, 0]], 'shape_type': 'point'},
        ]
        for more in ({}, {'text': ''}, {'text': []}):
            mugs, pen = samples(self.written(tmp_path, *shapes, **more))
            assert (mugs.text, pen.text) == ('mug', 'pen')
            assert len(mugs.masks) == mugs.count == 2 and pen.count == 1
            assert mugs.masks[0].sum() == 11 * 11 and mugs.masks[0][5:16, 10:21].all()
            ys, xs = np.nonzero(mugs.masks[1])
            assert np.hypot(xs - 40, ys - 25).max() <= 4 and mugs.masks[1].sum() == 49
            assert pen.mask.sum() == 21 * 5 and pen.ignore.sum() == 16

    def test_a_text_asks_about_all_shapes_together(self, tmp_path):
        shapes = [{'label': name, 'points': [[at, 5], [at + 4, 5], [at + 4, 9]]}
                  for name, at in (('a', 3), ('b', 20))]  # fmt: skip
        (sample,) = samples(self.written(tmp_path, *shapes, text='what is there?'))
        assert sample.text == 'what is there?' and sample.mask[5, 3] and sample.mask[5, 20]

    def test_shapes_of_a_group_are_one_object(self, tmp_path):
        half = {'label': 'mug', 'group_id': 7, 'points': [[3, 3], [8, 3], [8, 8]]}
        other = {'label': 'mug', 'group_id': 7, 'points': [[30, 3], [38, 3], [38, 8]]}
        third = {'label': 'mug', 'group_id': None, 'points': [[30, 23], [38, 23], [38, 28]]}
        (sample,) = samples(self.written(tmp_path, half, other, third))
        assert sample.count == 2 and sample.masks[0][3, 8] and sample.masks[0][3, 38]

    @pytest.mark.parametrize('at', [(10, 5), (-3, -2), (55, 36)])
    def test_a_brushed_mask_lies_between_its_corners(self, tmp_path, at):
        brush = np.random.default_rng(3).integers(0, 2, (9, 12)).astype(np.uint8)
        brush[-1, -1] = brush[0, 0] = 1
        x, y = at
        shape = {
            'label': 'mug',
            'shape_type': 'mask',
            'points': [[x, y], [x + 11, y + 8]],
            'mask': bitmap(brush),
        }
        (sample,) = samples(self.written(tmp_path, shape))
        wide = np.zeros((100, 100), bool)
        wide[20 + y : 29 + y, 20 + x : 32 + x] = brush != 0
        assert np.array_equal(sample.mask, wide[20:60, 20:80])

    @pytest.mark.parametrize('kind', ['rectangle', 'rotation', 'polygon'])
    def test_four_corners_are_a_polygon_whatever_it_is_called(self, tmp_path, kind):
        corners = [[10, 5], [20, 5], [20, 15], [10, 15]]
        (sample,) = samples(
            self.written(tmp_path, {'label': 'mug', 'points': corners, 'shape_type': kind})
        )
        assert sample.mask.sum() == 121

    @pytest.mark.parametrize(
        ('shape', 'reason'),
        [
            ({'points': [[5, 5], [9, 9]], 'shape_type': 'line'}, 'is a line, which marks no'),
            ({'points': [[5, 5]], 'shape_type': 'point'}, 'is a point, which marks no region'),
            ({'points': [[5, 5], [9, 9e9], [1, 1]]}, 'far outside the image of 60x40'),
            ({'points': [[90, 5], [99, 5], [99, 9]]}, 'no shape marks a pixel'),
            (
                {'points': [[5, 5], [9, 9]], 'shape_type': 'mask', 'mask': 'AAAA'},
                'is not an image',
            ),
        ],
    )
    def test_what_marks_nothing_is_named(self, tmp_path, shape, reason):
        with pytest.raises(DataError, match=rf'A\.json .*{reason}'):
            samples(self.written(tmp_path, {'label': 'mug', **shape}))
