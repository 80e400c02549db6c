"""Dialects: the prompt, image size, coordinate frame and answer format of each model family."""

from __future__ import annotations

from segzero_ros.reasoning.dialects.base import Dialect, GRID, native_size, SQUARE
from segzero_ros.reasoning.dialects.embodied_r1_5 import EMBODIED_R1_5
from segzero_ros.reasoning.dialects.mini import MINI
from segzero_ros.reasoning.dialects.molmo2 import MOLMO2
from segzero_ros.reasoning.dialects.qwen import QWEN2_5_VL, QWEN2_VL
from segzero_ros.reasoning.dialects.qwen3_5 import QWEN3_5
from segzero_ros.reasoning.dialects.qwen3_vl import QWEN3_VL
from segzero_ros.reasoning.dialects.seg_zero import SEG_ZERO
from segzero_ros.reasoning.dialects.vision_reasoner import VISION_REASONER

__all__ = ['DIALECTS', 'GRID', 'SQUARE', 'Dialect', 'dialect_named', 'native_size']

DIALECTS = {
    dialect.name: dialect
    for dialect in (
        VISION_REASONER,
        SEG_ZERO,
        QWEN2_5_VL,
        QWEN2_VL,
        QWEN3_VL,
        QWEN3_5,
        EMBODIED_R1_5,
        MOLMO2,
        MINI,
    )
}


def dialect_named(name: str) -> Dialect:
    """Return the dialect of this name; raise ValueError that lists all names."""
    try:
        return DIALECTS[name]
    except KeyError:
        raise ValueError(
            f'There is no dialect {name!r}; there are {", ".join(DIALECTS)}.'
        ) from None
