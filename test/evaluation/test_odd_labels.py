"""Labels as other programs and hands write them are read, or refused with cause and cure."""

import base64
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from segzero_ros.conversions.image import decode_image
from segzero_ros.evaluation.datasets import open_dataset
from segzero_ros.evaluation.samples import DataError, decode_labelled_image, Sample
from segzero_ros.ros.camera_sim.sources import read_image

TEXT = 'the red thing'
SQUARE = [1, 1, 5, 1, 5, 5, 1, 5]
MARKED = {'segmentation': [SQUARE]}
UNSIZED = ('mask', 'count', 'image_id', 'ann_id', 'img_height', 'img_width')


def samples(folder: Path) -> list[Sample]:
    dataset = open_dataset(str(folder))
    return [sample for _, sample in dataset.read(range(len(dataset)))]


def png(picture: np.ndarray) -> bytes:
    return cv2.imencode('.png', picture)[1].tobytes()


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / 'a.png').write_bytes(png(np.full((40, 60, 3), 90, np.uint8)))
    return tmp_path


def coco(folder: Path, *annotations: dict, image: dict | None = None, **more) -> list[Sample]:
    content = {
        'images': [{'id': 1, 'file_name': 'a.png', **(image or {})}],
        'annotations': [
            {'id': number, 'image_id': 1, **one} for number, one in enumerate(annotations, 1)
        ],
        **more,
    }
    (folder / 'own.json').write_text(json.dumps(content))
    return samples(folder / 'own.json')


def labelme(folder: Path, *shapes: dict, **more) -> list[Sample]:
    (folder / 'a.json').write_text(json.dumps({'shapes': list(shapes), **more}))
    return samples(folder)


def row(folder: Path, **more) -> dict:
    return {'image': {'bytes': (folder / 'a.png').read_bytes(), 'path': None}, 'text': TEXT} | more


class TestSixteenBits:
    @pytest.mark.parametrize('bits', [10, 12, 14, 16])
    @pytest.mark.parametrize('channels', [1, 3])
    def test_a_picture_is_as_bright_as_the_node_sees_it(self, folder, bits, channels):
        from sensor_msgs.msg import Image

        rng = np.random.default_rng(bits)
        deep = rng.integers(0, 1 << bits, (40, 60, channels), np.uint16)
        (folder / 'a.png').write_bytes(png(deep))
        msg = Image(height=40, width=60, step=120 * channels, data=deep.tobytes())
        msg.encoding = 'mono16' if channels == 1 else 'bgr16'
        (sample,) = coco(folder, {'text': TEXT, **MARKED})
        assert sample.image.max() == 255
        assert np.array_equal(sample.image, decode_image(msg))
        # The simulated camera and `segzero ask --image` read files too.
        assert np.array_equal(read_image(folder / 'a.png'), decode_image(msg))

    @pytest.mark.parametrize('ending', ['.png', '.jpg', '.webp', '.bmp', '.tif'])
    def test_eight_bits_stay_as_they_are(self, ending):
        rng = np.random.default_rng(8)
        for shape in ((7, 9), (7, 9, 3), (7, 9, 4)):
            data = cv2.imencode(ending, rng.integers(0, 256, shape, np.uint8))[1].tobytes()
            plain = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            assert np.array_equal(decode_labelled_image(data, ''), plain[..., ::-1])

    def test_alpha_says_nothing_of_the_sensor(self):
        from sensor_msgs.msg import Image

        dark = np.full((8, 8, 4), 0x3FF, np.uint16)
        dark[..., 3] = 0xFFFF
        msg = Image(height=8, width=8, step=64, data=dark.tobytes(), encoding='bgra16')
        assert (decode_labelled_image(png(dark), '') == 255).all() and (
            decode_image(msg) == 255
        ).all()

    def test_a_brushed_mask_of_16_bits_marks_what_is_not_zero(self, folder):
        brush = base64.b64encode(png(np.ones((4, 5), np.uint16))).decode()
        shape = {'label': 'mug', 'shape_type': 'mask', 'points': [[2, 2], [6, 5]], 'mask': brush}
        (sample,) = labelme(folder, shape)
        assert sample.mask.sum() == 20 and sample.mask[2:6, 2:7].all()


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_files_of_windows_editors_are_read(folder, encoding):
    content = {
        'images': [{'id': 1, 'file_name': 'a.png'}],
        'annotations': [{'image_id': 1, 'text': 'größte Tasse', **MARKED}],
    }
    (folder / 'own.json').write_text(json.dumps(content, ensure_ascii=False), encoding)
    shape = {'label': 'größte Tasse', 'points': [[1, 1], [5, 1], [5, 5]]}
    (folder / 'a.json').write_text(json.dumps({'shapes': [shape]}, ensure_ascii=False), encoding)
    for path in (folder / 'own.json', folder):
        (sample,) = samples(path)
        assert sample.text == 'größte Tasse' and sample.mask.any()


class TestNumbersAsText:
    def test_a_size_is_a_size(self, folder, writing):
        stated = {'width': '60', 'height': ' 40.0 '}
        assert len(coco(folder, {'text': TEXT, **MARKED}, image=stated)) == 1
        contradiction = 'made for 640x480'
        with pytest.raises(DataError, match=contradiction):
            coco(folder, {'text': TEXT, **MARKED}, image={'width': '640', 'height': '480'})
        shape = {'label': 'mug', 'points': [[1, 1], [5, 1], [5, 5]]}
        with pytest.raises(DataError, match=contradiction):
            labelme(folder, shape, imageWidth='640', imageHeight='480')

    @pytest.mark.parametrize('width', ['wide', '60px', [60], 'inf'])
    def test_what_is_no_number_is_named(self, folder, width):
        with pytest.raises(DataError, match=r'own\.json.*width is .* not a number'):
            coco(folder, {'text': TEXT, **MARKED}, image={'width': width, 'height': 40})
        shape = {'label': 'mug', 'points': [[1, 1], [5, 1], [5, 5]]}
        with pytest.raises(DataError, match=r'a\.json.*imageWidth is .* not a number'):
            labelme(folder, shape, imageWidth=width, imageHeight=40)

    @pytest.mark.parametrize('crowd', ['0', '0.0', 0, False, None, ''])
    def test_zero_is_no_crowd(self, folder, crowd):
        (sample,) = coco(folder, {'text': TEXT, 'iscrowd': crowd, **MARKED})
        assert sample.count == 1

    @pytest.mark.parametrize('crowd', ['1', 1, True])
    def test_one_is_a_crowd(self, folder, crowd):
        (sample,) = coco(folder, {'text': TEXT, 'iscrowd': crowd, **MARKED})
        assert sample.count is None

    def test_a_crowd_that_is_no_number_is_named(self, folder):
        with pytest.raises(DataError, match="iscrowd is 'maybe', which is not a number"):
            coco(folder, {'text': TEXT, 'iscrowd': 'maybe', **MARKED})

    def test_a_code_is_a_code(self, folder):
        code = {'size': ['40', '60'], 'counts': ['0', '40', '2360']}
        (sample,) = coco(folder, {'text': TEXT, 'segmentation': code})
        assert sample.mask[:, 0].all() and sample.mask.sum() == 40


@pytest.mark.parametrize('nothing_drawn', [{}, {'segmentation': None}, {'segmentation': []}])
def test_a_crowd_with_a_box_alone_is_ignored_in_its_box(folder, nothing_drawn):
    crowd = {'text': TEXT, 'iscrowd': 1, 'bbox': [10, 5, 20, 8], **nothing_drawn}
    (sample,) = coco(folder, {'text': TEXT, **MARKED}, crowd)
    assert sample.mask.sum() == 16 and sample.count == 1
    assert sample.ignore.sum() == 160 and sample.ignore[5:13, 10:30].all()


class TestTexts:
    def test_each_text_of_a_list_is_a_question(self, folder):
        found = coco(folder, {'text': [TEXT, 'x', TEXT], **MARKED}, {'text': 'x', **MARKED})
        assert [(one.text, one.count) for one in found] == [(TEXT, 1), ('x', 2)]

    def test_also_where_nothing_is_meant(self, folder):
        found = coco(folder, image={'text': ['a zebra', 'a car']})
        assert [(one.text, one.count) for one in found] == [('a zebra', 0), ('a car', 0)]

    @pytest.mark.parametrize('text', [{'en': 'x'}, [['x']], True])
    def test_what_is_no_text_is_named(self, folder, text):
        with pytest.raises(DataError, match=r'annotation 1 has the text .*: write one query'):
            coco(folder, {'text': text, **MARKED})

    @pytest.mark.parametrize('text', [None, ''])
    def test_a_row_without_a_text_is_named(self, folder, writing, text):
        rows = [row(folder, text=text, bbox=[1.0, 1.0, 5.0, 5.0])]
        path = writing(folder / 'a.parquet', rows, UNSIZED)
        with pytest.raises(DataError, match=r'a\.parquet, row 0 of group 0 has no text: write'):
            samples(path)


class TestBoxesOfRows:
    @pytest.mark.parametrize('box', [[300, 200, 400, 300], [10, 5, 400, 30], [-9, 2, 5, 5]])
    @pytest.mark.parametrize('drawn', [True, False])
    def test_a_box_outside_its_picture_is_refused_with_its_row(self, folder, writing, box, drawn):
        sized = {'img_width': 60, 'img_height': 40, 'mask': np.ones((40, 60), bool).tolist()}
        good = row(folder, bbox=[1.0, 1.0, 60.0, 40.5], **sized)
        rows = [good, good | {'bbox': [float(value) for value in box]}]
        without = ('count', 'image_id', 'ann_id', *(() if drawn else ('mask',)))
        dataset = open_dataset(str(writing(folder / 'a.parquet', rows, without)))
        (_, sample), *_ = dataset.read(range(1))
        assert sample.boxes == ((1.0, 1.0, 60.0, 40.5),)
        with pytest.raises(DataError, match=r'row 1 of group 0: .*outside its image of 60x40'):
            list(dataset.read(range(2)))

    def test_a_squashed_picture_may_have_the_box_of_either_size(self, folder, writing):
        square = png(np.zeros((840, 840, 3), np.uint8))
        mask = np.ones((600, 1600), bool).tolist()
        boxes = [[1.0, 1.0, 1500.0, 500.0], [1.0, 1.0, 800.0, 830.0]]
        rows = [
            row(folder, bbox=box, mask=mask, img_width=1600, img_height=600)
            | {'image': {'bytes': square, 'path': None}}
            for box in boxes
        ]
        path = writing(folder / 'a.parquet', rows, ('count', 'image_id', 'ann_id'))
        assert [list(sample.boxes[0]) for sample in samples(path)] == boxes

    def test_a_box_with_holes_is_named(self, folder, writing):
        rows = [row(folder, bbox=[1.0, None, 5.0, 5.0])]
        with pytest.raises(DataError, match='row 0 of group 0: a box must be four numbers'):
            samples(writing(folder / 'a.parquet', rows, UNSIZED))


class TestWhatIsWrongIsSaidInASentence:
    @pytest.mark.parametrize(
        ('annotation', 'reason'),
        [
            ({'category_id': 7, **MARKED}, 'annotation 1 has the category_id 7, .* add it'),
            ({'category_id': 2, **MARKED}, 'category 2 has no name: add one'),
            ({'caption': 'x', **MARKED}, 'annotation 1 has neither a text nor a category_id: '),
            ({'text': 'x', 'image_id': 99}, 'annotation 1 refers to image 99, .* add it'),
            ({'text': 'x', 'segmentation': {}}, r'an RLE has no size: write \{'),
            ({'text': 'x', 'segmentation': {'size': [40, 60]}}, 'has no counts: write'),
            ({'text': 'x', 'segmentation': [[1, None, 3, 4, 5, 6]]}, 'other than numbers: write'),
            ({'text': 'x', 'bbox': [1, 2, 3]}, r'the bbox \[1, 2, 3\], which is not \[x, y'),
            ({'text': 'x', 'bbox': ['a', 2, 3, 4]}, r'the bbox .*, which is not \[x, y'),
        ],
    )
    def test_in_coco(self, folder, annotation, reason):
        categories = [{'id': 1, 'name': 'mug'}, {'id': 2, 'supercategory': 'mug'}]
        with pytest.raises(DataError, match=rf'own\.json.*{reason}') as caught:
            coco(folder, annotation, categories=categories)
        assert 'Error' not in str(caught.value)

    @pytest.mark.parametrize(
        ('shape', 'reason'),
        [
            ({'shape_type': 'mask', 'mask': None}, "the mask of 'mug' is not an image: draw"),
            ({'shape_type': 'mask'}, "the mask of 'mug' is not an image: draw"),
            ({'shape_type': 'ellipse'}, "'mug' is an ellipse, which marks no region: draw"),
            ({'shape_type': 'points'}, "'mug' is a set of points, which marks no region: draw"),
            ({'points': None}, r"the points of 'mug' are not a list of \[x, y\]: correct"),
            (
                {'points': [[1, 2], [3]]},
                r"the points of 'mug' are not a list of \[x, y\]: correct",
            ),
            ({'points': []}, r"the points of 'mug' are not a list of \[x, y\]: correct"),
            ({'label': None}, 'a shape has the label None: give each shape a text'),
        ],
    )
    def test_in_labelme(self, folder, shape, reason):
        with pytest.raises(DataError, match=rf'a\.json cannot be read: {reason}') as caught:
            labelme(folder, {'label': 'mug', 'points': [[1, 1], [5, 5]], **shape})
        assert 'ReasonSeg' not in str(caught.value)

    def test_a_label_that_is_a_number_is_its_text(self, folder):
        shape = {'label': 3, 'points': [[1, 1], [5, 5]], 'shape_type': 'rectangle'}
        (sample,) = labelme(folder, shape, {**shape, 'label': '3', 'points': [[10, 10], [12, 12]]})
        assert (sample.text, sample.count) == ('3', 2)
