"""Whether a dialect fits a model: by its architecture, its name, and the tokens it may write.

An answer that is read in another family's dialect can look plausible: a Qwen3-VL writes
thousandths where a Qwen2.5-VL writes pixels. So a checkpoint of another architecture is refused,
and a name that tells another family is warned of.
"""

from __future__ import annotations

import logging
import re

from segzero_ros.reasoning.dialects import Dialect, DIALECTS

# By the names of published checkpoints and their derivatives, the most special first: the dialect,
# or none where no dialect here reads the family's answers.
_FAMILIES = tuple(
    (re.compile(pattern), dialect)
    for pattern, dialect in (
        (r'embodied[-_ ]?r1[-_. ]?5', 'embodied_r1_5'),
        (r'molmo[-_ ]?2', 'molmo2'),
        (r'vision[-_ ]?reasoner|visurf', 'vision_reasoner'),
        (r'seg[-_ ]?zero', 'seg_zero'),
        (
            r'molmo|embodied[-_ ]?r1|robobrain|mimo[-_ ]?embodied|rex[-_ ]?omni|gemma|internvl|'
            r'locate[-_ ]?anything|seg[-_ ]?r1|glm[-_ ]?4|pixtral|llava|paligemma',
            '',
        ),
        (r'qwen[-_ ]?3[-_ ]?vl|cosmos[-_ ]?reason[-_ ]?2', 'qwen3_vl'),
        # Not "Qwen3-8B", which is a language model.
        (r'qwen[-_ ]?3[._][568](?!\d)', 'qwen3_5'),
        (r'qwen[-_ ]?2[-_. ]?5[-_ ]?vl', 'qwen2_5_vl'),
        (r'qwen[-_ ]?2[-_ ]?vl', 'qwen2_vl'),
    )
)
# Models as their makers published them, from which those of other dialects were trained.
_BASES = ('qwen2_5_vl', 'qwen2_vl', 'qwen3_vl', 'qwen3_5')

_logger = logging.getLogger(__name__)


def speakers_of(dialect: Dialect) -> str:
    """Return the half-sentence that says which models speak a dialect."""
    if not dialect.architectures:
        return f'models of the dialect {dialect.name} are asked through a server only'
    return f'the dialect {dialect.name} is spoken by {" and ".join(dialect.architectures)}'


def hint_for_architecture(architecture: str) -> str:
    """Return the sentence that names the dialects of an architecture."""
    known = [name for name, each in DIALECTS.items() if architecture in each.architectures]
    if not known:
        return (
            'No dialect of this release is spoken by such a model in this process: take another '
            'checkpoint, or ask a model server with profile:=remote.'
        )
    return (
        'Choose the dialect that the checkpoint was trained on '
        f'(reasoner.dialect:={" or ".join(known)}), or another checkpoint.'
    )


def warn_of_other_name(model: str, dialect: Dialect) -> None:
    """Warn where a model's name tells another family than the dialect's.

    Args:
        model: its name on the hub or at a server, or a path.
        dialect: the one that was chosen.
    """
    found = _family_of(model)
    if found is None or found == dialect.name:
        return
    if not found:
        _logger.warning(
            'The name %s is that of a family whose answers no dialect of this release reads, so '
            'boxes read by the dialect %s may be anywhere: take another model, or compare a few '
            'boxes with the picture.',
            model,
            dialect.name,
        )
        return
    kinds = DIALECTS[found].architectures
    if found in _BASES and set(kinds) <= set(dialect.architectures):
        # A fine-tune that is named after what it was trained from.
        return
    _logger.warning(
        'The name %s is that of a model of the dialect %s, but reasoner.dialect is %s, so its '
        'boxes may be read wrongly: set reasoner.dialect:=%s, or name the model otherwise if it '
        'was trained on the other.',
        model,
        found,
        dialect.name,
        found,
    )


def is_thinking_by_name(model: str, dialect: Dialect) -> bool:
    """Return whether a served model's prompt opens the reasoning, as far as its name tells."""
    return dialect.grammar.thinks and 'thinking' in model.lower()


def warn_of_few_tokens(model: str, max_new_tokens: int, dialect: Dialect) -> None:
    """Warn where a thinking model may write fewer tokens than its dialect's answers need."""
    if max_new_tokens < dialect.max_new_tokens:
        _logger.warning(
            '%s thinks before it answers, and %d tokens may not be enough: set '
            'reasoner.max_new_tokens:=%d or more, and limits.answer_time to match.',
            model,
            max_new_tokens,
            dialect.max_new_tokens,
        )


def _family_of(model: str) -> str | None:
    """Return the dialect that a name tells; '' if there is none for it, None if it tells none."""
    for part in reversed(model.lower().rstrip('/').split('/')):
        for pattern, dialect in _FAMILIES:
            if pattern.search(part):
                return dialect
    return None
