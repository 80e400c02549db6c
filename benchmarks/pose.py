"""Accuracy of 3-D boxes on generated table-tops with a noisy depth camera.

Run `python -m benchmarks.pose --scenes 100 --seed 200000`. By default with the true masks, to
measure only the pose estimation; with `--predicted-masks` with GrabCut's masks of the true boxes.

Position: distance between the centres of the true and the estimated box, and the fraction within
1 cm + 1 % of the range. Size: median over the three extents of |estimate / truth - 1|.
Orientation: smallest rotation between the two boxes, up to a box's symmetry, without solids of
revolution. Objects need a visible fraction of at least 60 %.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import permutations, product
import json
from pathlib import Path
import time

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from segzero_ros.loading import load_segmenter, SegmenterOptions
from segzero_ros.segmentation.base import Segmenter
from segzero_ros.simulation.scenes import make_scene, Scene
from segzero_ros.spatial import lift
from segzero_ros.types import GroundedObject, Grounding, Mask, Pose3D, PoseStatus

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """The pose estimate of one object.

    Attributes:
        seed: of the scene.
        kind: the object's.
        index: in Scene.objects.
        status: the pose's.
        position_m: error of the centre; NaN without a pose, as the next two.
        allowed_m: 1 cm + 1 % of the range.
        size: median relative error of the three extents.
        angle_deg: error of the orientation; NaN for solids of revolution.
        milliseconds: for the first object of a frame, planes included; for others the rest.
        first: whether it was the first of its frame.
    """

    seed: int
    kind: str
    index: int
    status: str
    position_m: float
    allowed_m: float
    size: float
    angle_deg: float
    milliseconds: float
    first: bool


def rotation_of(pose: Pose3D) -> Array:
    """Return a pose's (3, 3) rotation matrix."""
    vector, w = np.array(pose.orientation[:3]), pose.orientation[3]
    length = float(np.linalg.norm(vector))
    angle = 2 * np.arctan2(length, w)
    return np.asarray(cv2.Rodrigues(vector / max(length, 1e-12) * angle)[0])


def _turns() -> list[Array]:
    """Return the 24 rotations that map a box's axes to axes."""
    found = []
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        matrix = np.zeros((3, 3))
        matrix[order, range(3)] = signs
        if np.linalg.det(matrix) > 0:
            found.append(matrix)
    return found


_TURNS = _turns()


def compare(estimate: Pose3D, truth: Pose3D) -> tuple[float, float]:
    """Return two boxes' median relative difference of extents, and their angle in degrees."""
    relative = rotation_of(truth).T @ rotation_of(estimate)
    turn = max(_TURNS, key=lambda matrix: float(np.trace(relative @ matrix)))
    cosine = (np.trace(relative @ turn) - 1) / 2
    sizes = np.abs(turn.T) @ np.array(estimate.size)
    error = float(np.median(np.abs(sizes / np.array(truth.size) - 1)))
    return error, float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def lift_all(
    scene: Scene, segmenter: Segmenter | None, least_visible: float = 0.6
) -> Iterator[Outcome]:
    """Estimate the poses of all well visible objects of a scene."""
    first = True
    encoding = segmenter.encode(scene.frame) if segmenter else None
    for index, item in enumerate(scene.objects):
        if item.clutter or item.visible < least_visible or item.area < 300:
            continue
        mask = scene.mask(index)
        if segmenter:
            mask = _predicted(segmenter, encoding, item.box, mask)
        started = time.perf_counter()
        pose, status = lift(mask, scene.frame)
        elapsed = 1000 * (time.perf_counter() - started)
        position = size = angle = float('nan')
        if pose is not None:
            position = float(np.linalg.norm(np.subtract(pose.position, item.pose.position)))
            size, angle = compare(pose, item.pose)
        if item.round:
            angle = float('nan')
            if pose is not None:
                size = _round_size(pose, item.pose)
        yield Outcome(
            scene.seed, item.kind, index, status.name, position,
            0.01 + 0.01 * item.range, size, angle, elapsed, first,
        )  # fmt: skip
        first = False


def _round_size(estimate: Pose3D, truth: Pose3D) -> float:
    """Return the size error of an object that is symmetric about the upright axis."""
    upright = np.abs(rotation_of(truth)[:, 2] @ rotation_of(estimate)).argmax()
    sides = sorted(value for axis, value in enumerate(estimate.size) if axis != upright)
    sizes = np.array([*sides, estimate.size[upright]])
    return float(np.median(np.abs(sizes / np.array([*truth.size[:2], truth.size[2]]) - 1)))


def _predicted(segmenter: Segmenter, encoding: object, box: tuple, mask: Mask) -> Mask:
    grounding = Grounding('', (GroundedObject(box, (_inner_point(mask),)),))
    return segmenter.segment(encoding, grounding)[0].mask


def _inner_point(mask: Mask) -> tuple[float, float]:
    """Return the pixel of a mask farthest from its border."""
    padded = np.pad(mask.astype(np.uint8), 1)
    y, x = np.unravel_index(cv2.distanceTransform(padded, cv2.DIST_L2, 3).argmax(), padded.shape)
    return float(x - 1), float(y - 1)


def summarise(outcomes: list[Outcome]) -> dict[str, float]:
    """Return the figures of some outcomes; NaN for an empty mean."""
    lifted = [outcome for outcome in outcomes if outcome.status == PoseStatus.POSE_OK.name]

    def column(name: str) -> Array:
        return np.array([getattr(outcome, name) for outcome in lifted], np.float64)

    angles = column('angle_deg')
    angles = angles[np.isfinite(angles)]
    position, size = column('position_m'), column('size')
    nothing = float('nan')
    return {
        'objects': len(outcomes),
        'lifted': len(lifted) / len(outcomes),
        'position_p50_mm': float(1000 * np.median(position)) if lifted else nothing,
        'position_p90_mm': float(1000 * np.quantile(position, 0.9)) if lifted else nothing,
        'position_within': float(np.mean(position <= column('allowed_m'))) if lifted else nothing,
        'size_p50': float(np.median(size)) if lifted else nothing,
        'size_p90': float(np.quantile(size, 0.9)) if lifted else nothing,
        'angle_p50_deg': float(np.median(angles)) if angles.size else nothing,
        'angle_within_10_deg': float(np.mean(angles <= 10)) if angles.size else nothing,
        'p50_ms': float(np.median([outcome.milliseconds for outcome in outcomes])),
        'p95_ms': float(np.quantile([outcome.milliseconds for outcome in outcomes], 0.95)),
    }


_FORMATS = {
    'objects': '{:.0f}', 'lifted': '{:.0%}', 'position_p50_mm': '{:.1f} mm',
    'position_p90_mm': '{:.1f} mm', 'position_within': '{:.0%}', 'size_p50': '{:.1%}',
    'size_p90': '{:.1%}', 'angle_p50_deg': '{:.1f}°', 'angle_within_10_deg': '{:.0%}',
    'p50_ms': '{:.1f} ms', 'p95_ms': '{:.1f} ms',
}  # fmt: skip


def _print(figures: dict[str, dict[str, float]]) -> None:
    table = Table('', *(name.replace('_', ' ') for name in _FORMATS))
    for kind, row in figures.items():
        cells = (
            '-' if np.isnan(row[name]) else text.format(row[name])
            for name, text in _FORMATS.items()
        )
        table.add_row(kind, *cells)
    Console().print(table)


def main() -> None:
    """Run the benchmark and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--scenes', type=int, default=100)
    parser.add_argument('--seed', type=int, default=200000, help='of the first scene')
    parser.add_argument('--depth-noise', type=float, default=1.0, help='1 for a typical camera')
    parser.add_argument('--predicted-masks', action='store_true', help="GrabCut's masks")
    parser.add_argument('--output', type=Path, help='JSON file for figures and outcomes')
    options = parser.parse_args()
    segmenter = load_segmenter(SegmenterOptions()) if options.predicted_masks else None
    outcomes: list[Outcome] = []
    for seed in range(options.seed, options.seed + options.scenes):
        scene = make_scene(seed, depth_noise=options.depth_noise, sentences=False)
        outcomes.extend(lift_all(scene, segmenter))
    if segmenter:
        segmenter.close()
    figures = {'all': summarise(outcomes)}
    for kind in sorted({outcome.kind for outcome in outcomes}):
        figures[kind] = summarise([outcome for outcome in outcomes if outcome.kind == kind])
    _print(figures)
    if options.output:
        content = {'figures': figures, 'outcomes': [asdict(outcome) for outcome in outcomes]}
        options.output.write_text(json.dumps(content, indent=1), encoding='utf-8')


if __name__ == '__main__':
    main()
