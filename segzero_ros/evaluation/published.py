"""Figures from papers, for comparison with measured ones, in percent.

The source is the paper that printed the row, mostly Seg-Zero's first version (arXiv 2503.06520v1).
"""

from __future__ import annotations

from typing import NamedTuple

SEG_ZERO = 'Seg-Zero, arXiv 2503.06520v1'
SEG_ZERO_V3 = 'Seg-Zero, arXiv 2503.06520v3'
VISION_REASONER = 'VisionReasoner, arXiv 2505.12081'


class PublishedFigure(NamedTuple):
    """A row of a published table; None for a dash."""

    method: str
    giou: float | None
    ciou: float | None
    source: str


def _reasoning(*rows: tuple[str, float, float]) -> tuple[PublishedFigure, ...]:
    return tuple(PublishedFigure(method, giou, ciou, SEG_ZERO) for method, giou, ciou in rows)


def _referring(*rows: tuple[str, float]) -> tuple[PublishedFigure, ...]:
    return tuple(PublishedFigure(method, None, ciou, SEG_ZERO) for method, ciou in rows)


TABLES = {
    'reasonseg_val': (
        *_reasoning(
            ('OVSeg', 28.5, 18.6),
            ('ReLA', 22.4, 19.9),
            ('Grounded-SAM', 26.0, 14.5),
            ('LISA-7B-LLaVA1.5', 53.6, 52.3),
            ('LISA-13B-LLaVA1.5', 57.7, 60.3),
            ('SAM4MLLM', 46.7, 48.1),
            ('Qwen2.5VL-3B + SAM2', 53.8, 44.1),
            ('Seg-Zero-3B', 62.6, 58.5),
            ('Seg-Zero-7B', 62.6, 62.0),
        ),
        PublishedFigure('Seg-Zero-3B', 58.2, 53.1, SEG_ZERO_V3),
        PublishedFigure('VisionReasoner-7B', 66.3, None, VISION_REASONER),
    ),
    'reasonseg_test': (
        *_reasoning(
            ('OVSeg', 26.1, 20.8),
            ('ReLA', 21.3, 22.0),
            ('Grounded-SAM', 21.3, 16.4),
            ('LISA-7B-LLaVA1.5', 48.7, 48.8),
            ('LISA-13B-LLaVA1.5', 53.8, 50.8),
            ('Qwen2.5VL-3B + SAM2', 47.6, 37.4),
            ('Seg-Zero-3B', 56.1, 48.6),
            ('Seg-Zero-7B', 57.5, 52.0),
        ),
        PublishedFigure('VisionReasoner-7B', 63.6, None, VISION_REASONER),
    ),
    'refcoco_testA': (
        *_referring(
            ('LAVT', 75.8),
            ('ReLA', 76.5),
            ('LISA-7B', 76.5),
            ('PixelLM-7B', 76.5),
            ('PerceptionGPT-7B', 78.6),
            ('Seg-Zero-3B', 79.3),
            ('Seg-Zero-7B', 80.3),
        ),
        PublishedFigure('VisionReasoner-7B', 78.9, None, VISION_REASONER),
    ),
    'refcocoplus_testA': (
        *_referring(
            ('LAVT', 68.4),
            ('ReLA', 71.0),
            ('LISA-7B', 67.4),
            ('PixelLM-7B', 71.7),
            ('PerceptionGPT-7B', 73.9),
            ('Seg-Zero-3B', 73.7),
            ('Seg-Zero-7B', 76.2),
        ),
        PublishedFigure('VisionReasoner-7B', 74.9, None, VISION_REASONER),
    ),
    'refcocog_test': (
        *_referring(
            ('LAVT', 62.1),
            ('ReLA', 66.0),
            ('LISA-7B', 68.5),
            ('PixelLM-7B', 70.5),
            ('PerceptionGPT-7B', 71.7),
            ('Seg-Zero-3B', 71.5),
            ('Seg-Zero-7B', 72.6),
        ),
        PublishedFigure('VisionReasoner-7B', 71.3, None, VISION_REASONER),
    ),
}


class Ablation(NamedTuple):
    """gIoU on RefCOCOg (in domain) and ReasonSeg test (out of domain), from Seg-Zero."""

    what: str
    refcocog_test: float
    reasonseg_test: float


# Seg-Zero's table 1 (training method) and table 5 (base model).
ABLATIONS = (
    Ablation('baseline', 70.4, 47.6),
    Ablation('SFT, no CoT', 70.8, 44.9),
    Ablation('RL, no CoT', 73.2, 51.3),
    Ablation('RL + CoT', 73.6, 53.8),
    Ablation('Qwen2-VL-2B', 70.1, 37.2),
    Ablation('Qwen2.5-VL-3B', 73.0, 56.1),
    Ablation('Qwen2.5-VL-7B', 74.2, 57.5),
)
