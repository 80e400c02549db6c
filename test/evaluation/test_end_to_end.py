"""A file in the hub's layout through the real command and real model classes, small ones."""

from collections.abc import Callable
import json
from pathlib import Path
import subprocess
import sys
import time

import numpy as np
import pytest

from segzero_ros.cli.main import main

# The boxes that the small model knows, in the order of `example_pairs`.
RED, BLUE, GREEN = (80, 150, 240, 330), (400, 180, 560, 380), (60, 40, 180, 200)
TRUE = ((RED,), (BLUE,), (BLUE,), (GREEN, (90, 400, 220, 600)), ())
DEADLINE = 60.0


def hub_rows(make_tiny_checkpoints, png) -> list[dict]:
    """Return what the small model was taught, and once more, as rows of the hub's layout."""
    rows = []
    for number, (pair, boxes) in enumerate(
        2 * list(zip(make_tiny_checkpoints.example_pairs(), TRUE, strict=True))
    ):
        picture = np.asarray(pair.image)
        mask = np.zeros(picture.shape[:2], bool)
        for x1, y1, x2, y2 in boxes:
            mask[y1:y2, x1:x2] = True
        rows.append(
            {
                'image': {'bytes': png(picture), 'path': None},
                'text': pair.query,
                'mask': mask.tolist(),
                'bbox': list(map(float, boxes[0])) if boxes else [0.0, 0.0, 0.0, 0.0],
                'count': len(boxes),
                'image_id': str(number),
                'ann_id': str(number),
                'img_height': picture.shape[0],
                'img_width': picture.shape[1],
            }
        )
    return rows


@pytest.fixture(scope='module')
def taught(make_tiny_checkpoints, tmp_path_factory, png, writing) -> Path:
    """The file."""
    path = tmp_path_factory.mktemp('taught') / 'test-00000-of-00001.parquet'
    return writing(path, hub_rows(make_tiny_checkpoints, png))


@pytest.fixture(scope='module')
def command(taught, tiny_qwen2_5_vl, tiny_sam2) -> Callable[..., list[str]]:
    """Return the words of the command."""

    def words(folder: Path, *further: str) -> list[str]:
        models = (f'reasoner.model:={tiny_qwen2_5_vl}', f'segmenter.model:={tiny_sam2}')
        parameters = [f'-p{text}' for text in (*models, 'device:=cpu')]
        return ['evaluate', str(taught), '-o', str(folder), '-q', *parameters, *further]

    return words


@pytest.fixture(scope='module')
def whole(command, tmp_path_factory) -> Path:
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp('whole')
    assert main(command(folder)) == 0
    return folder


def summary_of(folder: Path) -> dict:
    """Return the figures that do not depend on the machine."""
    summary = json.loads((folder / 'summary.json').read_text())
    del summary['timing']
    return summary


def answers_of(folder: Path) -> list[dict]:
    """Return the answers without what they took."""
    lines = (folder / 'items.jsonl').read_text().splitlines()
    return [{**json.loads(line), 'seconds': None} for line in lines]


def test_what_the_model_knows_is_what_the_figures_say(whole):
    summary = summary_of(whole)
    assert summary['statuses'] == {'NOT_FOUND': 2, 'OK': 8}
    figures = summary['conventions']['vision_reasoner']['figures']
    # Every box is right; the two questions about nothing have none, by either rule.
    assert figures['scored'] == 10 and figures['failed'] == 0
    assert figures['bbox_ap'] == pytest.approx(0.8)
    assert figures['point_accuracy'] == 1.0 and figures['n_acc'] == 1.0
    assert figures['count_mae'] == 0.0 and figures['count_accuracy'] == 1.0
    assert summary['tokens']['mean'] > 10
    # The masks are those of random weights, counted here once more from the lines.
    ious = []
    for line in answers_of(whole)[:-1]:
        intersection, union, _ = line['item']['whole']
        ious.append(intersection / union if union else 0.0)
    assert figures['giou'] == pytest.approx(np.mean(ious), abs=1e-12)


def test_a_killed_run_goes_on_to_the_same_answers(command, whole, tmp_path):
    folder = tmp_path / 'run'
    code = 'import sys; from segzero_ros.cli.main import main; sys.exit(main(sys.argv[1:]))'
    process = subprocess.Popen([sys.executable, '-c', code, *command(folder)])
    lines = folder / 'items.jsonl'
    end = time.monotonic() + DEADLINE
    while not (lines.exists() and lines.read_bytes().count(b'\n') >= 2):
        assert process.poll() is None and time.monotonic() < end
        try:
            process.wait(0.01)
        except subprocess.TimeoutExpired:
            continue
    process.kill()
    process.wait()
    kept = lines.read_bytes()
    assert b'"end"' not in kept
    assert main(command(folder)) == 0
    assert lines.read_bytes().startswith(kept[: kept.rindex(b'\n') + 1])
    assert answers_of(folder) == answers_of(whole)
    assert summary_of(folder) == summary_of(whole)


def test_shards_merged_are_the_whole(command, whole, tmp_path):
    parts = [tmp_path / '1', tmp_path / '2']
    for number, folder in enumerate(parts, start=1):
        assert main(command(folder, '--shard', f'{number}/2')) == 1
    words = ['evaluate', 'merge', *map(str, parts), '-o', str(tmp_path / 'all'), '-q']
    assert main(words) == 0
    assert summary_of(tmp_path / 'all') == summary_of(whole)


def test_a_server_is_asked_several_questions_at_a_time(
    command, whole, transformers_server, tiny_qwen2_5_vl, tmp_path
):
    served = ('--profile', 'remote', f'-pserver.base_url:={transformers_server}')
    assert main(command(tmp_path, *served, '--concurrency', '4')) == 0
    kept = ('text', 'raw_answer', 'boxes', 'points', 'mask', 'item', 'index')
    assert [{name: line.get(name) for name in kept} for line in answers_of(tmp_path)] == [
        {name: line.get(name) for name in kept} for line in answers_of(whole)
    ]


def test_a_model_in_the_process_is_asked_one_at_a_time(command, tmp_path, capsys):
    assert main(command(tmp_path, '--concurrency', '2')) == 2
    assert 'one query at a time' in capsys.readouterr().err
