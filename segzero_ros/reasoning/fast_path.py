"""The fast path of a Qwen2-VL or Qwen2.5-VL: put together, and tried against the model as it came.

What is fast here goes past parts of transformers: names, orders of calls and arithmetic that its
next release may change. So it is taken only with releases that it is known with, and each part
has to give what the model gave before it was touched; if one does not, the model is put back as it
was. Importing this may fail, for names of transformers that are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from segzero_ros.reasoning.base import FastPathError, in_a_line
from segzero_ros.reasoning.decoding import Decoder, Prompt, unknown_settings
from segzero_ros.reasoning.gqa_decode_attention import use_gqa_decode_attention, use_sdpa
from segzero_ros.reasoning.vision_tower import attend_by_window_size, embed_by_product, restore
from segzero_ros.types import ReasonerUnavailable

# By type of model, the releases of transformers, 5.N, that it was seen to do the same with.
KNOWN = {'qwen2_vl': range(17, 25), 'qwen2_5_vl': range(17, 25)}
# Tokens of the answer that is tried.
_TRIED = 6


@dataclass(frozen=True)
class _Reference:
    """What the model gives of itself.

    Attributes:
        features: (image tokens, width) of the image.
        written: the answer's tokens.
        logits: (tokens, vocabulary) float32, before each of them.
        allowed: how far others may be off, as a share of the norm: another order of sums rounds
            otherwise; what is computed wrongly is off by much more.
    """

    features: torch.Tensor
    written: list[int]
    logits: torch.Tensor
    allowed: float

    def compare(self, what: str, found: torch.Tensor, expected: torch.Tensor) -> None:
        """Raise FastPathError where numbers are too far from those expected."""
        if found.shape == expected.shape:
            off = (found.float() - expected.float()).norm()
            # Not for NaN either.
            if off <= self.allowed * expected.float().norm():
                return
        raise FastPathError(f'{what} computes otherwise than the model does')


def prepare(
    model: Any,
    inputs: Mapping[str, torch.Tensor],
    prompt_of: Callable[[torch.Tensor, torch.Tensor], Prompt],
    make_decoder: Callable[[], Decoder],
) -> Decoder:
    """Change a loaded model to the fast path, and try it.

    Args:
        model: as it was loaded.
        inputs: a short question about a small image, as transformers' processor makes it.
        prompt_of: returns the same question's prompt, from the image's features and grid.
        make_decoder: called once the model is changed.

    Returns:
        What decodes.

    Raises:
        FastPathError: it cannot be taken; the text says which part failed, and how. The model
            is as it came.
        ReasonerUnavailable: the model itself computes no numbers.
    """
    _refuse_unknown(model)
    decoder: Decoder | None = None
    try:
        with torch.inference_mode():
            with _step("transformers' own answer"):
                reference = _ask(model, inputs)
            _change_tower(model, inputs, reference)
            with _step('the packed attention'):
                use_gqa_decode_attention(model)
            with _step('the fused decode step'):
                decoder = make_decoder()
            _try(
                decoder, prompt_of(reference.features, inputs['image_grid_thw']), reference, inputs
            )
    except BaseException:
        undo(model, decoder)
        raise
    return decoder


def undo(model: Any, decoder: Decoder | None) -> None:
    """Have a model compute as transformers has it again, and let go of what decoded."""
    if decoder is not None:
        decoder.close()
    # A part that transformers has renamed was not changed either.
    for put_back in (restore, use_sdpa):
        with suppress(AttributeError):
            put_back(model)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _refuse_unknown(model: Any) -> None:
    kind = model.config.model_type
    major, minor = (int(part) for part in transformers.__version__.split('.')[:2])
    known = KNOWN.get(kind, range(0))
    if major != 5 or minor not in known:
        raise FastPathError(
            f'transformers {transformers.__version__} is not known with {kind}; '
            f'5.{known.start} to 5.{known.stop - 1} are'
            if known
            else f'a model of the type {kind} is not known'
        )
    unknown = unknown_settings(model)
    if unknown:
        raise FastPathError(f'the checkpoint asks for {", ".join(unknown)}')


def _ask(model: Any, inputs: Mapping[str, torch.Tensor]) -> _Reference:
    seen = model.get_image_features(
        inputs['pixel_values'], inputs['image_grid_thw'], return_dict=True
    )
    made = model.generate(
        **inputs,
        do_sample=False,
        use_cache=True,
        max_new_tokens=_TRIED,
        min_new_tokens=_TRIED,
        return_dict_in_generate=True,
        output_logits=True,
    )
    logits = torch.cat(made.logits).float()
    if not bool(logits.isfinite().all()):
        raise ReasonerUnavailable(
            f'The model computes no finite numbers in {model.dtype}: set reasoner_dtype:=float32, '
            'or bfloat16 on a GPU that has it.'
        )
    numbers = model.dtype
    if getattr(model, 'hf_quantizer', None) is not None:
        # A number that is rounded up rather than down is a step of such weights' products.
        numbers = torch.bfloat16
    written = made.sequences[0, inputs['input_ids'].shape[1] :].tolist()
    return _Reference(
        torch.cat(seen.pooler_output), written, logits, torch.finfo(numbers).eps ** 0.5
    )


def _change_tower(model: Any, inputs: Mapping[str, torch.Tensor], reference: _Reference) -> None:
    """Change the vision tower, part by part."""
    for what, change in (
        ('the patch embedding', embed_by_product),
        ('the windowed attention', attend_by_window_size),
    ):
        with _step(what):
            change(model)
            seen = model.get_image_features(
                inputs['pixel_values'], inputs['image_grid_thw'], return_dict=True
            )
            reference.compare(what, torch.cat(seen.pooler_output), reference.features)


def _try(
    decoder: Decoder, prompt: Prompt, reference: _Reference, inputs: Mapping[str, torch.Tensor]
) -> None:
    if prompt.ids != inputs['input_ids'][0].tolist():
        raise FastPathError("the prompt's tokens are others than the processor's")
    with _step('decoding'):
        for what, start, logits in decoder.try_out(prompt, reference.written):
            expected = reference.logits[start : start + len(logits)]
            reference.compare(what, logits, expected)


@contextmanager
def _step(what: str) -> Iterator[None]:
    """Say of what fails here that it is this part."""
    try:
        yield
    except (FastPathError, ReasonerUnavailable):
        raise
    except Exception as error:
        raise FastPathError(f'{what} failed ({in_a_line(error)})') from error
