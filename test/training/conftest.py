"""A small model that has learnt a few answers, and rows about the same pictures."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from made_once import made_once
import numpy as np
import pytest


@pytest.fixture(scope='session')
def taught(make_tiny_checkpoints: Any) -> Path:
    """Folder of a small Qwen2.5-VL that answers in the dialect of 224 pixels, not quite surely."""
    made = make_tiny_checkpoints
    red = made.scene(224, 224, (40, 60, 120, 160, 'red'))
    blue = made.scene(224, 224, (100, 30, 200, 130, 'blue'))
    pairs = [
        made.Pair(red, 'the red box', _said((40, 60, 120, 160)), 'mini'),
        made.Pair(blue, 'the blue box', _said((100, 30, 200, 130)), 'mini'),
    ]
    return made_once('taught', lambda folder: made.make_tiny_qwen(folder, pairs=pairs))


def _said(box: tuple[int, int, int, int]) -> str:
    x1, y1, x2, y2 = box
    item = {'bbox_2d': list(box), 'point_2d': [(x1 + x2) // 2, (y1 + y2) // 2]}
    return f'<think>There is one box.</think><answer>{json.dumps([item])}</answer>'


@pytest.fixture(scope='session')
def rows_folder(make_tiny_checkpoints: Any, tmp_path_factory: Any) -> Path:
    """Folder of rows in the published schema: 840 by 840 pixels."""
    import cv2
    import pyarrow as pa
    from pyarrow import parquet

    made = make_tiny_checkpoints
    rows = []
    for number, (box, colour) in enumerate(
        [((150, 225, 450, 600), 'red'), ((375, 112, 750, 487), 'blue')] * 4
    ):
        image = made.scene(840, 840, (*box, colour))
        data = io.BytesIO(cv2.imencode('.png', np.ascontiguousarray(image[:, :, ::-1]))[1])
        item = {'bbox_2d': list(box), 'point_2d': [(box[0] + box[2]) // 2, 300]}
        rows.append(
            {
                'id': str(number),
                'problem': f'the {colour} box',
                'solution': json.dumps([item]),
                'image': {'bytes': data.getvalue(), 'path': None},
                'img_height': 840,
                'img_width': 840,
            }
        )
    folder = tmp_path_factory.mktemp('rows')
    table = pa.Table.from_pylist(rows)
    parquet.write_table(table, folder / 'train-00000.parquet')
    return folder
