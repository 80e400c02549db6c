"""Track with SAM 2's memory on a live camera, using the segmenter's loaded weights.

sam2's video predictor needs the whole video before it starts, and stores data for every frame.
Here frames are processed one at a time, and only the memory that the network still attends to is
kept, so masks are identical to the predictor's and memory usage is constant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from segzero_ros.segmentation.prompted_masks import MAX_PER_PASS, MAX_UPSAMPLED_PIXELS
from segzero_ros.segmentation.sam2_segmenter import ImageFeatures, Sam2Segmenter
from segzero_ros.segmentation.torch_model import model_context
from segzero_ros.tracking import base
from segzero_ros.types import Frame, Mask, Segment, Track

# Holes of at most this many cells of the decoder's grid are filled, as in sam2's video predictor.
HOLE_AREA = 8
FILLED_LOGIT = 0.1
# The network needs the number of frames, which is unlimited for a camera.
UNLIMITED_FRAMES = 2**62
# The network's names for the memory of conditioning frames and of tracked ones.
CONDITIONING, TRACKED = 'cond_frame_outputs', 'non_cond_frame_outputs'


class _Prediction(NamedTuple):
    """The network's output for n objects in a frame.

    Attributes:
        scores: (n, candidates) estimated IoU of its masks.
        logits: (n, 1, S / 4, S / 4) the best masks, above 0 inside; negative everywhere if the
            object is absent.
        high_logits: (n, 1, S, S) the same, upsampled.
        pointer: (n, C) object pointer.
        presence: (n, 1) object score, above 0 if the object is present.
    """

    scores: Tensor
    logits: Tensor
    high_logits: Tensor
    pointer: Tensor
    presence: Tensor


class Sam2Tracker:
    """Tracks objects with the segmenter's SAM 2 model."""

    def __init__(self, segmenter: Sam2Segmenter, hole_area: int = HOLE_AREA) -> None:
        """Create a tracker.

        Args:
            segmenter: owner of the model; must stay open while the tracker is used.
            hole_area: holes of at most this many cells (of image size / 4) are filled; 0 for none.
        """
        self._segmenter = segmenter
        self._hole_area = hole_area
        self._groups: list[_Group] = []

    @property
    def name(self) -> str:
        """The segmenter's name."""
        return self._segmenter.name

    def start(self, frame: Frame, segments: Sequence[Segment]) -> None:
        """Track these objects instead of the previous ones."""
        self._groups = []
        self.add(frame, segments)

    def add(self, frame: Frame, segments: Sequence[Segment]) -> None:
        """Track these objects in addition to the previous ones; their masks are mask prompts."""
        tracked_ids = (segment.id for group in self._groups for segment in group.segments)
        segments = base.trackable(segments, tracked_ids)
        if not segments:
            return
        per_pass = MAX_PER_PASS.get(self._segmenter.device.type, 1)
        with model_context('track', self._segmenter.device), torch.inference_mode():
            features = self._segmenter.encode_image(frame.image)
            for first in range(0, len(segments), per_pass):
                batch = segments[first : first + per_pass]
                group = _Group(self._segmenter, batch, self._hole_area)
                # One by one: all masks at the size of a large image would take gigabytes.
                prompts = [self._mask_prompt(frame, segment) for segment in batch]
                group.start(features, torch.cat(prompts))
                self._groups.append(group)

    def step(self, frame: Frame) -> list[Track]:
        """Find every tracked object in the next frame."""
        if not self._groups:
            return []
        with model_context('track', self._segmenter.device), torch.inference_mode():
            features = self._segmenter.encode_image(frame.image)
            outputs = [group.step(features) for group in self._groups]
            masks = _upsampled(torch.cat([logits for logits, _ in outputs]), frame)
            return [
                group.track(index, next(masks), score)
                for group, (_, scores) in zip(self._groups, outputs, strict=True)
                for index, score in enumerate(scores)
            ]

    def close(self) -> None:
        """Free the memory; the model stays with the segmenter."""
        self._groups = []

    def _mask_prompt(self, frame: Frame, segment: Segment) -> Tensor:
        """Return a segment's mask at the model's image size, (1, 1, S, S), 0 or 1."""
        mask = segment.full_mask(frame.height, frame.width)
        prompt = torch.tensor(mask[None, None], device=self._segmenter.device).float()
        size = (self._segmenter.model.image_size,) * 2
        if prompt.shape[-2:] == size:
            return prompt
        resized = functional.interpolate(
            prompt, size, mode='bilinear', align_corners=False, antialias=True
        )
        return (resized >= 0.5).float()


class _Group:
    """Objects that were added together and are tracked as one batch, with their memory.

    Attributes:
        segments: the objects as they were added.
        memory: the network's memory: features, positional encoding and object pointer of the
            conditioning frame and, by frame number, of the tracked frames.
    """

    def __init__(self, segmenter: Sam2Segmenter, segments: list[Segment], hole_area: int) -> None:
        self.segments = segments
        self.memory: dict[str, dict[int, dict[str, Any]]] = {CONDITIONING: {}, TRACKED: {}}
        self._segmenter = segmenter
        self._hole_area = hole_area
        self._ages = [0] * len(segments)
        self._number = 0

    def start(self, features: ImageFeatures, masks: Tensor) -> None:
        """Initialise the memory from mask prompts (n, 1, S, S)."""
        features = features.expand(len(self.segments))
        with self._segmenter.autocast():
            prediction = self._infer(features, masks)
            # As in sam2's predictor, the memory is made from masks at the decoder's resolution.
            upsampled = functional.interpolate(
                self._filled(prediction.logits),
                masks.shape[-2:],
                mode='bilinear',
                align_corners=False,
            )
            self.memory[CONDITIONING][0] = self._encode_memory(
                features, prediction._replace(high_logits=upsampled), True
            )

    def step(self, features: ImageFeatures) -> tuple[Tensor, list[float]]:
        """Find the objects in the next frame and add it to the memory.

        Returns:
            The masks' logits (n, 1, S / 4, S / 4) and their estimated IoU.
        """
        self._number += 1
        features = features.expand(len(self.segments))
        with self._segmenter.autocast():
            prediction = self._infer(features, None)
            memory = self._encode_memory(features, prediction, False)
            self.memory[TRACKED][self._number] = memory
        self._drop_old_memory()
        return self._filled(prediction.logits), prediction.scores.float().amax(dim=1).tolist()

    def track(self, index: int, mask: Mask, score: float) -> Track:
        """Return the track of one of the objects.

        Args:
            index: of the object in the group.
            mask: (H, W) bool, its mask in the frame.
            score: estimated IoU of the mask.
        """
        if mask.any():
            self._ages[index] = 0
            return base.found(self.segments[index], mask, score)
        self._ages[index] += 1
        return base.lost(self.segments[index], self._ages[index])

    def _infer(self, features: ImageFeatures, masks: Tensor | None) -> _Prediction:
        """Run the network on a frame, with mask prompts or with its memory."""
        _, outputs, _, _ = self._segmenter.model._track_step(
            frame_idx=self._number,
            is_init_cond_frame=masks is not None,
            current_vision_feats=features.maps,
            current_vision_pos_embeds=features.positions,
            feat_sizes=features.sizes,
            point_inputs=None,
            mask_inputs=masks,
            output_dict=self.memory,
            num_frames=UNLIMITED_FRAMES,
            track_in_reverse=False,
            prev_sam_mask_logits=None,
        )
        _, _, scores, logits, high_logits, pointer, presence = outputs
        return _Prediction(scores, logits, high_logits, pointer, presence)

    def _encode_memory(
        self, features: ImageFeatures, prediction: _Prediction, prompted: bool
    ) -> dict[str, Any]:
        """Return the memory of a frame for later frames to attend to."""
        encoded, positions = self._segmenter.model._encode_new_memory(
            current_vision_feats=features.maps,
            feat_sizes=features.sizes,
            pred_masks_high_res=prediction.high_logits,
            object_score_logits=prediction.presence,
            is_mask_from_pts=prompted,
        )
        # The positional encoding is the same for every frame, so all share one copy.
        first = self.memory[CONDITIONING].get(0)
        return {
            'maskmem_features': encoded.to(torch.bfloat16),
            'maskmem_pos_enc': first['maskmem_pos_enc'] if first else positions,
            'obj_ptr': prediction.pointer,
        }

    def _drop_old_memory(self) -> None:
        """Drop memory that no later frame attends to."""
        model, tracked = self._segmenter.model, self.memory[TRACKED]
        memories = (model.num_maskmem - 2) * model.memory_temporal_stride_for_eval
        tracked.pop(self._number - model.max_obj_ptrs_in_encoder + 1, None)
        stale = tracked.get(self._number - memories - 1)
        if stale is not None:
            stale['maskmem_features'] = stale['maskmem_pos_enc'] = None

    def _filled(self, logits: Tensor) -> Tensor:
        return fill_holes(logits, self._hole_area) if self._hole_area else logits


def _upsampled(logits: Tensor, frame: Frame) -> Iterator[Mask]:
    """Yield masks of the frame's size, (H, W) bool, from logits (n, 1, h, w).

    The masks are upsampled in batches of at most MAX_UPSAMPLED_PIXELS.
    """
    batch_size = max(1, MAX_UPSAMPLED_PIXELS // (frame.height * frame.width))
    for batch in torch.split(logits, batch_size):
        upsampled = functional.interpolate(
            batch, (frame.height, frame.width), mode='bilinear', align_corners=False
        )
        masks = (upsampled[:, 0] > 0).cpu().numpy()
        del upsampled
        yield from masks


def fill_holes(logits: Tensor, max_area: int) -> Tensor:
    """Fill small holes in masks, like sam2's CUDA extension.

    sam2 leaves holes where that extension was not built; this needs only OpenCV.

    Args:
        logits: (n, 1, h, w) float32, above 0 inside the mask.
        max_area: area of the largest holes to fill, in cells, with 8-connectivity.
    """
    filled = logits.cpu().numpy().copy()
    changed = False
    for plane in filled[:, 0]:
        outside = (plane <= 0).astype(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(outside, connectivity=8)
        small = stats[:, cv2.CC_STAT_AREA] <= max_area
        small[0] = False
        if small.any():
            plane[small[labels]] = FILLED_LOGIT
            changed = True
    return torch.from_numpy(filled).to(logits.device) if changed else logits
