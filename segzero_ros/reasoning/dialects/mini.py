"""The small reasoner that comes with the package; it answers in VisionReasoner's format."""

from __future__ import annotations

from segzero_ros.reasoning.dialects.base import Dialect
from segzero_ros.reasoning.dialects.vision_reasoner import LIST_GRAMMAR
from segzero_ros.types import Task

# The prompt is the bare question: the model was trained on one task only.
MINI = Dialect(
    name='mini',
    prompt_prefix='',
    prompt_suffix='',
    grammar=LIST_GRAMMAR,
    architectures=('qwen2_5_vl',),
    strip_chars=' ."?!',
    lowercase=True,
    square=224,
    max_new_tokens=256,
    recipe='python -m segzero_ros.training.mini out/mini',
    position_code_cell=16,
    tasks={Task.DETECT: None, Task.COUNT: None, Task.POINT: None},
)
