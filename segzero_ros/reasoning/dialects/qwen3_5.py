"""Qwen3.5, 3.6 and 3.8 with thinking off: the answers of Qwen3-VL."""

from __future__ import annotations

from dataclasses import replace

from segzero_ros.reasoning.dialects.qwen3_vl import QWEN3_VL

# Without the option their template leaves the reasoning open, which takes thousands of tokens.
QWEN3_5 = replace(
    QWEN3_VL,
    name='qwen3_5',
    architectures=('qwen3_5',),
    template_options={'enable_thinking': False},
)
