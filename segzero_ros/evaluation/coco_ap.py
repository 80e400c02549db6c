"""COCO's AP of boxes, with pycocotools, scored as in VisionReasoner's published script.

A language model gives no scores: a box's score is its area over the image's. Boxes of an image
without true boxes have score 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
import io
from typing import Any

from segzero_ros.evaluation.records import SampleRecord
from segzero_ros.evaluation.samples import DataError
from segzero_ros.extras import lacking

# Where COCOeval.stats has the figures; AR with at most 100 boxes.
_STATS = {'ap': 0, 'ap_50': 1, 'ap_75': 2, 'ar_100': 8}


def coco_ap(rows: Sequence[SampleRecord]) -> dict[str, float]:
    """Return AP (mean over IoU 0.5 to 0.95), AP at 0.5 and 0.75, and AR; empty without categories.

    The ground truth is that of the answered samples. An answer that failed has no boxes.

    Args:
        rows: the answers, one for each image and category.

    Returns:
        ap, ap_50, ap_75 and ar_100, fractions from 0 to 1; queries, boxes, true_boxes.

    Raises:
        DataError: pycocotools is not installed.
    """
    rows = [row for row in rows if row.category]
    if not any(row.true_boxes for row in rows):
        return {}
    images = _numbered([_image(row) for row in rows])
    categories = _numbered([row.category for row in rows])
    true: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for row in rows:
        where = {'image_id': images[_image(row)], 'category_id': categories[row.category]}
        # A crowd alone is the target of its query, but no object to COCO.
        objects = [box for box in row.true_boxes if box not in row.crowds]
        for boxes, crowd in ((objects, 0), (row.crowds, 1)):
            for x1, y1, x2, y2 in boxes:
                one = {'bbox': [x1, y1, x2 - x1, y2 - y1], 'area': (x2 - x1) * (y2 - y1)}
                # COCOeval takes an id of 0 for "no match".
                true.append({**where, **one, 'iscrowd': crowd, 'id': len(true) + 1})
        found += [{**where, **one} for one in _detections(row)]
    counts = {
        'queries': len(rows),
        'boxes': len(found),
        'true_boxes': sum(not one['iscrowd'] for one in true),
    }
    stats = [0.0] * 12 if not found else _evaluated(images, categories, true, found)
    return {**{name: float(stats[at]) for name, at in _STATS.items()}, **counts}


def _image(row: SampleRecord) -> str:
    return row.image_id or f'row {row.index}'


def _numbered(names: Sequence[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(dict.fromkeys(names), start=1)}


def _detections(row: SampleRecord) -> list[dict[str, Any]]:
    width, height = row.size
    found = []
    for x1, y1, x2, y2 in row.boxes:
        if x1 is None or y1 is None or x2 is None or y2 is None:
            continue
        share = (x2 - x1) * (y2 - y1) / (width * height)
        score = share if row.true_boxes else 0.0
        found.append({'bbox': [x1, y1, x2 - x1, y2 - y1], 'score': score})
    return found


def _evaluated(
    images: Mapping[str, int],
    categories: Mapping[str, int],
    true: list[dict[str, Any]],
    found: list[dict[str, Any]],
) -> Sequence[float]:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise DataError(f'{lacking("COCO AP needs", error, "data")}.') from error
    # pycocotools prints its progress.
    with redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            'info': {},
            'images': [{'id': number} for number in images.values()],
            'categories': [{'id': number, 'name': name} for name, number in categories.items()],
            'annotations': true,
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats: Sequence[float] = evaluation.stats.tolist()
    return stats
