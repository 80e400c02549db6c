"""Accuracy, speed and memory of tracking.

Run `python -m benchmarks.tracking [--films 6] [--frames 60] [--long 2000]`.

Without weights: films of generated table-tops at 640x480, in which things slide and the camera
sways. Three objects of each, chosen by the film's seed, are followed from their true masks: once
as they are, once with a board drawn into the film that passes over one object after the other and
hides up to half of it, once with a board that hides all of it for a while. Counted are frames in
which at least 30 % of an object can be seen: how often it is found under its id (it is not lost,
and its mask lies on it more than on any other object), and the mask's IoU with what can be seen of
it. Where nothing can be seen of it, counted is how often it is said to be lost.

With SAM 2: a checkpoint of random weights (see scripts/make_tiny_sam2.py) on the first film. Masks
against those of the package's own video predictor, and the growth of the process's memory from
frame 100 on.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import importlib.util
import os
from pathlib import Path
import tempfile
import time
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from rich.console import Console
from rich.table import Table

from segzero_ros.simulation import make_motion
from segzero_ros.tracking.classical_tracker import ClassicalTracker
from segzero_ros.types import Frame, Mask, Roi, Segment

ROOT = Path(__file__).resolve().parent.parent
OBJECTS = 3
LEAST_VISIBLE = 0.3
BOARD = -9
# Width of the board as a share of the object's, by what it does.
BOARDS = {'as they are': 0.0, 'half hidden': 0.5, 'hidden': 1.3}
# Of SAM 2's film: longer than anything that the network looks back.
SAM2_FRAMES = 32
WARM_UP = 100


class Film(NamedTuple):
    """Frames with the true labels (H, W), and the tracked ids."""

    frames: list[Frame]
    labels: list[np.ndarray]
    ids: list[int]


class Count(NamedTuple):
    """The result for one object in one frame; None where it does not apply."""

    kept: bool | None
    iou: float | None
    said_lost: bool | None


def make_film(seed: int, length: int) -> Film:
    """Return the image sequence of a seed."""
    scenes = list(make_motion(seed, length))
    large = [o.id for o in scenes[0].objects if o.area > 300 and not o.clutter]
    ids = np.random.default_rng(seed).permutation(large)[:OBJECTS].tolist()
    return Film([scene.frame for scene in scenes], [scene.labels for scene in scenes], ids)


def with_board(film: Film, share: float, seed: int) -> Film:
    """Draw a board, with a width relative to the objects, that occludes one after the other."""
    if not share:
        return film
    random = np.random.default_rng(seed)
    colour = random.integers(30, 226, 3)
    frames, labels = [], []
    for number, (frame, truth) in enumerate(zip(film.frames, film.labels, strict=True)):
        turn = number * len(film.ids) / len(film.frames)
        roi = Roi.around(truth == film.ids[int(turn)])
        image, truth = frame.image.copy(), truth.copy()
        width = round(roi.width * share)
        left = round(roi.x - width + turn % 1 * (roi.width + width))
        area = (
            slice(max(0, roi.y - 50), roi.y + roi.height + 40),
            slice(max(0, left), max(0, left + width)),
        )
        image[area] = (colour + random.normal(0, 6, image[area].shape)).clip(0, 255)
        truth[area] = BOARD
        frames.append(Frame(image, frame.stamp_ns))
        labels.append(truth)
    return Film(frames, labels, film.ids)


def segment_of(identity: int, mask: Mask) -> Segment:
    """Return the segment of an answer."""
    roi = Roi.around(mask)
    return Segment(identity, '', 1.0, roi, (), roi, mask[roi.slices].copy())


def follow(film: Film, whole: Film) -> Iterator[tuple[float, list[Count]]]:
    """Yield the seconds and the results of all objects for each frame."""
    tracker = ClassicalTracker()
    first = film.labels[0]
    tracker.start(film.frames[0], [segment_of(i, first == i) for i in film.ids])
    for frame, truth, unhidden in zip(
        film.frames[1:], film.labels[1:], whole.labels[1:], strict=True
    ):
        started = time.perf_counter()
        tracks = tracker.step(frame)
        seconds = time.perf_counter() - started
        counts = []
        for track in tracks:
            mask = track.segment.full_mask(frame.height, frame.width)
            counts.append(count(track.segment.id, mask, track.lost, truth, unhidden))
        yield seconds, counts


def count(identity: int, mask: Mask, lost: bool, truth: np.ndarray, unhidden: np.ndarray) -> Count:
    """Compare a tracked object with the ground truth."""
    seen = truth == identity
    if not seen.any():
        return Count(None, None, lost)
    if seen.sum() < LEAST_VISIBLE * (unhidden == identity).sum():
        return Count(None, None, None)
    covered = np.bincount(truth[mask & (truth > 0)], minlength=identity + 1)
    kept = not lost and covered[identity] > 0 and covered[identity] == covered.max()
    return Count(bool(kept), float((mask & seen).sum() / (mask | seen).sum()), None)


def without_weights(films: int, length: int) -> Iterator[tuple[str, str, str]]:
    """Yield the table rows of the classical tracker."""
    made = [(seed, make_film(seed, length)) for seed in range(films)]
    for name, share in BOARDS.items():
        steps = [
            step for seed, film in made for step in follow(with_board(film, share, seed), film)
        ]
        counts = [count for _, some in steps for count in some]
        kept = [count.kept for count in counts if count.kept is not None]
        ious = [count.iou for count in counts if count.iou is not None]
        lost = [count.said_lost for count in counts if count.said_lost is not None]
        seconds = [seconds for seconds, _ in steps]
        yield f'classical, {name}', 'id kept', f'{np.mean(kept):.1%} of {len(kept)}'
        yield '', 'mask IoU, mean', f'{np.mean(ious):.3f}'
        if lost:
            yield '', 'lost when not to be seen', f'{np.mean(lost):.1%} of {len(lost)}'
        yield '', 'rate, median', f'{1 / np.median(seconds):.0f} Hz'
        yield '', 'rate, slowest tenth', f'{1 / np.percentile(seconds, 90):.0f} Hz'


def tiny_segmenter(folder: Path) -> Any:
    """Return a segmenter with random weights that predicts objects as present."""
    import torch

    from segzero_ros.segmentation.sam2_segmenter import Sam2Segmenter

    spec = importlib.util.spec_from_file_location(
        'make_tiny_sam2', ROOT / 'scripts' / 'make_tiny_sam2.py'
    )
    assert spec is not None and spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    segmenter = Sam2Segmenter(str(maker.make_tiny_sam2(folder)), device='cpu')
    with torch.no_grad():
        segmenter.model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(3.0)
    return segmenter


def masks_of_the_package(segmenter: Any, config: Path, film: Film) -> Iterator[dict[int, Mask]]:
    """Yield the masks of SAM 2's video predictor by id, from frame 1 on."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    import torch

    from segzero_ros.segmentation.sam2_checkpoint import BUILD_OVERRIDES

    settings = OmegaConf.merge(OmegaConf.load(config).model, BUILD_OVERRIDES)
    settings._target_ = 'sam2.sam2_video_predictor.SAM2VideoPredictor'
    predictor = instantiate(settings, fill_hole_area=0, _recursive_=True).eval()
    predictor.load_state_dict(segmenter.model.state_dict())
    size = film.frames[0].image.shape[:2]
    pictures = torch.cat([segmenter.prepare(frame.image) for frame in film.frames])
    where = 'sam2.sam2_video_predictor'
    with (
        mock.patch(f'{where}.load_video_frames', lambda **_: (pictures, *size)),
        mock.patch(f'{where}.tqdm', lambda frames, **_: frames),
    ):
        state = predictor.init_state('the film')
        for identity in film.ids:
            predictor.add_new_mask(state, 0, identity, film.labels[0] == identity)
        for number, ids, logits in predictor.propagate_in_video(state):
            if number:
                yield dict(zip(ids, (logits[:, 0] > 0).numpy(), strict=True))


def resident_bytes() -> int:
    """Return the memory of this process."""
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE')


def with_sam2(length: int) -> Iterator[tuple[str, str, str]]:
    """Yield the table rows of SAM 2."""
    import torch

    from segzero_ros.tracking.sam2_tracker import Sam2Tracker

    torch.set_num_threads(1)
    film = make_film(0, SAM2_FRAMES)
    with tempfile.TemporaryDirectory() as folder:
        segmenter = tiny_segmenter(Path(folder))
        expected = masks_of_the_package(segmenter, Path(folder) / 'tiny_sam2.yaml', film)
        tracker = Sam2Tracker(segmenter, hole_area=0)
        segments = [segment_of(i, film.labels[0] == i) for i in film.ids]
        tracker.start(film.frames[0], segments)
        differing = 0
        for frame, masks in zip(film.frames[1:], expected, strict=True):
            for track in tracker.step(frame):
                mask = track.segment.full_mask(frame.height, frame.width)
                differing += int((mask != masks[track.segment.id]).sum())
        yield (
            'SAM 2, random weights',
            "pixels unlike the package's",
            f'{differing} in {len(film.frames) - 1} frames, {len(film.ids)} objects',
        )
        tracker.start(film.frames[0], segments[:1])
        sizes = []
        for number in range(length):
            tracker.step(film.frames[number % len(film.frames)])
            sizes.append(resident_bytes())
        growth = max(sizes[WARM_UP:]) / sizes[WARM_UP] - 1
        megabytes = sizes[WARM_UP] / 1e6
        yield '', f'memory growth over {length} frames', f'{growth:+.2%} of {megabytes:.0f} MB'


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description='Accuracy, speed and memory of tracking.')
    parser.add_argument('--films', type=int, default=6)
    parser.add_argument('--frames', type=int, default=60)
    parser.add_argument('--long', type=int, default=2000)
    arguments = parser.parse_args()
    table = Table('tracker', 'figure', 'value', title='Following objects')
    # First, while the process is small, to measure the growth.
    sam2 = list(with_sam2(arguments.long))
    for row in (*without_weights(arguments.films, arguments.frames), *sam2):
        table.add_row(*row)
    Console().print(table)


if __name__ == '__main__':
    main()
