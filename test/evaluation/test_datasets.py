"""Every layout gives the samples that were put into it, and says what is wrong otherwise."""

import json
from pathlib import Path
import subprocess
import sys

import cv2
import numpy as np
import pytest

from segzero_ros.evaluation.datasets import open_dataset, published_name
from segzero_ros.evaluation.hub import PUBLISHED
from segzero_ros.evaluation.samples import DataError, decode_labelled_image
from segzero_ros.evaluation.shapes import draw_shapes
from segzero_ros.replay.coco_rle import to_rle

SQUARE = [[2, 1], [6, 1], [6, 4], [2, 4]]


def write_picture(path: Path, height: int = 8, width: int = 10) -> np.ndarray:
    picture = np.random.default_rng(1).integers(0, 255, (height, width, 3), np.uint8)
    cv2.imwrite(str(path), picture[..., ::-1])
    return picture


@pytest.mark.slow
def test_a_parquet_file_gives_the_rows_that_were_written(parquet_file, rows):
    dataset = open_dataset(str(parquet_file))
    found = list(dataset.read(range(len(dataset))))
    assert [index for index, _ in found] == list(range(len(rows)))
    for (_, sample), row in zip(found, rows, strict=True):
        assert sample.text == row['text']
        assert np.array_equal(sample.mask, np.array(row['mask']))
        assert sample.mask.dtype == np.bool_
        assert sample.image.shape == (240, 320, 3)
        assert sample.boxes == (tuple(row['bbox']),)
        assert (sample.count, sample.image_id) == (row['count'], row['image_id'])
        assert sample.ann_id == row['ann_id']


def test_any_part_of_several_files_can_be_read(tmp_path, rows, writing):
    for part, chosen in enumerate((rows[:5], rows[5:])):
        writing(tmp_path / 'data' / f'test-{part:05d}-of-00002.parquet', chosen)
    dataset = open_dataset(str(tmp_path))
    assert len(dataset) == len(rows)
    for part in (range(0), range(1), range(2, 7), range(4, 6), range(7, len(rows))):
        found = list(dataset.read(part))
        assert [index for index, _ in found] == list(part)
        assert [sample.ann_id for _, sample in found] == [rows[i]['ann_id'] for i in part]


def test_sets_without_masks_or_boxes_are_read(tmp_path, rows, writing):
    counts = open_dataset(str(writing(tmp_path / 'a.parquet', rows, ('mask', 'bbox'))))
    sample = next(counts.read(range(1)))[1]
    assert sample.mask is None and sample.count == rows[0]['count'] and sample.boxes == ()
    masks = open_dataset(str(writing(tmp_path / 'b.parquet', rows, ('count', 'bbox'))))
    sample = next(masks.read(range(1)))[1]
    assert sample.mask is not None and sample.count is None


@pytest.mark.slow
def test_many_large_masks_need_little_memory(tmp_path):
    code = """
import resource, sys
import numpy as np, pyarrow as pa
from pyarrow import parquet
from pathlib import Path
sys.path[:0] = [sys.argv[2]]
from conftest import as_png
from segzero_ros.evaluation.datasets import open_dataset
path = Path(sys.argv[1])
if not path.exists():
    flat = pa.array(np.random.default_rng(0).random(900 * 1200) < 0.5)
    rows = pa.ListArray.from_arrays(pa.array(np.arange(901, dtype=np.int32) * 1200), flat)
    one = pa.ListArray.from_arrays(pa.array(np.array([0, 900], np.int32)), rows)
    picture = as_png(np.zeros((900, 1200, 3), np.uint8))
    image = pa.array([{'bytes': picture, 'path': ''}])
    table = pa.table({'image': image, 'text': ['it'], 'mask': one})
    parquet.write_table(pa.concat_tables([table] * 50), path, row_group_size=50)
else:
    dataset = open_dataset(str(path))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(int(s.mask.any()) for _, s in dataset.read(range(len(dataset)))) == 50
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    arguments = [
        sys.executable,
        '-c',
        code,
        str(tmp_path / 'a.parquet'),
        str(Path(__file__).parent),
    ]
    subprocess.run(arguments, check=True)
    found = subprocess.run(arguments, check=True, capture_output=True, text=True)
    # The masks alone are 54 MB as booleans, and would be half a gigabyte as lists.
    assert int(found.stdout) < 50


@pytest.mark.slow
def test_the_hubs_cache_is_read_without_the_hub(tmp_path, rows, writing, monkeypatch):
    cache = tmp_path / 'datasets--Ricky06662--ReasonSeg_test'
    (cache / 'refs').mkdir(parents=True)
    (cache / 'refs' / 'main').write_text('abc')
    writing(cache / 'snapshots' / 'abc' / 'data' / 'test-00000-of-00001.parquet', rows)
    code = (
        'from segzero_ros.evaluation.datasets import open_dataset;'
        'print(len(open_dataset("reasonseg_test", offline=True)))'
    )
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path))
    found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert found.stdout.split() == [str(len(rows))], found.stderr


@pytest.mark.slow
def test_a_set_that_is_not_there_says_so_offline(tmp_path, monkeypatch):
    code = (
        'from segzero_ros.evaluation.datasets import open_dataset;'
        'open_dataset("reasonseg_val", offline=True)'
    )
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path))
    found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert 'not cached on this machine' in found.stderr


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setenv('HF_ENDPOINT', 'http://127.0.0.1:9')
    words = ['segzero_ros.cli.main', 'evaluate', 'reasonseg_val', '--profile', 'offline']
    code = 'import sys; from segzero_ros.cli.main import main; sys.exit(main(sys.argv[2:]))'
    found = subprocess.run(
        [sys.executable, '-c', code, *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert found.returncode == 2
    assert len(found.stderr.splitlines()) == 1 and 'cannot be downloaded' in found.stderr


def test_an_incomplete_set_of_parts_is_no_set(tmp_path, rows, writing):
    writing(tmp_path / 'test-00000-of-00002.parquet', rows)
    with pytest.raises(DataError, match='complete'):
        open_dataset(str(tmp_path))


def test_published_sets_are_known_by_all_their_names():
    assert published_name('Ricky06662/ReasonSeg_test') == 'reasonseg_test'
    assert published_name('/data/ReasonSeg_val') == 'reasonseg_val'
    assert published_name('mine.json') == ''
    assert PUBLISHED['reasonseg_test'].samples == 779


def test_reasonsegs_folder_gives_polygons_and_ignored_regions(tmp_path):
    picture = write_picture(tmp_path / 'a.png')
    content = {
        'text': ['the square', 'another question'],
        'is_sentence': True,
        'shapes': [
            {'label': 'target', 'points': SQUARE},
            {'label': 'ignore', 'points': [[3, 2], [4, 2], [4, 3], [3, 3]]},
            {'label': 'flag', 'points': [[0, 0], [9, 0], [9, 7]]},
        ],
    }
    (tmp_path / 'a.json').write_text(json.dumps(content))
    dataset = open_dataset(str(tmp_path))
    ((index, sample),) = dataset.read(range(len(dataset)))
    assert (index, sample.text, sample.image_id) == (0, 'the square', 'a')
    assert np.array_equal(sample.image, picture)
    expected = np.zeros((8, 10), np.bool_)
    expected[1:5, 2:7] = True
    assert np.array_equal(sample.mask | sample.ignore, expected)
    assert sample.ignore.sum() == 4 and not (sample.mask & sample.ignore).any()


def test_smaller_polygons_are_drawn_over_larger_ones():
    inner = {'label': 'target', 'points': [[3, 2], [5, 2], [5, 3], [3, 3]]}
    outer = {'label': 'Ignore this', 'points': SQUARE}
    for shapes in ([inner, outer], [outer, inner]):
        values = draw_shapes(shapes, 8, 10)
        assert (values == 1).sum() == 6 and (values == 255).sum() == 20 - 6


def test_polygons_in_the_code_page_of_windows_are_read(tmp_path):
    write_picture(tmp_path / 'a.jpg')
    content = {'text': ['the “square”'], 'shapes': []}
    data = json.dumps(content, ensure_ascii=False).encode('cp1252')
    (tmp_path / 'a.json').write_bytes(data)
    ((_, sample),) = open_dataset(str(tmp_path)).read(range(1))
    assert sample.text == 'the “square”' and not sample.mask.any()


def test_ones_own_json_gives_a_question_per_picture_and_text(tmp_path):
    write_picture(tmp_path / 'a.png')
    crowd = np.zeros((8, 10), np.bool_)
    crowd[6:, :3] = True
    row = np.zeros((8, 10), np.bool_)
    row[0, 7:] = True
    runs = [0]
    for value in row.ravel(order='F'):
        same = value == (len(runs) % 2 == 0)
        runs = [*runs[:-1], runs[-1] + 1] if same else [*runs, 1]
    content = {
        'images': [{'id': 7, 'file_name': 'a.png', 'height': 8, 'width': 10}],
        'categories': [{'id': 3, 'name': 'bar'}],
        'annotations': [
            {'id': 1, 'image_id': 7, 'text': 'squares', 'bbox': [2, 1, 5, 4],
             'segmentation': [[value for point in SQUARE for value in point]]},
            {'id': 2, 'image_id': 7, 'category_id': 3,
             'segmentation': {'size': [8, 10], 'counts': runs}},
            {'id': 3, 'image_id': 7, 'text': 'squares', 'iscrowd': 1,
             'segmentation': {'size': [8, 10], 'counts': to_rle(crowd)}},
            {'id': 4, 'image_id': 7, 'text': 'nothing', 'segmentation': []},
        ],
    }  # fmt: skip
    (tmp_path / 'own.json').write_text(json.dumps(content))
    dataset = open_dataset(str(tmp_path / 'own.json'))
    squares, bar, nothing = (sample for _, sample in dataset.read(range(len(dataset))))
    assert (squares.text, bar.text, nothing.text) == ('squares', 'bar', 'nothing')
    assert squares.mask[1:4, 2:6].all() and squares.mask.sum() == 12
    assert np.array_equal(squares.ignore, crowd)
    assert squares.boxes == ((2.0, 1.0, 7.0, 5.0),) and squares.count == 1
    assert np.array_equal(bar.mask, row)
    assert not nothing.mask.any() and nothing.count == 0


def test_grey_and_transparent_pictures_become_rgb():
    grey = cv2.imencode('.png', np.full((4, 6), 9, np.uint8))[1].tobytes()
    assert decode_labelled_image(grey, '').tolist() == np.full((4, 6, 3), 9).tolist()
    clear = cv2.imencode('.png', np.full((4, 6, 4), (1, 2, 3, 0), np.uint8))[1].tobytes()
    assert decode_labelled_image(clear, '')[0, 0].tolist() == [3, 2, 1]


@pytest.mark.parametrize(
    ('name', 'content', 'reason'),
    [
        ('nowhere', None, 'neither a file, a folder'),
        ('a.json', '{"images": []}', 'annotations'),
        ('a.json', '{"images": [], "annotations": []}', 'has no annotations'),
        ('a.json', '{"images": [{"id": 1}], "annotations": []}', 'file_name'),
        ('a.parquet', 'PAR?', 'parquet'),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=reason):
        open_dataset(str(tmp_path / name))
