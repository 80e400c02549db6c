"""The fast path is left, with one warning that names the reason, wherever it might do otherwise.

Everything is broken on purpose, and the reasoner still gives the answer of the model as it came.
"""

from __future__ import annotations

from collections.abc import Callable
import logging
from pathlib import Path
import subprocess
import sys
import textwrap
from typing import Any

import pytest

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

from transformers.cache_utils import DynamicLayer
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as modeling

from segzero_ros import onednn
from segzero_ros.loading import load_reasoner, ReasonerOptions
from segzero_ros.reasoning import (
    decoding,
    devices,
    fast_path,
    fused_decode,
    gqa_decode_attention,
    preallocated_cache,
    transformers_reasoner,
    vision_tower,
)
from segzero_ros.reasoning.base import FastPathError
from segzero_ros.types import Cancelled, Frame, Query, ReasonerUnavailable

Patch = pytest.MonkeyPatch


@pytest.fixture(scope='module', autouse=True)
def _one_thread() -> Any:
    """Small models are quickest on one thread, and leave the others to other programs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def pair(make_tiny_checkpoints: Any) -> Any:
    return make_tiny_checkpoints.example_pairs()[0]


def load(folder: Path, **options: Any) -> Any:
    return load_reasoner(ReasonerOptions('transformers', str(folder), **options))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was said of the fast path, at the level of warnings."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith('segzero_ros')
    ]


def check_plain(reasoner: Any, pair: Any, caplog: pytest.LogCaptureFixture, said: str) -> None:
    """See that a reasoner answers by `generate`, and said why once."""
    assert reasoner._decoder is None
    for _ in range(2):
        answer = reasoner.reason(Frame(pair.image), Query(pair.query))
        assert answer.raw_answer == pair.answer
    (warning,) = warnings(caplog)
    assert warning.startswith('The fast path is not used, for ')
    assert said in warning
    assert '\n' not in warning and len(warning) < 400


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def gone(place: Any, name: str) -> Callable[[Patch], None]:
    return lambda patch: patch.delattr(place, name)


def fails(place: Any, name: str, error: Exception) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(place, name, raising(error))


def off(place: Any, name: str, change: Callable[[Any], Any]) -> Callable[[Patch], None]:
    """Have what a function returns be changed."""
    original = getattr(place, name)
    return lambda patch: patch.setattr(
        place, name, lambda *given, **named: change(original(*given, **named))
    )


def shifted(found: Any) -> Any:
    """Return positions with the one after the prompt off by three."""
    positions, offset = found
    return positions, offset + 3


def another_prompt(patch: Patch) -> None:
    reasoner = transformers_reasoner.TransformersReasoner
    original = reasoner._prompt

    def prompt(self: Any, *given: Any) -> Any:
        made = original(self, *given)
        made.ids.insert(3, 5)
        return made

    patch.setattr(reasoner, '_prompt', prompt)


def other_pixels(patch: Patch) -> None:
    reasoner = transformers_reasoner.TransformersReasoner
    original = reasoner._pixels
    patch.setattr(reasoner, '_pixels', lambda self, frame: original(self, frame) + 1)


# What of transformers, or of the fast path itself, is not as expected; and what is said of it.
BROKEN = {
    'a release that nobody has tried': (
        lambda patch: patch.setattr('transformers.__version__', '5.99.0'),
        'transformers 5.99.0 is not known with qwen2_5_vl; 5.17 to 5.24 are',
    ),
    'the next major release': (
        lambda patch: patch.setattr('transformers.__version__', '6.17.0.dev0'),
        'transformers 6.17.0.dev0 is not known',
    ),
    'a model that is not known': (
        lambda patch: patch.setattr(fast_path, 'KNOWN_RELEASES', {'qwen2_vl': range(17, 25)}),
        'a model of the type qwen2_5_vl is not known',
    ),
    'positions are named otherwise': (
        # What `generate` itself uses is left: it asks for them under another name.
        lambda patch: patch.setattr(
            decoding.Decoder, '_positions', raising(AttributeError('get_rope_index'))
        ),
        'decoding failed (AttributeError: get_rope_index)',
    ),
    'positions mean something else': (
        off(decoding.Decoder, '_positions', shifted),
        'the decode step computes otherwise',
    ),
    'an attribute of attention is gone': (
        lambda patch: patch.setattr(
            fused_decode,
            '_attend',
            raising(AttributeError("no attribute 'num_key_value_heads'")),
        ),
        "the fused decode step failed (AttributeError: no attribute 'num_key_value_heads')",
    ),
    'the norm adds one': (
        off(fused_decode.FusedDecodeStep, '_rms_norm', lambda hidden: hidden * 1.01),
        'the fused decode step computes otherwise',
    ),
    'the cache cannot be cut': (
        lambda patch: patch.setattr(preallocated_cache.PreallocatedLayer, 'crop', None),
        "decoding failed (TypeError: 'NoneType' object is not callable)",
    ),
    'the cache is cut otherwise': (
        lambda patch: patch.setattr(
            preallocated_cache.PreallocatedLayer, 'crop', lambda self, length: None
        ),
        'computes otherwise than the model does',
    ),
    'the cache loses what was written': (
        lambda patch: patch.setattr(
            preallocated_cache.PreallocatedLayer,
            'update',
            lambda self, key, value, *_, **__: DynamicLayer.update(self, key, value * 0.9),
        ),
        'computes otherwise than the model does',
    ),
    'a layer of the cache has other parts': (
        lambda patch: patch.setattr(
            preallocated_cache.PreallocatedLayer,
            'lazy_initialization',
            raising(AttributeError('lazy_initialization')),
        ),
        'AttributeError: lazy_initialization',
    ),
    'attention cannot be registered': (
        fails(transformers.AttentionInterface, 'register', ValueError('taken')),
        'the packed attention failed (ValueError: taken)',
    ),
    'attention is scaled otherwise': (
        off(gqa_decode_attention, 'attend_grouped', lambda found: found * 1.05),
        'computes otherwise than the model does',
    ),
    'the vision tower has other parts': (
        lambda patch: patch.setattr(
            vision_tower._WindowAttention, '_attend', raising(AttributeError('scaling'))
        ),
        'the windowed attention failed (AttributeError: scaling)',
    ),
    'windows are put together otherwise': (
        off(vision_tower._WindowAttention, '_attend', lambda found: found.flip(0)),
        'the windowed attention computes otherwise',
    ),
    'a prompt is put together otherwise': (another_prompt, "the prompt's tokens are others"),
    'images are resized otherwise': (other_pixels, 'other pixels than Pillow'),
    'drafts are read otherwise': (
        off(decoding.Decoder, '_decode_several', lambda logits: logits.flip(-1)),
        'prompt lookup computes otherwise',
    ),
    'memory runs out': (
        fails(
            decoding, 'fused_decode_step', torch.OutOfMemoryError('Tried to allocate 2.00 GiB.')
        ),
        'the fused decode step failed (OutOfMemoryError: Tried to allocate 2.00 GiB.)',
    ),
    'the switch of oneDNN fails': (
        lambda patch: (
            patch.setattr(onednn, 'worth_avoiding', lambda _: True),
            patch.setattr(onednn, 'avoided', raising(RuntimeError('flags are frozen'))),
        ),
        'decoding failed (RuntimeError: flags are frozen)',
    ),
    'the decoder wants what is not there': (
        fails(decoding, 'NgramSpeculator', ImportError('gone')),
        'the fused decode step failed (ImportError: gone)',
    ),
}


@pytest.mark.parametrize('what', BROKEN)
def test_what_is_broken_is_named_and_the_answer_is_the_models_own(
    what: str,
    tiny_qwen2_5_vl: Path,
    pair: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: Patch,
) -> None:
    break_it, said = BROKEN[what]
    # So that there are drafts, whatever this processor is.
    monkeypatch.setattr(onednn, 'several_rows_are_cheap', lambda _: True)
    break_it(monkeypatch)
    check_plain(load(tiny_qwen2_5_vl), pair, caplog, said)


def test_a_model_that_is_put_back_computes_what_it_did(tiny_qwen2_5_vl: Path) -> None:
    model: Any = transformers.AutoModelForImageTextToText.from_pretrained(tiny_qwen2_5_vl).eval()
    torch.manual_seed(0)
    grid = torch.tensor([[1, 12, 14]])
    vision = model.config.vision_config
    size = 3 * vision.temporal_patch_size * vision.patch_size**2
    inputs = {'pixel_values': torch.randn(168, size), 'image_grid_thw': grid}
    ids = torch.tensor([[5, *[model.config.image_token_id] * 42, 6, 7]])
    kinds = (ids == model.config.image_token_id).int()

    def logits() -> Any:
        with torch.inference_mode():
            return model(input_ids=ids, mm_token_type_ids=kinds, **inputs).logits

    names = set(dict(model.named_modules()))
    before = logits()
    attention = model.model.visual.blocks[0].attn
    vision_tower.embed_patches_by_matmul(model)
    assert vision_tower.attend_by_window_size(model)
    gqa_decode_attention.use_gqa_decode_attention(model)
    assert 'forward' in vars(attention)
    fast_path.undo(model, None)
    assert torch.equal(logits(), before)
    assert 'forward' not in vars(attention) and 'forward' not in vars(
        model.model.visual.patch_embed
    )
    assert set(dict(model.named_modules())) == names
    assert model.model.language_model.config._attn_implementation == 'sdpa'


# transformers itself makes layers of this class at each answer, so it goes on under another name.
CACHE_GONE = """
import transformers.cache_utils as place
class Hidden(type(place)):
    def __getattribute__(self, name):
        if name == 'DynamicLayer':
            raise AttributeError(f'transformers.cache_utils has no attribute {name}')
        return super().__getattribute__(name)
place.__class__ = Hidden
"""


@pytest.mark.parametrize(
    ('break_it', 'said'),
    [
        (CACHE_GONE, 'DynamicLayer'),
        ('import transformers.masking_utils as place\ndel place.sdpa_mask\n', 'sdpa_mask'),
        (
            'import transformers.integrations.sdpa_attention as place\n'
            'del place.sdpa_attention_forward\n',
            'sdpa_attention_forward',
        ),
        # Without these it goes on as it is.
        (
            'import sys, torch\n'
            'sys.modules["torch._inductor"] = None\n'
            'del torch.cpu._is_avx512_bf16_supported, torch.cpu._is_amx_tile_supported\n'
            'torch.backends.disable_global_flags()\n',
            '',
        ),
    ],
    ids=['cache', 'mask', 'sdpa', 'torch'],
)
@pytest.mark.timeout(600)
def test_names_that_are_gone_when_this_is_imported_do_not_keep_a_reasoner_from_answering(
    break_it: str, said: str, tiny_qwen2_vl: Path, pair: Any, tmp_path: Path
) -> None:
    import numpy as np

    np.save(tmp_path / 'image.npy', pair.image)
    # What transformers has taken from the place before keeps it; only new imports miss it.
    code = """
        import torch, transformers, numpy
        torch.set_num_threads(1)
        import transformers.models.qwen2_vl.modeling_qwen2_vl
        import transformers.generation
    """
    code = (
        textwrap.dedent(code)
        + break_it
        + textwrap.dedent(f"""
        import logging
        logging.basicConfig(level=logging.WARNING, format='%(name)s|%(message)s')
        from segzero_ros.loading import load_reasoner, ReasonerOptions
        from segzero_ros.types import Frame, Query
        reasoner = load_reasoner(ReasonerOptions('transformers', {str(tiny_qwen2_vl)!r}))
        image = numpy.load({str(tmp_path / 'image.npy')!r})
        print(reasoner.reason(Frame(image), Query({pair.query!r})).raw_answer)
    """)
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.strip() == pair.answer, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith('segzero_ros')]
    if not said:
        assert lines == []
        return
    (line,) = lines
    assert 'The fast path is not used, for ImportError: ' in line or 'AttributeError' in line
    assert said in line


class TestCompiling:
    """On a GPU the step is compiled; here only what calls it is."""

    @pytest.fixture(autouse=True)
    def _as_on_a_gpu(self, monkeypatch: Patch) -> None:
        """Have the cache be static and the step go through `compiled`."""
        placed = devices.Placement({'': 'cpu'}, compile=True)
        monkeypatch.setattr(transformers_reasoner, 'place', lambda *_: placed)
        monkeypatch.setattr(
            decoding.Decoder, '_is_compiled', staticmethod(lambda model, static: static)
        )
        monkeypatch.setattr(decoding, 'compiled', lambda step: lambda *given: step(*given))

    def test_a_compiled_step_is_tried_and_taken(
        self, tiny_qwen2_5_vl: Path, pair: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        reasoner = load(tiny_qwen2_5_vl)
        assert reasoner._decoder is not None
        answer = reasoner.reason(Frame(pair.image), Query(pair.query))
        assert answer.raw_answer == pair.answer
        assert reasoner._decoder._cache is reasoner._decoder._static
        assert warnings(caplog) == []

    def test_torch_that_cannot_compile_at_all_is_named(
        self,
        tiny_qwen2_5_vl: Path,
        pair: Any,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: Patch,
    ) -> None:
        monkeypatch.setattr(decoding, 'compiled', raising(RuntimeError('no backend')))
        check_plain(load(tiny_qwen2_5_vl), pair, caplog, 'RuntimeError: no backend')

    def test_a_step_that_does_not_compile_is_named(
        self,
        tiny_qwen2_5_vl: Path,
        pair: Any,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: Patch,
    ) -> None:
        error = RuntimeError(
            'Failed to find C compiler. Please specify via CC.\nand 90 lines more'
        )
        monkeypatch.setattr(decoding, 'compiled', lambda step: raising(error))
        said = 'decoding failed (RuntimeError: Failed to find C compiler. Please specify via CC.)'
        check_plain(load(tiny_qwen2_5_vl), pair, caplog, said)

    def test_a_graph_that_gives_other_numbers_is_named(
        self,
        tiny_qwen2_5_vl: Path,
        pair: Any,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: Patch,
    ) -> None:
        first: list[Any] = []

        def stale(step: Any) -> Any:
            def replay(*given: Any) -> Any:
                first.append(step(*given))
                return first[0]

            return replay

        monkeypatch.setattr(decoding, 'compiled', stale)
        said = 'the compiled step computes otherwise'
        check_plain(load(tiny_qwen2_5_vl), pair, caplog, said)

    def test_a_warm_up_that_fails_is_named(
        self,
        tiny_qwen2_5_vl: Path,
        pair: Any,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: Patch,
    ) -> None:
        monkeypatch.setattr(
            transformers_reasoner.TransformersReasoner,
            '_warm_up',
            raising(RuntimeError('CUDA graph capture failed')),
        )
        check_plain(load(tiny_qwen2_5_vl), pair, caplog, 'RuntimeError: CUDA graph capture failed')


class TestLater:
    """What fails in the middle of an answer."""

    @pytest.mark.parametrize('name', ['qwen2_5_vl', 'qwen2_vl'])
    @pytest.mark.parametrize('after', [0, 1, 9])
    def test_the_answer_goes_on_by_generate_and_so_do_those_after_it(
        self,
        name: str,
        after: int,
        request: pytest.FixtureRequest,
        pair: Any,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: Patch,
    ) -> None:
        reasoner = load(request.getfixturevalue(f'tiny_{name}'))
        assert reasoner._decoder is not None
        read, left = fused_decode.FusedDecodeStep.read, iter(range(after))

        def fail(self: Any, *given: Any) -> Any:
            if next(left, None) is None:
                raise RuntimeError('a kernel is missing')
            return read(self, *given)

        monkeypatch.setattr(fused_decode.FusedDecodeStep, 'read', fail)
        said: list[str] = []
        told: list[Any] = []
        answer = reasoner.reason(
            Frame(pair.image), Query(pair.query), said.append, on_object=told.append
        )
        assert answer.raw_answer == pair.answer
        # Nobody hears anything twice.
        assert ''.join(said) == answer.reasoning
        assert tuple(told) == answer.objects
        check_plain(reasoner, pair, caplog, 'RuntimeError: a kernel is missing')

    @pytest.mark.parametrize('part', ['vision tower', 'resizing'])
    def test_so_it_is_while_the_image_is_read(
        self,
        part: str,
        tiny_qwen2_5_vl: Path,
        pair: Any,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: Patch,
    ) -> None:
        reasoner = load(tiny_qwen2_5_vl)
        error = AttributeError('pooler_output')
        if part == 'resizing':
            monkeypatch.setattr(reasoner, '_pixels', raising(error))
        else:
            monkeypatch.setattr(vision_tower._WindowAttention, '_attention', raising(error))
        answer = reasoner.reason(Frame(pair.image), Query(pair.query))
        assert answer.raw_answer == pair.answer
        check_plain(reasoner, pair, caplog, 'AttributeError: pooler_output')

    def test_a_token_limit_holds_over_both_ways(
        self, tiny_qwen2_5_vl: Path, pair: Any, monkeypatch: Patch
    ) -> None:
        reasoner = load(tiny_qwen2_5_vl, max_new_tokens=20)
        read, left = fused_decode.FusedDecodeStep.read, iter(range(3))

        def fail(self: Any, *given: Any) -> Any:
            if next(left, None) is None:
                raise RuntimeError
            return read(self, *given)

        monkeypatch.setattr(fused_decode.FusedDecodeStep, 'read', fail)
        with pytest.raises(Exception, match='max_new_tokens=20') as caught:
            reasoner.reason(Frame(pair.image), Query(pair.query))
        assert pair.answer.startswith(caught.value.raw_answer)

    def test_cancels_and_a_listeners_errors_are_no_failure_of_it(
        self, tiny_qwen2_5_vl: Path, pair: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        reasoner = load(tiny_qwen2_5_vl)
        with pytest.raises(Cancelled):
            reasoner.reason(Frame(pair.image), Query(pair.query), cancelled=lambda: True)
        with pytest.raises(ValueError, match='mine'):
            reasoner.reason(Frame(pair.image), Query(pair.query), raising(ValueError('mine')))
        assert reasoner._decoder is not None
        assert warnings(caplog) == []


def test_a_model_that_computes_no_numbers_says_what_to_set(
    tiny_qwen2_5_vl: Path, monkeypatch: Patch
) -> None:
    norm = modeling.Qwen2_5_VLRMSNorm
    plain = norm.forward
    monkeypatch.setattr(norm, 'forward', lambda self, states: plain(self, states) * float('inf'))
    with pytest.raises(ReasonerUnavailable, match=r'no finite numbers in torch\.float32'):
        load(tiny_qwen2_5_vl)


def test_without_the_fast_path_nothing_is_tried(
    tiny_qwen2_5_vl: Path, pair: Any, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(fast_path, 'prepare', raising(AssertionError()))
    reasoner = load(tiny_qwen2_5_vl, fast_decoding=False)
    assert reasoner.reason(Frame(pair.image), Query(pair.query)).raw_answer == pair.answer


def test_private_names_of_torch_are_there() -> None:
    # `onednn.supports` goes on without them, which makes bfloat16 slow and nobody would notice.
    assert callable(torch.cpu._is_avx512_bf16_supported)
    assert callable(torch.cpu._is_amx_tile_supported)


def test_what_computes_otherwise_is_an_error_of_the_fast_path() -> None:
    reference = fast_path._Reference(torch.zeros(1), [], torch.ones(2, 3), 0.1)
    for found in (torch.ones(2, 3) * 1.2, torch.full((2, 3), float('nan')), torch.ones(2, 4)):
        with pytest.raises(FastPathError, match='it computes otherwise'):
            reference.compare('it', found, reference.logits)
    reference.compare('it', torch.ones(2, 3) * 1.05, reference.logits)
