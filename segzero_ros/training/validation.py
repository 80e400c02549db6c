"""Validation during training, by boxes and rewards.

gIoU is of boxes: the union of the predicted ones against the union of the true ones, as masks,
without a segmenter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from segzero_ros.evaluation.measurements import measure, Prediction
from segzero_ros.evaluation.samples import Sample
from segzero_ros.reasoning.control_tokens import control_tokens
from segzero_ros.reasoning.dialects import Dialect
from segzero_ros.training.presets import Composition
from segzero_ros.training.rows import points_alone, Row, true_boxes
from segzero_ros.types import Box, MalformedAnswer, Mask

_BATCH_SIZE = 16


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Validation rows, and how answers are scored."""

    rows: Sequence[Row]
    dialect: Dialect
    reward: Composition
    max_completion: int

    def figures(self, model: Any, processor: Any, *, sample: bool = False) -> dict[str, float]:
        """Return `validation_…`: box gIoU, mean reward, each part, fraction of unreadable answers.

        Rows whose objects are points alone have no box gIoU.

        Args:
            model: the model.
            processor: of its prompts and images.
            sample: sample answers at temperature 1, as in training, instead of greedily.
        """
        max_tokens = self.max_completion
        texts = answers(model, processor, self.dialect, self.rows, max_tokens, sample=sample)
        ious, unreadable = [], 0
        parts: dict[str, list[float]] = {name: [] for name in self.reward.weights}
        for row, text in zip(self.rows, texts, strict=True):
            boxes = predicted_boxes(self.dialect, row, text)
            unreadable += boxes is None
            if not points_alone(row.solution):
                ious.append(box_union_iou(row, boxes))
            for name, value in self.reward.parts(text, row.solution).items():
                parts[name].append(value)
        means = {name: float(np.mean(values)) for name, values in parts.items()}
        total = sum(self.reward.weights[name] * value for name, value in means.items())
        return {
            **({'validation_box_giou': float(np.mean(ious))} if ious else {}),
            'validation_unreadable': unreadable / len(self.rows),
            'validation_reward': float(total),
            **{f'validation_{name}': value for name, value in means.items()},
        }


def answers(
    model: Any,
    processor: Any,
    dialect: Dialect,
    rows: Sequence[Row],
    max_tokens: int,
    *,
    sample: bool = False,
) -> list[str]:
    """Return the model's answers about rows, without the end token.

    Args:
        model: the model.
        processor: of its prompts and images.
        dialect: of the prompts.
        rows: the rows.
        max_tokens: of an answer.
        sample: as in `Evaluator.figures`.
    """
    training = model.training
    model.eval()
    found: list[str] = []
    with torch.inference_mode():
        for start in range(0, len(rows), _BATCH_SIZE):
            batch = rows[start : start + _BATCH_SIZE]
            found += _generate(model, processor, dialect, batch, max_tokens, sample)
    model.train(training)
    return found


def _generate(
    model: Any,
    processor: Any,
    dialect: Dialect,
    rows: Sequence[Row],
    max_tokens: int,
    sample: bool,
) -> list[str]:
    texts = []
    control = control_tokens(processor)
    for row in rows:
        prompt = dialect.prompt(row.problem, control)
        content = [{'type': 'image'}, {'type': 'text', 'text': prompt}]
        texts.append(
            processor.apply_chat_template(
                [{'role': 'user', 'content': content}], tokenize=False, add_generation_prompt=True
            )
        )
    images = [torch.from_numpy(row.image.copy()).permute(2, 0, 1) for row in rows]
    inputs = processor(text=texts, images=images, padding=True, return_tensors='pt')
    # top_k=0 samples from all tokens, as the trainer does.
    how = {'do_sample': True, 'temperature': 1.0, 'top_k': 0} if sample else {'do_sample': False}
    tokens = model.generate(**inputs.to(model.device), max_new_tokens=max_tokens, **how)
    generated = tokens[:, inputs['input_ids'].shape[1] :]
    decoded: list[str] = processor.batch_decode(generated, skip_special_tokens=True)
    return decoded


def predicted_boxes(dialect: Dialect, row: Row, text: str) -> list[Box] | None:
    """Return the boxes of an answer in the square's pixels; None if it cannot be parsed."""
    side = row.image.shape[0]
    try:
        objects = dialect.parse(text, side, side).objects
        return [found.box for found in objects if found.box is not None]
    except MalformedAnswer:
        return None


def box_union_iou(row: Row, boxes: Sequence[Box] | None) -> float:
    """Return the IoU of the union of boxes with that of the true ones; 1 if both are empty."""
    side = row.image.shape[0]
    true = _filled(true_boxes(row.solution), side)
    sample = Sample(row.image, row.problem, mask=true)
    mask = None if boxes is None else _filled(boxes, side)
    whole = measure(sample, Prediction(mask, tuple(boxes or ()))).whole
    assert whole is not None
    if not whole.union:
        return float(boxes is not None and not boxes)
    return whole.intersection / whole.union


def _filled(boxes: Sequence[Sequence[float]], side: int) -> Mask:
    mask = np.zeros((side, side), np.bool_)
    for box in boxes:
        if all(map(np.isfinite, box)):
            x1, y1, x2, y2 = (int(min(max(value, 0), side)) for value in box)
            mask[y1:y2, x1:x2] = True
    return mask
