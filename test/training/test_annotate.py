"""Answers about a real bag, and data sets, become rows that can be trained on."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pyarrow import parquet
import pytest
from recordings import Recording, scene_frame

from segzero_ros.cli.main import main
from segzero_ros.evaluation.samples import Sample
from segzero_ros.reasoning.dialects import dialect_named
from segzero_ros.training.annotation import box_of, make_rows, points_of
from segzero_ros.training.presets import load_composition
from segzero_ros.training.row_sources import open_rows

LIST, ONE = dialect_named('vision_reasoner'), dialect_named('seg_zero')


@pytest.fixture(scope='module')
def replayed(tmp_path_factory) -> tuple[Path, Path]:
    """A bag of two images, and the folder of its replay by the offline profile."""
    folder = tmp_path_factory.mktemp('replayed')
    bag = Recording().camera([scene_frame(seed) for seed in (3, 4)]).write(folder / 'kitchen')
    words = ['replay', str(bag), '-o', str(folder / 'run'), '--profile', 'offline', '--quiet']
    words += ['--query', 'the largest thing', '--query', 'the purple banana']
    assert main(words) == 0
    return bag, folder / 'run'


def written(folder: Path) -> list[dict]:
    return parquet.read_table(folder / 'train.parquet').to_pylist()


def annotate(replayed: tuple[Path, Path], output: Path, *more: str) -> int:
    bag, run = replayed
    words = ['annotate', str(bag), '--truth', str(run / 'results.jsonl'), '-o', str(output)]
    return main([*words, '--profile', 'offline', *more])


def answers(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / 'results.jsonl').read_text().splitlines()]


@pytest.mark.slow
def test_a_replay_becomes_rows(replayed, tmp_path, capsys):
    assert annotate(replayed, tmp_path, '--unchecked') == 0
    rows, lines = written(tmp_path), answers(replayed[1])
    assert f'{tmp_path}: 4 rows. Next: segzero train --data {tmp_path}' in capsys.readouterr().out
    assert [row['problem'] for row in rows] == [line['query'] for line in lines]
    for row, line in zip(rows, lines, strict=True):
        truth = json.loads(row['solution'])
        assert len(truth) == len(line['objects'])
        for item, found in zip(truth, line['objects'], strict=True):
            x, y, w, h = found['mask_roi']
            scale = np.array([840 / 320, 840 / 240] * 2)
            box = np.array([x, y, x + w - 1, y + h - 1]) * scale
            np.testing.assert_allclose(item['bbox_2d'], box, atol=0.5)
            assert (row['img_width'], row['img_height']) == (320, 240)
    row = open_rows(str(tmp_path), LIST, 0).read(0)
    answer = f'<think>The large one is here.</think><answer>{row.solution}</answer>'
    assert load_composition('vision_reasoner')(answer, row.solution) == 7


@pytest.mark.slow
def test_the_segmenter_checks_what_it_is_given(replayed, tmp_path):
    assert annotate(replayed, tmp_path / 'a') == 0
    # GrabCut made these masks from their boxes: it finds them again.
    assert len(written(tmp_path / 'a')) == 4
    corrections = tmp_path / 'masks'
    corrections.mkdir()
    # A ring around the whole picture: nothing that a segmenter would make of its box.
    ring = np.zeros((240, 320), np.uint8)
    cv2.rectangle(ring, (0, 0), (319, 239), 255, 3)
    cv2.imwrite(str(corrections / '0.png'), ring)
    assert annotate(replayed, tmp_path / 'b', '--corrections', str(corrections)) == 0
    assert len(written(tmp_path / 'b')) == 3


@pytest.mark.slow
@pytest.mark.parametrize('depth', [np.uint8, np.uint16])
def test_corrected_masks_count(replayed, tmp_path, capsys, depth):
    corrections = tmp_path / 'masks'
    corrections.mkdir()
    drawn = np.zeros((240, 320), depth)
    drawn[40:80, 80:160], drawn[100:180, 200:240] = 1, 2
    cv2.imwrite(str(corrections / '1.png'), drawn)
    more = ['--unchecked', '--corrections', str(corrections)]
    assert annotate(replayed, tmp_path / 'rows', *more) == 0
    truth = json.loads(written(tmp_path / 'rows')[1]['solution'])
    assert [item['bbox_2d'] for item in truth] == [[210, 140, 417, 277], [525, 350, 627, 627]]
    cv2.imwrite(str(corrections / '1.png'), drawn[:50])
    assert annotate(replayed, tmp_path / 'rows', *more) == 2
    assert '1.png has 320x50 pixels, its image 320x240' in capsys.readouterr().err


def test_coco_s_layout_becomes_rows(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.full((100, 200, 3), 90, np.uint8))
    polygons = [[20, 20, 60, 20, 60, 60, 20, 60], [100, 30, 150, 30, 150, 80, 100, 80]]
    shapes = [
        {'id': n, 'image_id': 1, 'segmentation': [polygon], 'text': 'the cups', 'bbox': None}
        for n, polygon in enumerate(polygons)
    ]
    nothing = {'id': 9, 'image_id': 1, 'segmentation': [], 'text': 'a zebra'}
    content = {'images': [{'id': 1, 'file_name': 'a.png'}], 'annotations': [*shapes, nothing]}
    (tmp_path / 'mine.json').write_text(json.dumps(content))
    words = ['annotate', str(tmp_path / 'mine.json'), '-o', str(tmp_path / 'rows'), '--unchecked']
    assert main([*words, '--profile', 'offline']) == 0
    cups, zebra = written(tmp_path / 'rows')
    assert [item['bbox_2d'] for item in json.loads(cups['solution'])] == [
        [84, 168, 248, 496],
        [420, 252, 626, 664],
    ]
    assert (zebra['problem'], json.loads(zebra['solution'])) == ('a zebra', [])


def test_what_has_no_mask_is_left_out_and_never_taught_as_nothing(tmp_path, capsys):
    cv2.imwrite(str(tmp_path / 'a.png'), np.full((100, 200, 3), 90, np.uint8))
    marked = {'text': 'the cup', 'segmentation': [[20, 20, 60, 20, 60, 60, 20, 60]]}
    boxed = {'text': 'the pan', 'segmentation': [], 'bbox': [100, 30, 50, 50]}
    counted = {'text': 'a person', 'keypoints': [120, 40, 2]}
    nothing = {'text': 'a zebra', 'segmentation': []}
    found = (marked, boxed, counted, nothing)
    annotations = [{'id': n, 'image_id': 1, **one} for n, one in enumerate(found)]
    content = {'images': [{'id': 1, 'file_name': 'a.png'}], 'annotations': annotations}
    (tmp_path / 'mine.json').write_text(json.dumps(content))
    words = ['annotate', str(tmp_path / 'mine.json'), '-o', str(tmp_path / 'rows')]
    assert main([*words, '--unchecked', '--profile', 'offline']) == 0
    rows = {row['problem']: json.loads(row['solution']) for row in written(tmp_path / 'rows')}
    assert list(rows) == ['the cup', 'a zebra']
    assert len(rows['the cup']) == 1 and rows['a zebra'] == []
    assert '2 skipped: it has no mask' in capsys.readouterr().err


def test_an_object_that_a_person_rubbed_out_is_taught_as_nothing(tmp_path):
    sample = Sample(np.zeros((40, 60, 3), np.uint8), 'x', mask=np.ones((40, 60), np.bool_))
    cv2.imwrite(str(tmp_path / '0.png'), np.zeros((40, 60), np.uint8))
    (row,) = make_rows([(0, sample)], LIST, None, tmp_path)
    assert row['solution'] == '[]'


@pytest.mark.slow
@pytest.mark.parametrize('orientation', range(1, 9))
def test_a_picture_that_the_camera_stored_lying_becomes_a_row_as_it_is_shown(
    tmp_path, orientation
):
    exif = Image.Exif()
    exif[0x112] = orientation
    shown = np.full((48, 96, 3), 255, np.uint8)
    shown[8:20, 60:88] = (255, 0, 0)
    undo = (None, 0, 3, 1, 5, 2, 6, 4)[orientation - 1]
    picture = Image.fromarray(shown)
    picture = picture if undo is None else picture.transpose(Image.Transpose(undo))
    picture.save(tmp_path / 'a.jpg', quality=98, exif=exif)
    corners = [60, 8, 88, 8, 88, 20, 60, 20]
    annotation = {'id': 1, 'image_id': 1, 'text': 'the red thing', 'segmentation': [corners]}
    image = {'id': 1, 'file_name': 'a.jpg', 'width': 96, 'height': 48}
    (tmp_path / 'mine.json').write_text(
        json.dumps({'images': [image], 'annotations': [annotation]})
    )
    words = ['annotate', str(tmp_path / 'mine.json'), '-o', str(tmp_path / 'rows'), '--unchecked']
    assert main([*words, '--profile', 'offline']) == 0
    (found,) = written(tmp_path / 'rows')
    row = open_rows(str(tmp_path / 'rows'), LIST, 0).read(0)
    x1, y1, x2, y2 = json.loads(row.solution)[0]['bbox_2d']
    red = (row.image[..., 0] > 128) & (row.image[..., 1] < 128)
    assert red[y1:y2, x1:x2].mean() > 0.9
    red[y1 - 20 : y2 + 35, x1 - 20 : x2 + 25] = False
    assert not red.any() and (found['img_width'], found['img_height']) == (96, 48)


class TestPoints:
    def test_two_blobs_get_a_point_each(self):
        mask = np.zeros((100, 200), np.bool_)
        mask[10:60, 10:60], mask[30:60, 140:170], mask[44:46, 60:140] = True, True, True
        first, second = points_of(mask)
        assert abs(np.array(first) - (34, 34)).max() <= 1
        assert abs(np.array(second) - (154, 44)).max() <= 1
        assert box_of(mask) == (10, 10, 169, 59)

    def test_a_single_pixel_will_do(self):
        mask = np.zeros((5, 5), np.bool_)
        mask[2, 3] = True
        assert points_of(mask) == ((3, 2), (3, 2))

    def test_one_object_in_seg_zero_s_form(self):
        mask = np.zeros((420, 840), np.bool_)
        mask[100:200, 100:400] = True
        sample = Sample(np.zeros((420, 840, 3), np.uint8), 'x', mask=mask)
        (row,) = make_rows([(0, sample)], ONE, None)
        assert row['solution'].startswith('<box>(100,200),(399,398)</box><points>(')
        two = Sample(sample.image, 'x', masks=(mask, ~mask))
        assert list(make_rows([(0, two)], ONE, None)) == ['the dialect needs exactly one object']


def test_a_replay_without_its_bag_says_what_to_name(replayed, tmp_path, capsys):
    assert main(['annotate', str(replayed[1]), '-o', str(tmp_path)]) == 2
    assert f'--truth {replayed[1]}/results.jsonl' in capsys.readouterr().err
