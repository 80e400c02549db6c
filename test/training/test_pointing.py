"""Training rows for pointing: true objects that are a point alone."""

from __future__ import annotations

from dataclasses import replace
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('trl')
pytest.importorskip('peft')
pa = pytest.importorskip('pyarrow')

from pyarrow import parquet

from segzero_ros.reasoning.dialects import dialect_named
from segzero_ros.training.presets import load_composition, TrainingError
from segzero_ros.training.row_sources import open_rows, rewarded
from segzero_ros.training.rows import answer_of, solution_for, true_boxes
from segzero_ros.training.settings import load_settings
from segzero_ros.training.trainer import train

VISION_REASONER = dialect_named('vision_reasoner')
POINTS = [{'point_2d': [320, 120]}, {'point_2d': [64, 480], 'label': 'room'}]
BOTH = [{'bbox_2d': [0, 0, 640, 480], 'point_2d': [320, 120]}]


def write(folder: Path, *solutions: object, width: int = 640, height: int = 480) -> Path:
    """Write rows about a grey image."""
    folder.mkdir(parents=True, exist_ok=True)
    image = cv2.imencode('.png', np.full((height, width, 3), 110, np.uint8))[1].tobytes()
    rows = [
        {
            'problem': 'where is room for the plate?',
            'solution': json.dumps(solution),
            'image': {'bytes': image, 'path': None},
            'img_width': width,
            'img_height': height,
        }
        for solution in solutions
    ]
    parquet.write_table(pa.Table.from_pylist(rows), folder / 'rows.parquet')
    return folder


def test_points_are_squashed_with_their_picture(tmp_path: Path) -> None:
    row = open_rows(str(write(tmp_path, POINTS)), VISION_REASONER, 0).read(0)
    assert json.loads(row.solution) == [{'point_2d': [420, 210]}, {'point_2d': [84, 840]}]
    assert true_boxes(row.solution) == []
    # The answer that SFT teaches is one that the node reads.
    found = VISION_REASONER.parse(answer_of(row, VISION_REASONER), 640, 480).objects
    assert [(one.box, one.points) for one in found] == [
        (None, ((320.0, 120.0),)),
        (None, ((64.0, 480.0),)),
    ]


@pytest.mark.parametrize(
    'item',
    [{}, {'point_2d': [1]}, {'bbox_2d': [1, 2, 3, 4]}, {'bbox_2d': None, 'point_2d': [1, 2]}],
)
def test_a_row_with_neither_is_refused(item: dict[str, object]) -> None:
    with pytest.raises(TrainingError, match='each object needs'):
        solution_for(VISION_REASONER, json.dumps([item]))


@pytest.mark.parametrize('reward', ['vision_reasoner', 'seg_zero', 'seg_zero_strict'])
def test_a_reward_that_would_be_the_same_for_every_answer_is_refused(
    tmp_path: Path, reward: str
) -> None:
    rows = open_rows(str(write(tmp_path, BOTH, POINTS, [])), VISION_REASONER, 0)
    taught = rewarded(rows, load_composition(reward))
    for number in (0, 2):
        assert taught.read(number).solution == rows.read(number).solution
    with pytest.raises(TrainingError, match=rf'row 1: .* reward {reward} .* the reward robot'):
        taught.read(1)
    assert rewarded(rows, load_composition('robot')).read(1).solution == rows.read(1).solution


# The small model is trained on the spot.
@pytest.mark.timeout(600)
@pytest.mark.slow
def test_a_model_is_trained_and_validated_on_points(taught: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    data = write(tmp_path / 'rows', POINTS[:1], POINTS, width=840, height=840)
    settings = load_settings(
        'mini',
        {
            'model': str(taught), 'data': str(data), 'validation': str(data),
            'output': str(tmp_path / 'run'), 'reward': 'robot', 'steps': 1, 'prompts': 2,
            'generations': 4, 'micro_batch': 8, 'max_completion': 80, 'validation_rows': 2,
        },
    )  # fmt: skip
    train(settings)
    torch.set_num_threads(threads)
    lines = [
        json.loads(line) for line in (settings.folder / 'figures.jsonl').read_text().splitlines()
    ]
    validated = [line for line in lines if 'validation_reward' in line]
    assert validated and all('validation_box_giou' not in line for line in validated)
    assert all(0 <= line['validation_honest_accuracy'] <= 3 for line in validated)
    with pytest.raises(TrainingError, match='row 0: its objects are points without boxes'):
        train(replace(settings, reward='vision_reasoner', output=str(tmp_path / 'other')))
