"""The sets that robots are measured on, in their published layouts, with their figures."""

import json
import math
import subprocess
import sys

import cv2
import numpy as np
import pyarrow as pa
from pyarrow import parquet
import pytest

from segzero_ros.cli.main import main
from segzero_ros.evaluation.coco_ap import coco_ap
from segzero_ros.evaluation.counterfactual import counterfactual_figures
from segzero_ros.evaluation.datasets import open_dataset, published_name
from segzero_ros.evaluation.hub import find_split, PUBLISHED
from segzero_ros.evaluation.measurements import Failure, innermost_point, measure, Prediction
from segzero_ros.evaluation.metrics import CONVENTIONS, figures, point_score
from segzero_ros.evaluation.records import from_line, make_record, to_line
from segzero_ros.evaluation.report import leading
from segzero_ros.evaluation.runner import answer_all, RunFolder
from segzero_ros.evaluation.samples import DataError, decode_mask, Sample
from segzero_ros.pipeline import Pipeline
from segzero_ros.reasoning.attribute_reasoner import AttributeReasoner
from segzero_ros.segmentation.grabcut_segmenter import GrabCutSegmenter
from segzero_ros.simulation.scenes import make_scene
from segzero_ros.types import (
    Answer,
    GroundedObject,
    Query,
    Roi,
    Segment,
    Status,
    Task,
    UnsupportedTask,
)

FORM = ' Your answer should be formatted as a list of tuples, i.e. [(x1, y1), (x2, y2), ...].'
IMAGE = np.full((40, 60, 3), 90, np.uint8)


def region(x1, y1, x2, y2):
    mask = np.zeros(IMAGE.shape[:2], np.bool_)
    mask[y1:y2, x1:x2] = True
    return mask


def encoded(mask: np.ndarray, ending: str = '.png') -> bytes:
    return cv2.imencode(ending, mask.astype(np.uint8) * 255)[1].tobytes()


def cell(data: bytes) -> dict:
    return {'bytes': data, 'path': None}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def samples(source, **options):
    dataset = open_dataset(str(source), **options)
    found = list(dataset.read(range(len(dataset))))
    assert [index for index, _ in found] == list(range(len(dataset)))
    return [sample for _, sample in found]


@pytest.fixture
def picture(png) -> dict:
    return cell(png(IMAGE))


def refspatial_row(picture, number=0, step=2):
    return {
        'id': number,
        'image': picture,
        'mask': cell(encoded(region(10, 5, 20, 15))),
        'object': 'the free space left of the mug',
        'prompt': 'Please point out the free space left of the mug.',
        'suffix': 'Your answer should be formatted as a list of tuples.',
        'step': step,
    }


class TestParquet:
    """Rows of the Hub's sets."""

    def test_refspatial_asks_for_the_object_or_the_papers_prompt(self, tmp_path, picture):
        for split, step in (('location', 1), ('placement', 2), ('unseen', 3)):
            rows = [refspatial_row(picture, number, step) for number in range(2)]
            write(tmp_path / 'data' / f'{split}-00000-of-00001.parquet', rows)
        found = samples(tmp_path)
        assert [one.ann_id for one in found] == ['0', '1'] * 3
        assert {one.text for one in found} == {'the free space left of the mug'}
        assert found[2].group == ('split: placement', 'steps: 2')
        assert found[0].task is Task.POINT
        assert np.array_equal(found[0].mask, region(10, 5, 20, 15))
        (text,) = {one.text for one in samples(tmp_path, published_prompt=True)}
        assert text == (
            'Please point out the free space left of the mug. '
            'Your answer should be formatted as a list of tuples.'
        )
        (unseen,) = find_split(tmp_path, 'unseen')
        assert unseen.name.startswith('unseen') and len(find_split(tmp_path, '')) == 3
        assert find_split(tmp_path, 'nowhere') == []

    def test_the_scene_is_a_group_and_an_empty_suffix_adds_nothing(self, tmp_path, picture):
        row = refspatial_row(picture) | {'scene': 'street', 'suffix': ''}
        path = write(tmp_path / 'own.parquet', [row])
        assert samples(path)[0].group == ('scene: street', 'steps: 2')
        (whole,) = samples(path, published_prompt=True)
        assert whole.text == row['prompt']

    @pytest.mark.parametrize(
        ('row', 'text', 'name'),
        [
            ({'question_id': 'q7', 'question': f'Where is room?{FORM}'}, 'Where is room?', 'q7'),
            ({'question': 'What do I push?'}, 'What do I push?', ''),
            ({'problem': '<image>Where is the handle?', 'idx': 4}, 'Where is the handle?', '4'),
        ],
    )
    def test_other_points_sets_are_asked_the_bare_question(
        self, tmp_path, picture, row, text, name
    ):
        row |= {'image': picture, 'mask': cell(encoded(region(0, 0, 5, 5)))}
        (sample,) = samples(write(tmp_path / 'test.parquet', [row]))
        assert (sample.text, sample.ann_id, sample.task) == (text, name, Task.POINT)
        (whole,) = samples(tmp_path / 'test.parquet', published_prompt=True)
        assert whole.text == row.get('question', row.get('problem'))

    @pytest.mark.parametrize('query', [{'ref_exp': 'the left mug', 'id': 3}, {'problem': 'push'}])
    def test_boxes_in_fractions_become_pixels(self, tmp_path, picture, query):
        # The box in pixels is that of a larger original.
        row = query | {'image': picture, 'bbox': [100, 100, 200, 200]}
        row['normalized_bbox'] = [0.25, 0.5, 0.5, 1.0]
        (sample,) = samples(write(tmp_path / 'test.parquet', [row]))
        assert sample.boxes == ((15.0, 20.0, 30.0, 40.0),) and sample.mask is None
        assert sample.task is Task.POINT
        row['normalized_bbox'] = [250.0, 500.0, 500.0, 1000.0]
        with pytest.raises(DataError, match='fractions of the image'):
            samples(write(tmp_path / 'thousandths.parquet', [row]))

    def test_coco_is_detected_and_counting_sets_are_counted(self, tmp_path, picture):
        row = {'image': picture, 'text': 'mug', 'image_id': 9, 'cat_id': 47}
        row['bbox'] = [[1.0, 2.0, 11.0, 12.0], [20.0, 2.0, 30.0, 12.0]]
        (sample,) = samples(write(tmp_path / 'coco.parquet', [row]))
        assert (sample.task, sample.category, len(sample.boxes)) == (Task.DETECT, '47', 2)
        row = {'image': picture, 'text': 'mugs', 'count': 2}
        (sample,) = samples(write(tmp_path / 'count.parquet', [row]))
        assert (sample.task, sample.count) == (Task.COUNT, 2)

    @pytest.mark.parametrize(
        ('change', 'sentence'),
        [
            ({'mask': None}, 'has no target'),
            ({'mask': cell(b'nothing')}, 'not an image'),
            ({'mask': cell(encoded(np.ones((4, 4))))}, '4x4'),
            ({'object': ''}, 'has no object'),
        ],
    )
    def test_a_bad_row_is_one_sentence(self, tmp_path, picture, change, sentence):
        rows = [refspatial_row(picture), refspatial_row(picture) | change]
        path = write(tmp_path / 'location-00000-of-00001.parquet', rows)
        with pytest.raises(DataError, match=sentence) as error:
            samples(path)
        assert 'row 1' in str(error.value)

    def test_a_missing_column_is_named(self, tmp_path, picture):
        path = write(tmp_path / 'a.parquet', [{'image': picture, 'object': 'it'}])
        with pytest.raises(DataError, match='mask, bbox or count'):
            open_dataset(str(path))
        row = {'image': picture, 'object': 'it', 'mask': cell(encoded(region(0, 0, 5, 5)))}
        path = write(tmp_path / 'b.parquet', [row])
        assert samples(path)[0].text == 'it'
        with pytest.raises(DataError, match='prompt, suffix'):
            open_dataset(str(path), published_prompt=True)


class TestImageFiles:
    """Raw folders: image files with an index."""

    def write(self, folder, png, **masks):
        for name in ('images', 'image', 'masks', 'mask'):
            (folder / name).mkdir(parents=True)
        for name in ('images', 'image'):
            (folder / name / 'a.png').write_bytes(png(IMAGE))
            (folder / name / 'b.png').write_bytes(png(IMAGE + 60))
        for name, mask in masks.items():
            (folder / 'mask' / f'{name}.png').write_bytes(encoded(mask))

    def test_refspatial(self, tmp_path, png):
        folder = tmp_path / 'Location'
        self.write(folder, png, a=region(1, 1, 9, 9))
        entry = {'id': 1, 'rgb_path': 'image/a.png', 'mask_path': 'mask/a.png', 'step': 3}
        entry |= {'object': 'the mug', 'prompt': 'Point at the mug.', 'suffix': 'As tuples.'}
        (folder / 'question.json').write_text(json.dumps([entry]))
        (sample,) = samples(folder)
        assert (sample.text, sample.task) == ('the mug', Task.POINT)
        assert sample.group == ('split: location', 'steps: 3')
        assert np.array_equal(sample.mask, region(1, 1, 9, 9))
        (sample,) = samples(folder / 'question.json', published_prompt=True)
        assert sample.text == 'Point at the mug. As tuples.'

    def test_where2place_has_masks_named_by_numbers(self, tmp_path, png):
        self.write(tmp_path, png)
        (tmp_path / 'masks' / '00.jpg').write_bytes(encoded(region(9, 10, 33, 31), '.jpg'))
        (tmp_path / 'masks' / 'b.png').write_bytes(encoded(region(0, 0, 4, 4)))
        lines = [
            {'question_id': 5, 'image': 'a.png', 'text': f'Where is room?{FORM}'},
            {'question_id': 6, 'image': 'b.png', 'text': f'Left of it?{FORM}'},
        ]
        text = '\n'.join(map(json.dumps, lines))
        for name in ('point_questions.jsonl', 'bbox_questions.jsonl'):
            (tmp_path / name).write_text(text)
        first, second = samples(tmp_path)
        assert (first.text, first.ann_id) == ('Where is room?', '5')
        # What JPEG blurs is cut at half.
        assert np.array_equal(first.mask, region(9, 10, 33, 31))
        assert np.array_equal(second.mask, region(0, 0, 4, 4))

    def test_converseg_has_a_file_for_each_split(self, tmp_path, png):
        self.write(tmp_path, png, a=region(1, 1, 9, 9), none=region(0, 0, 0, 0))
        entry = {'id': 'x', 'image': 'image/a.png', 'mask': 'mask/a.png', 'prompt': 'the stable'}
        lines = [entry, entry | {'id': 'y', 'mask': 'mask/none.png'}]
        data = tmp_path / 'data'
        data.mkdir()
        for name in ('sam_seeded', 'human_annotated'):
            (data / f'{name}.jsonl').write_text('\n'.join(map(json.dumps, lines)))
        with pytest.raises(DataError, match=r'several splits: give one of .*sam_seeded\.jsonl'):
            open_dataset(str(tmp_path))
        first, second = samples(data / 'human_annotated.jsonl')
        assert (first.text, first.ann_id, first.task) == ('the stable', 'x', Task.SEGMENT)
        assert np.array_equal(first.mask, region(1, 1, 9, 9)) and not second.mask.any()
        assert published_name(str(data / 'human_annotated.jsonl')) == 'converseg_human_annotated'

    def pair(self, folder, png):
        self.write(folder, png, a=region(10, 10, 20, 20), b=region(10, 10, 30, 20))
        entry = {'factual_image_path': 'images/a.png', 'factual_mask_path': 'mask/a.png'}
        entry |= {name.replace('factual', 'counterfactual'): path.replace('a.png', 'b.png')
                  for name, path in entry.items()}  # fmt: skip
        entry |= {'factual_label': 'cat', 'counterfactual_label': 'dog'}
        (folder / 'data.json').write_text(json.dumps([entry]))
        return entry

    def test_hallusegbench_asks_both_labels_about_both_images(self, tmp_path, png):
        self.pair(tmp_path, png)
        found = samples(tmp_path)
        assert [(one.text, one.image_id, int(one.mask.sum())) for one in found] == [
            ('cat', 'a.png', 100),
            ('dog', 'a.png', 0),
            ('cat', 'b.png', 0),
            ('dog', 'b.png', 200),
        ]
        distractors = [one.distractor for one in found]
        assert distractors[0] is None and distractors[3] is None
        assert int(distractors[1].sum()) == 100 and int(distractors[2].sum()) == 200

    def test_a_mask_of_another_size_is_resized_there_and_an_error_elsewhere(self, tmp_path, png):
        self.pair(tmp_path, png)
        small = cv2.resize(region(10, 10, 20, 20).astype(np.uint8), (30, 20))
        (tmp_path / 'mask' / 'a.png').write_bytes(encoded(small))
        assert np.array_equal(samples(tmp_path)[0].mask, region(10, 10, 20, 20))
        line = {'image': 'images/a.png', 'mask': 'mask/a.png', 'prompt': 'it'}
        (tmp_path / 'own.jsonl').write_text(json.dumps(line))
        with pytest.raises(DataError, match='60x40 pixels, but its labels were made for 30x20'):
            samples(tmp_path / 'own.jsonl')

    @pytest.mark.parametrize(
        ('text', 'sentence'),
        [
            ('[{"factual_image_path": "a.png"}]', 'has no counterfactual_image_path: add it'),
            ('[{"colour": 1}]', 'no.* the index of a published set'),
            ('[]', 'no entries'),
            ('[3]', 'no.* the index of a published set'),
            ('[{', 'not valid JSON'),
        ],
    )
    def test_a_bad_index_is_one_sentence(self, tmp_path, text, sentence):
        (tmp_path / 'data.json').write_text(text)
        with pytest.raises(DataError, match=sentence) as error:
            open_dataset(str(tmp_path / 'data.json'))
        assert 'data.json' in str(error.value)

    def test_an_image_that_is_gone_is_named(self, tmp_path, png):
        self.pair(tmp_path, png)
        (tmp_path / 'images' / 'b.png').unlink()
        with pytest.raises(DataError, match=r'b\.png cannot be read'):
            samples(tmp_path)


def test_sets_in_the_hubs_cache_are_opened_by_name_and_split(tmp_path, png, monkeypatch):
    for name in ('BAAI--RefSpatial-Bench', 'aadarsh99--ConverSeg'):
        (tmp_path / f'datasets--{name}' / 'refs').mkdir(parents=True)
        (tmp_path / f'datasets--{name}' / 'refs' / 'main').write_text('abc')
    folder = tmp_path / 'datasets--BAAI--RefSpatial-Bench' / 'snapshots' / 'abc' / 'data'
    row = refspatial_row(cell(png(IMAGE)))
    for split, count in (('location', 3), ('unseen', 2)):
        write(folder / f'{split}-00000-of-00001.parquet', [row] * count)
    files = tmp_path / 'datasets--aadarsh99--ConverSeg' / 'snapshots' / 'abc'
    TestImageFiles().write(files, png, a=region(1, 1, 9, 9))
    line = json.dumps({'image': 'image/a.png', 'mask': 'mask/a.png', 'prompt': 'the stable'})
    (files / 'data').mkdir()
    for split, count in (('sam_seeded', 4), ('human_annotated', 1)):
        (files / 'data' / f'{split}.jsonl').write_text('\n'.join([line] * count))
    code = (
        'from segzero_ros.evaluation.datasets import open_dataset as opened\n'
        'for name in ("refspatial", "refspatial_unseen", "converseg_sam_seeded"):\n'
        '    data = opened(name, offline=True)\n'
        '    print(len(data), len(list(data.read(range(9)[:len(data)]))))\n'
        'opened("refspatial_placement", offline=True)\n'
    )
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path))
    found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert found.stdout.split() == ['5', '5', '2', '2', '4', '4'], found.stderr
    assert 'BAAI/RefSpatial-Bench is not cached on this machine' in found.stderr


def test_every_pixel_of_a_mask_that_is_not_0_counts():
    values = np.array([[0, 1], [255, 3]], np.uint8)
    data = cv2.imencode('.png', values)[1].tobytes()
    assert decode_mask(data, 'it').tolist() == [[False, True], [True, True]]


def pointed(points, failure=Failure.NONE, **truth):
    sample = Sample(IMAGE, 'it', task=Task.POINT, **truth)
    said = Prediction(None, (), tuple(points), failure, task=Task.POINT, has_masks=False)
    return measure(sample, said)


class TestPoints:
    """The points metric."""

    MASK = region(10, 10, 20, 20)

    def test_each_sample_counts_once_and_both_denominators_are_given(self):
        items = [
            # Half of these are inside; one of them is outside the image.
            pointed([(10, 10), (19, 19), (20, 15), (-5, 12)], mask=self.MASK),
            pointed([(12, 12)], mask=self.MASK),
            # Nothing found is 0 in both, an answer that never came, too.
            pointed([], mask=self.MASK),
            pointed([], Failure.CRASH, mask=self.MASK),
            # Nobody can read it.
            pointed([], Failure.ANSWER, mask=self.MASK),
        ]
        found = point_score(items)
        assert (found.samples, found.unreadable) == (5, 1)
        assert found.left_out == pytest.approx(1.5 / 4)
        assert found.counted == pytest.approx(1.5 / 5)
        low, high = found.counted_between
        assert low < found.counted < high

    def test_points_in_a_box_count_with_its_edges(self):
        item = pointed([(10, 10), (20, 20), (21, 20), (math.nan, 12)], boxes=((10, 10, 20, 20),))
        assert item.points_on_target == 2 and item.points == 4 and item.whole is None

    def test_a_set_that_asks_for_no_points_has_no_points_metric(self):
        sample = Sample(IMAGE, 'it', mask=self.MASK)
        item = measure(sample, Prediction(self.MASK, (), ((12.0, 12.0),)))
        assert not item.is_pointed and math.isnan(point_score([item]).left_out)

    def test_the_innermost_point_is_farthest_from_the_edge_and_from_the_images(self):
        assert innermost_point(region(0, 0, 0, 0)) is None
        assert innermost_point(region(10, 10, 21, 21)) == (15.0, 15.0)
        # Not the mean: that lies in the gap.
        ring = region(5, 5, 36, 36) & ~region(10, 10, 36, 36)
        x, y = innermost_point(ring)
        assert ring[int(y), int(x)]
        # The image's edge is an edge.
        assert innermost_point(region(0, 0, 11, 40))[0] == 5.0

    def test_a_mask_without_points_enters_with_its_innermost_point(self):
        sample = Sample(IMAGE, 'it', mask=self.MASK, task=Task.POINT)
        roi = Roi(12, 12, 5, 5)
        segment = Segment(1, '', 1.0, roi, (), roi, np.ones((5, 5), np.bool_))
        answer = Answer(Query('it'), Status.OK, segments=(segment,))
        row, _ = make_record(0, sample, answer, [GroundedObject((12, 12, 17, 17))])
        assert row.points == ((14.0, 14.0),) and row.points_from_masks
        assert row.item.points_on_target == 1 and from_line(to_line(row)) == row
        # A model's own points are kept.
        row, _ = make_record(0, sample, answer, [GroundedObject(None, ((1.0, 1.0),))])
        assert row.points == ((1.0, 1.0),) and not row.points_from_masks


def test_the_iou_of_boxes_is_that_of_the_first():
    truth = Sample(IMAGE, 'it', boxes=((0.0, 0.0, 10.0, 10.0),), task=Task.POINT)
    boxes = ((0.0, 0.0, 10.0, 5.0), (0.0, 0.0, 10.0, 10.0))
    items = [
        measure(truth, Prediction(None, boxes, task=Task.DETECT, has_masks=False)),
        measure(truth, Prediction(None, (), failure=Failure.ANSWER)),
    ]
    # Whoever asks for boxes is not measured by points.
    assert not items[0].is_pointed
    found = figures(items, CONVENTIONS['vision_reasoner'])
    assert found['box_iou'] == pytest.approx(0.25) and found['bbox_ap'] == pytest.approx(0.5)


def test_a_written_number_counts_before_the_boxes_and_failures_as_published():
    truth = Sample(IMAGE, 'it', count=3, task=Task.COUNT)
    box = (0.0, 0.0, 1.0, 1.0)
    said = [
        Prediction(None, (box,), has_masks=False, count=3),
        Prediction(None, (box, box, box)),
        Prediction(None, failure=Failure.ANSWER),
        Prediction(None, failure=Failure.CRASH),
    ]
    found = figures([measure(truth, one) for one in said], CONVENTIONS['vision_reasoner'])
    assert found['count_accuracy'] == 0.5
    assert found['count_mae'] == pytest.approx((0 + 0 + 3 + 2) / 4)


def test_objects_with_points_only_are_objects():
    objects = [GroundedObject(None, ((1.0, 1.0), (2.0, 2.0))), GroundedObject(None, ((9.0, 9.0),))]
    answer = Answer(Query('it'), Status.OK)
    nothing = Sample(IMAGE, 'it', mask=region(0, 0, 0, 0), count=2)
    marked, _ = make_record(0, nothing, answer, objects)
    found = figures([marked.item], CONVENTIONS['vision_reasoner'])
    assert found['count_accuracy'] == 1.0
    # Marking something where nothing is meant is wrong without a box, too.
    assert found['n_acc'] == 0.0 and found['bbox_ap_merged'] == 0.0
    empty, _ = make_record(0, nothing, Answer(Query('it'), Status.NOT_FOUND), [])
    found = figures([empty.item], CONVENTIONS['vision_reasoner'])
    assert found['n_acc'] == 1.0 and found['bbox_ap_merged'] == 1.0


def test_converseg_counts_an_empty_union_as_right_and_a_failure_not():
    empty, full = region(0, 0, 0, 0), region(0, 0, 10, 10)
    pairs = [
        (empty, Prediction(empty)),
        (empty, Prediction(full)),
        (empty, Prediction(None, failure=Failure.ANSWER)),
        (full, Prediction(region(0, 0, 10, 20))),
    ]
    items = [measure(Sample(IMAGE, 'it', mask=true), said) for true, said in pairs]
    found = figures(items, CONVENTIONS['converseg'])
    assert found['giou'] == pytest.approx((1 + 0 + 0 + 0.5) / 4)
    assert found['ciou'] == pytest.approx(100 / (100 + 200))
    manifest = {'dataset': {'published': 'converseg_sam_seeded'}}
    assert leading(manifest) == 'converseg'


def row_of(sample, boxes=(), masks=(), status=Status.OK, task=Task.SEGMENT):
    segments = []
    for number, mask in enumerate(masks, start=1):
        roi = Roi.around(mask)
        segments.append(Segment(number, '', 1.0, roi, (), roi, mask[roi.slices]))
    answer = Answer(Query('it'), status, segments=tuple(segments), task=task)
    return make_record(0, sample, answer, [GroundedObject(box) for box in boxes])[0]


def test_what_is_marked_in_an_edited_image_is_hallucinated(tmp_path, png):
    TestImageFiles().pair(tmp_path, png)
    cat, dog_in_cats, cat_in_dogs, dog = samples(tmp_path)
    rows = [
        row_of(cat, masks=[region(10, 10, 20, 20)]),
        row_of(dog_in_cats, masks=[region(10, 10, 15, 20)]),
        row_of(cat_in_dogs, status=Status.NOT_FOUND),
        row_of(dog, masks=[region(10, 10, 20, 20)]),
    ]
    found = counterfactual_figures(rows)
    assert (found['iou_factual'], found['iou_counterfactual']) == (1.0, 0.5)
    assert found['delta_iou_textual'] == pytest.approx(1.0 - 0.5)
    assert found['delta_iou_visual'] == 1.0
    assert found['confusion_factual'] == pytest.approx(0.5)
    assert found['confusion_counterfactual'] == 0.0
    assert (found['not_found_factual'], found['not_found_counterfactual']) == (0.0, 1.0)
    # Pixels beside the object weigh a third.
    beside = row_of(dog_in_cats, masks=[region(30, 10, 40, 20)])
    assert counterfactual_figures([beside])['confusion_factual'] == pytest.approx(1 / 3)
    # A failure has marked nothing, and is not right.
    failed = counterfactual_figures([row_of(cat_in_dogs, status=Status.MALFORMED_ANSWER)])
    assert math.isnan(failed['confusion_counterfactual'])
    assert failed['not_found_counterfactual'] == 0.0


class TestCoco:
    """COCO's AP as published."""

    def sample(self, *boxes, image='1', category='5', crowds=()):
        return Sample(
            IMAGE, 'it', boxes=boxes, image_id=image, category=category, crowds=crowds,
            task=Task.DETECT,
        )  # fmt: skip

    def row(self, sample, *boxes, status=Status.OK):
        return row_of(sample, boxes, status=status, task=Task.DETECT)

    BIG, SMALL = (0.0, 0.0, 30.0, 30.0), (40.0, 0.0, 50.0, 10.0)

    def test_right_boxes_are_1_and_a_missed_one_costs(self):
        right = coco_ap([self.row(self.sample(self.BIG, self.SMALL), self.BIG, self.SMALL)])
        assert right['ap'] == pytest.approx(1.0) and right['true_boxes'] == 2
        half = coco_ap([self.row(self.sample(self.BIG, self.SMALL), self.BIG)])
        # Precision 1 up to recall 0.5: 51 of 101 points.
        assert half['ap'] == pytest.approx(51 / 101) and half['ar_100'] == pytest.approx(0.5)

    def test_the_score_is_the_area(self):
        # The wrong box is larger than the right one, so it comes first: precision 1/2.
        rows = [self.row(self.sample(self.SMALL), self.SMALL, self.BIG)]
        assert coco_ap(rows)['ap'] == pytest.approx(0.5)
        # A smaller wrong box comes after full recall and costs nothing.
        rows = [self.row(self.sample(self.BIG), self.SMALL, self.BIG)]
        assert coco_ap(rows)['ap'] == pytest.approx(1.0)

    def test_images_and_categories_are_apart_and_failures_have_no_boxes(self):
        rows = [
            self.row(self.sample(self.BIG, category='5'), self.BIG),
            self.row(self.sample(self.BIG, category='6'), status=Status.MALFORMED_ANSWER),
        ]
        assert coco_ap(rows)['ap'] == pytest.approx(0.5)
        assert coco_ap(rows[1:])['ap'] == 0.0
        assert coco_ap([self.row(self.sample(self.BIG, category=''), self.BIG)]) == {}

    def test_what_meets_a_crowd_is_ignored(self):
        sample = self.sample(self.SMALL, crowds=(self.BIG,))
        assert coco_ap([self.row(sample, self.BIG, self.SMALL)])['ap'] == pytest.approx(1.0)
        alone = self.sample(self.BIG, image='2', crowds=(self.BIG,))
        found = coco_ap([self.row(sample, self.SMALL), self.row(alone)])
        assert found['ap'] == pytest.approx(1.0) and found['true_boxes'] == 1


class NoPoints(AttributeReasoner):
    """A reasoner that cannot point and gives boxes only."""

    def reason(self, frame, query, on_text=lambda _: None, cancelled=bool, on_object=None):
        if query.task is not Task.SEGMENT:
            raise UnsupportedTask('It cannot point.')
        objects = []
        grounding = super().reason(frame, query, on_text, cancelled, objects.append)
        for found in objects:
            on_object(GroundedObject(found.box, (), found.label))
        return grounding


@pytest.fixture(scope='module')
def scene_set(tmp_path_factory, png):
    """Sentences about generated scenes, as RefSpatial-Bench writes them."""
    rows = []
    for seed in (700, 701):
        scene = make_scene(seed, width=320, height=240)
        sentences = [one for one in scene.sentences if one.targets][:3]
        for sentence in sentences:
            mask = np.isin(scene.labels, [scene.objects[at].id for at in sentence.targets])
            row = refspatial_row(cell(png(scene.frame.image)), len(rows), 1 + len(rows) % 2)
            rows.append(row | {'object': sentence.text, 'mask': cell(encoded(mask))})
    folder = tmp_path_factory.mktemp('refspatial')
    return write(folder / 'location-00000-of-00001.parquet', rows)


def test_a_points_set_is_evaluated_end_to_end(scene_set, tmp_path):
    words = ['evaluate', str(scene_set), '-o', str(tmp_path), '--profile', 'offline', '-q']
    assert main(words) == 0
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert summary['tasks'] == {'POINT': 6}
    points = summary['points']
    assert points['all']['samples'] == 6 and points['all']['counted'] > 0.5
    assert points['steps: 1']['samples'] + points['steps: 2']['samples'] == 6
    text = (tmp_path / 'report.md').read_text()
    assert '## Points on target' in text and 'innermost' not in text
    rows, whole = RunFolder(tmp_path).rows()
    assert whole and all(row.item.whole is None and row.mask is not None for row in rows)
    assert [bool(row.points) for row in rows] == [row.status is Status.OK for row in rows]
    # Asked to segment, the same set has masks, and its points remain.
    assert main([*words[:3], str(tmp_path / 'masks'), *words[4:], '--task', 'segment']) == 0
    other = json.loads((tmp_path / 'masks' / 'summary.json').read_text())
    assert other['tasks'] == {'SEGMENT': 6} and other['points']['all']['samples'] == 6
    assert other['conventions']['lisa']['figures']['giou'] > 0.3


def test_a_file_of_coco_has_its_ap_and_a_report_of_it(tmp_path, png):
    scene = make_scene(700, width=320, height=240)
    sentence = next(each for each in scene.sentences if len(each.targets) == 1)
    one = scene.objects[sentence.targets[0]]
    other = next(each for each in scene.objects if each is not one)
    (tmp_path / 'a.png').write_bytes(png(scene.frame.image))
    boxes = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in (one.box, other.box)]
    content = {
        'images': [{'id': 1, 'file_name': 'a.png'}],
        'categories': [{'id': 'c', 'name': sentence.text}],
        'annotations': [
            {'id': 1, 'image_id': 1, 'category_id': 'c', 'bbox': list(map(float, boxes[0]))},
            {
                'id': 2,
                'image_id': 1,
                'category_id': 'c',
                'iscrowd': 1,
                'bbox': list(map(float, boxes[1])),
            },
        ],
    }
    path = tmp_path / 'own.json'
    path.write_text(json.dumps(content))
    (sample,) = samples(path)
    assert (sample.category, len(sample.boxes), len(sample.crowds)) == ('c', 1, 1)
    words = ['evaluate', str(path), '-o', str(tmp_path / 'run'), '--profile', 'offline', '-q']
    assert main([*words, '--task', 'detect']) == 0
    summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
    assert summary['tasks'] == {'DETECT': 1} and summary['coco']['queries'] == 1
    assert summary['coco']['ap_50'] == pytest.approx(1.0)
    assert '## COCO' in (tmp_path / 'run' / 'report.md').read_text()


def test_hallusegbench_is_reported(tmp_path, png):
    TestImageFiles().pair(tmp_path, png)
    words = ['evaluate', str(tmp_path), '-o', str(tmp_path / 'run'), '--profile', 'offline', '-q']
    assert main(words) == 0
    summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
    # The embedded reasoner sees nothing in grey images: right about what is not there.
    assert summary['counterfactual']['not_found_counterfactual'] == 1.0
    assert summary['counterfactual']['asked_for_nothing'] == 2
    text = (tmp_path / 'run' / 'report.md').read_text()
    assert '## Counterfactual images' in text and '| counterfactual | 0.0 |' in text


def test_a_model_that_cannot_point_enters_with_its_masks(scene_set):
    pipeline = Pipeline(NoPoints(), GrabCutSegmenter())
    dataset = open_dataset(str(scene_set))
    rows = list(answer_all(dataset.read(range(len(dataset))), [pipeline], None))
    pipeline.close()
    assert all(row.task == 'SEGMENT' for row in rows)
    assert [row.points_from_masks for row in rows] == [bool(row.points) for row in rows]
    assert point_score([row.item for row in rows]).counted > 0.5


def test_the_list_names_each_set_with_its_task_and_licence(capsys):
    assert main(['evaluate', '--list']) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, one in PUBLISHED.items():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert one.task.name.lower() in line and one.repository in line
        assert (one.licence or 'see the Hub') in line
    assert main(['evaluate']) == 2
    assert '--list' in capsys.readouterr().err
