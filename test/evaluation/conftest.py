"""Data sets made on the spot, in the layouts that are read."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from segzero_ros.simulation.scenes import make_scene

SCENES = (700, 701)


def as_png(image: np.ndarray) -> bytes:
    """Encode an RGB picture."""
    return cv2.imencode('.png', cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def scene_rows(seeds: tuple[int, ...] = SCENES, most: int = 6) -> list[dict]:
    """Return sentences about generated scenes as rows of the published layout."""
    rows = []
    for seed in seeds:
        scene = make_scene(seed, width=320, height=240)
        data = as_png(scene.frame.image)
        for number, sentence in enumerate(scene.sentences[:: 27 // most][:most]):
            mask = np.isin(scene.labels, [scene.objects[i].id for i in sentence.targets])
            x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
            rows.append(
                {
                    'image': {'bytes': data, 'path': f'{seed}.png'},
                    'text': sentence.text,
                    'mask': mask.tolist(),
                    'bbox': [float(value) for value in (x, y, x + w, y + h)],
                    'count': len(sentence.targets),
                    'image_id': str(seed),
                    'ann_id': f'{seed}_{number}',
                    'img_height': 240,
                    'img_width': 320,
                }
            )
    return rows


def write_parquet(path: Path, rows: list[dict], without: tuple[str, ...] = ()) -> Path:
    """Write rows as the hub does, three to a row group."""
    import pyarrow as pa
    from pyarrow import parquet

    fields = {
        'image': pa.struct([('bytes', pa.binary()), ('path', pa.string())]),
        'text': pa.string(),
        'mask': pa.list_(pa.list_(pa.bool_())),
        'bbox': pa.list_(pa.float64()),
        'count': pa.int64(),
        'image_id': pa.string(),
        'ann_id': pa.string(),
        'img_height': pa.int64(),
        'img_width': pa.int64(),
    }
    schema = pa.schema([(name, kind) for name, kind in fields.items() if name not in without])
    kept = [{name: row[name] for name in schema.names} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(kept, schema), path, row_group_size=3)
    return path


@pytest.fixture(scope='session')
def rows() -> list[dict]:
    """Rows of the published layout, made once."""
    return scene_rows()


@pytest.fixture(scope='session')
def parquet_file(rows, tmp_path_factory) -> Path:
    """A file of those rows."""
    return write_parquet(tmp_path_factory.mktemp('hub') / 'test-00000-of-00001.parquet', rows)


@pytest.fixture(scope='session')
def writing() -> Callable[..., Path]:
    """Return how rows are written."""
    return write_parquet


@pytest.fixture(scope='session')
def png() -> Callable[[np.ndarray], bytes]:
    """Return how pictures are encoded."""
    return as_png
