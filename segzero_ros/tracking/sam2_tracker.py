"""SAM 2's video memory on a live camera, with the weights that the segmenter has loaded already.

The package's own video predictor wants the whole video before it starts and keeps something of
every frame. Here each frame is looked at once and forgotten: of the past, only what the network
still reads is kept, so masks are the package's own and memory does not grow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from segzero_ros.segmentation.sam2_segmenter import (
    at_work,
    MOST_ENLARGED_PIXELS,
    MOST_PER_PASS,
    Sam2Segmenter,
)
from segzero_ros.tracking import base
from segzero_ros.types import Frame, Mask, Segment, Track

# Holes in a mask of at most so many cells of the decoder's grid are filled; as the package does.
HOLE_AREA = 8
FILLED_LOGIT = 0.1
# The network asks how long the video is; a camera's never ends.
ENDLESS = 2**62
# The network's names for the two halves of its memory.
GIVEN, SINCE = 'cond_frame_outputs', 'non_cond_frame_outputs'


class _View(NamedTuple):
    """What the encoder made of one frame, finest map first; each map (cells, 1, channels)."""

    maps: list[Tensor]
    positions: list[Tensor]
    sizes: list[tuple[int, int]]

    def repeated(self, times: int) -> _View:
        """Return the view for so many objects at once."""
        if times == 1:
            return self
        return _View(
            [values.expand(-1, times, -1) for values in self.maps],
            [values.expand(-1, times, -1) for values in self.positions],
            self.sizes,
        )


class _Outcome(NamedTuple):
    """What the network says of a frame, for n objects.

    Attributes:
        scores: (n, candidates) the IoU that it expects of its masks.
        logits: (n, 1, S / 4, S / 4) the best masks, above 0 inside; negative all over where it
            takes the object to be absent.
        high_logits: (n, 1, S, S) the same, enlarged.
        pointer: (n, C) the object in short.
        presence: (n, 1) above 0 where the object is there.
    """

    scores: Tensor
    logits: Tensor
    high_logits: Tensor
    pointer: Tensor
    presence: Tensor


class Sam2Tracker:
    """Follows objects with a loaded SAM 2; the segmenter stays its owner."""

    def __init__(self, segmenter: Sam2Segmenter, hole_area: int = HOLE_AREA) -> None:
        """Make a tracker.

        Args:
            segmenter: whose model to use; open as long as the tracker is used.
            hole_area: holes of at most so many cells (of image size / 4) are filled; 0 for none.
        """
        self._segmenter = segmenter
        self._hole_area = hole_area
        self._groups: list[_Group] = []

    @property
    def name(self) -> str:
        """The segmenter's."""
        return self._segmenter.name

    def start(self, frame: Frame, segments: Sequence[Segment]) -> None:
        """Forget what was followed until now, and follow these objects of the frame."""
        self._groups = []
        self.add(frame, segments)

    def add(self, frame: Frame, segments: Sequence[Segment]) -> None:
        """Follow these objects of the frame too; their masks there are taken as given."""
        followed = (segment.id for group in self._groups for segment in group.segments)
        segments = base.trackable(segments, followed)
        if not segments:
            return
        per_pass = MOST_PER_PASS.get(self._segmenter.device.type, 1)
        with at_work('track', self._segmenter.device), torch.inference_mode():
            view = self._look(frame)
            for first in range(0, len(segments), per_pass):
                some = segments[first : first + per_pass]
                group = _Group(self._segmenter, some, self._hole_area)
                # One by one: all masks of a large image at its size would take gigabytes.
                given = [self._given_mask(frame, segment) for segment in some]
                group.start(view, torch.cat(given))
                self._groups.append(group)

    def step(self, frame: Frame) -> list[Track]:
        """Find every followed object in the next frame."""
        if not self._groups:
            return []
        with at_work('track', self._segmenter.device), torch.inference_mode():
            view = self._look(frame)
            seen = [group.step(view) for group in self._groups]
            masks = _enlarged(torch.cat([logits for logits, _ in seen]), frame)
            return [
                group.track(place, next(masks), score)
                for group, (_, scores) in zip(self._groups, seen, strict=True)
                for place, score in enumerate(scores)
            ]

    def close(self) -> None:
        """Forget everything; the model stays with the segmenter."""
        self._groups = []

    def _look(self, frame: Frame) -> _View:
        model = self._segmenter.model
        picture = self._segmenter.prepare(frame.image)
        with self._segmenter.autocast():
            _, maps, positions, sizes = model._prepare_backbone_features(
                model.forward_image(picture)
            )
        return _View(maps, positions, sizes)

    def _given_mask(self, frame: Frame, segment: Segment) -> Tensor:
        """Return a segment's mask as the network takes it: (1, 1, S, S), 0 or 1."""
        mask = segment.full_mask(frame.height, frame.width)
        given = torch.tensor(mask[None, None], device=self._segmenter.device).float()
        size = (self._segmenter.model.image_size,) * 2
        if given.shape[-2:] == size:
            return given
        squashed = functional.interpolate(
            given, size, mode='bilinear', align_corners=False, antialias=True
        )
        return (squashed >= 0.5).float()


class _Group:
    """Objects that were added together, followed as one batch, and all that is remembered of them.

    Attributes:
        segments: the objects as they were added.
        memory: the network's own: for the frame whose masks were given and, by number, for those
            seen since, the features, position code and pointer that later frames attend to.
    """

    def __init__(self, segmenter: Sam2Segmenter, segments: list[Segment], hole_area: int) -> None:
        self.segments = segments
        self.memory: dict[str, dict[int, dict[str, Any]]] = {GIVEN: {}, SINCE: {}}
        self._segmenter = segmenter
        self._hole_area = hole_area
        self._ages = [0] * len(segments)
        self._number = 0

    def start(self, view: _View, masks: Tensor) -> None:
        """Remember the objects as the given masks (n, 1, S, S) show them."""
        view = view.repeated(len(self.segments))
        with self._segmenter.autocast():
            outcome = self._infer(view, masks)
            # As the package does it: the memory is of the masks that the decoder's grid can hold.
            held = functional.interpolate(
                self._filled(outcome.logits),
                masks.shape[-2:],
                mode='bilinear',
                align_corners=False,
            )
            self.memory[GIVEN][0] = self._remembered(
                view, outcome._replace(high_logits=held), True
            )

    def step(self, view: _View) -> tuple[Tensor, list[float]]:
        """Look for the objects in the next frame and remember how they look there.

        Returns:
            The masks' logits (n, 1, S / 4, S / 4) and the IoU expected of each.
        """
        self._number += 1
        view = view.repeated(len(self.segments))
        with self._segmenter.autocast():
            outcome = self._infer(view, None)
            self.memory[SINCE][self._number] = self._remembered(view, outcome, False)
        self._forget()
        return self._filled(outcome.logits), outcome.scores.float().amax(dim=1).tolist()

    def track(self, place: int, mask: Mask, score: float) -> Track:
        """Return the track of the object at a place of the group, with its mask in the frame."""
        if mask.any():
            self._ages[place] = 0
            return base.found(self.segments[place], mask, score)
        self._ages[place] += 1
        return base.lost(self.segments[place], self._ages[place])

    def _infer(self, view: _View, masks: Tensor | None) -> _Outcome:
        """Run the network on a frame: with the masks that it is given there, or with memory."""
        _, outputs, _, _ = self._segmenter.model._track_step(
            frame_idx=self._number,
            is_init_cond_frame=masks is not None,
            current_vision_feats=view.maps,
            current_vision_pos_embeds=view.positions,
            feat_sizes=view.sizes,
            point_inputs=None,
            mask_inputs=masks,
            output_dict=self.memory,
            num_frames=ENDLESS,
            track_in_reverse=False,
            prev_sam_mask_logits=None,
        )
        _, _, scores, logits, high_logits, pointer, presence = outputs
        return _Outcome(scores, logits, high_logits, pointer, presence)

    def _remembered(self, view: _View, outcome: _Outcome, given: bool) -> dict[str, Any]:
        """Return what later frames attend to."""
        features, positions = self._segmenter.model._encode_new_memory(
            current_vision_feats=view.maps,
            feat_sizes=view.sizes,
            pred_masks_high_res=outcome.high_logits,
            object_score_logits=outcome.presence,
            is_mask_from_pts=given,
        )
        # The position code is the same for every frame: one copy serves all.
        first = self.memory[GIVEN].get(0)
        return {
            'maskmem_features': features.to(torch.bfloat16),
            'maskmem_pos_enc': first['maskmem_pos_enc'] if first else positions,
            'obj_ptr': outcome.pointer,
        }

    def _forget(self) -> None:
        """Drop what no later frame attends to."""
        model, since = self._segmenter.model, self.memory[SINCE]
        memories = (model.num_maskmem - 2) * model.memory_temporal_stride_for_eval
        since.pop(self._number - model.max_obj_ptrs_in_encoder + 1, None)
        stale = since.get(self._number - memories - 1)
        if stale is not None:
            stale['maskmem_features'] = stale['maskmem_pos_enc'] = None

    def _filled(self, logits: Tensor) -> Tensor:
        return fill_holes(logits, self._hole_area) if self._hole_area else logits


def _enlarged(logits: Tensor, frame: Frame) -> Iterator[Mask]:
    """Give masks of the frame's size, (H, W) bool, from logits (n, 1, h, w).

    As many are enlarged at a time as make no more than MOST_ENLARGED_PIXELS; all at once where
    they do, as the package has it.
    """
    together = max(1, MOST_ENLARGED_PIXELS // (frame.height * frame.width))
    for some in torch.split(logits, together):
        enlarged = functional.interpolate(
            some, (frame.height, frame.width), mode='bilinear', align_corners=False
        )
        masks = (enlarged[:, 0] > 0).cpu().numpy()
        del enlarged
        yield from masks


def fill_holes(logits: Tensor, most: int) -> Tensor:
    """Return the masks without small holes, as the package's CUDA extension makes them.

    The package leaves holes where that extension was not built; this needs OpenCV only.

    Args:
        logits: (n, 1, h, w) float32, above 0 inside the mask.
        most: area of the largest holes that are filled, in cells; cells that touch at a corner
            belong together.
    """
    filled = logits.cpu().numpy().copy()
    changed = False
    for plane in filled[:, 0]:
        outside = (plane <= 0).astype(np.uint8)
        _, labels, figures, _ = cv2.connectedComponentsWithStats(outside, connectivity=8)
        small = figures[:, cv2.CC_STAT_AREA] <= most
        small[0] = False
        if small.any():
            plane[small[labels]] = FILLED_LOGIT
            changed = True
    return torch.from_numpy(filled).to(logits.device) if changed else logits
