"""The reasoner in process, on small checkpoints of the real architectures."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
import gc
from itertools import accumulate
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
import threading
import time
from types import MethodType
from typing import Any
import weakref

from hypothesis import example, given, settings
from hypothesis import strategies as st
import numpy as np
from PIL import Image
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('transformers')

from published_layout import rewrite, Variant

from segzero_ros import onednn
from segzero_ros.loading import load_reasoner, load_segmenter, ReasonerOptions, SegmenterOptions
from segzero_ros.pipeline import Pipeline
from segzero_ros.reasoning import (
    checkpoints,
    decoding,
    memory,
    transformers_reasoner,
    vision_tower,
)
from segzero_ros.reasoning.detokenizer import Detokenizer
from segzero_ros.reasoning.dialects import dialect_named
from segzero_ros.reasoning.fused_decode import FusedDecodeStep
from segzero_ros.reasoning.preprocessing import resize_for_model
from segzero_ros.reasoning.resize_like_pillow import resize_like_pillow
from segzero_ros.segmentation.grabcut_segmenter import GrabCutSegmenter
from segzero_ros.types import (
    Cancelled,
    Frame,
    GroundedObject,
    MalformedAnswer,
    Query,
    ReasonerTimeout,
    ReasonerUnavailable,
    Status,
)

ARCHITECTURES = ('qwen2_5_vl', 'qwen2_vl')
# The checkpoint's own question about these words is not among those it knows by heart.
STRANGE = Query('something that nobody ever asked')


@pytest.fixture(scope='module', autouse=True)
def _one_thread() -> Any:
    """Small models are quickest on one thread, and leave the others to other programs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def folders(tiny_qwen2_5_vl: Path, tiny_qwen2_vl: Path, tmp_path_factory: Any) -> dict[str, Path]:
    """Both as the hub holds them; `test_published_layout` compares them with today's layout."""
    # By a class that transformers itself loads: the published procedure is compared here.
    images = (('image_processor_type', 'Qwen2VLImageProcessor'),)
    variant = Variant(parts=1, generation_config=True, preprocessor=images)
    place = tmp_path_factory.mktemp('published')
    tiny = {'qwen2_5_vl': tiny_qwen2_5_vl, 'qwen2_vl': tiny_qwen2_vl}
    return {name: rewrite(folder, place / name, variant) for name, folder in tiny.items()}


def load(folder: Path, **options: Any) -> Any:
    return load_reasoner(ReasonerOptions('transformers', str(folder), **options))


@pytest.fixture(scope='module')
def fast(folders: dict[str, Path]) -> dict[str, Any]:
    return {name: load(folder, max_new_tokens=160) for name, folder in folders.items()}


@pytest.fixture(scope='module')
def plain(folders: dict[str, Path]) -> dict[str, Any]:
    return {
        name: load(folder, max_new_tokens=160, fast_decoding=False)
        for name, folder in folders.items()
    }


@pytest.fixture(scope='module')
def pairs(make_tiny_checkpoints: Any) -> Any:
    return make_tiny_checkpoints.example_pairs()


def raw_answer(reasoner: Any, frame: Frame, query: Query) -> tuple[str, int]:
    """Return the model's whole text and how many tokens it wrote, readable or not."""
    written: list[int] = []
    original = Detokenizer.add

    def add(self: Detokenizer, token: int) -> str:
        written.append(token)
        return original(self, token)

    Detokenizer.add = add  # type: ignore[method-assign]
    try:
        text = reasoner.reason(frame, query).raw_answer
    except MalformedAnswer as error:
        text = error.raw_answer
    finally:
        Detokenizer.add = original  # type: ignore[method-assign]
    return text, hash(tuple(written))


def published_tokens(folder: Path, frame: Frame, query: Query, count: int) -> list[int]:
    """The published procedure on its own: processor, pillow, `generate`, nothing of this package
    but the prompt."""
    import transformers

    processor = transformers.AutoProcessor.from_pretrained(folder, padding_side='left')
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    image = Image.fromarray(frame.image).resize((840, 840), Image.Resampling.BILINEAR)
    prompt = dialect_named('vision_reasoner').prompt(query.text)
    content = [{'type': 'image', 'image': image}, {'type': 'text', 'text': prompt}]
    text = processor.apply_chat_template(
        [{'role': 'user', 'content': content}], tokenize=False, add_generation_prompt=True
    )
    inputs = processor(text=[text], images=[image], padding=True, return_tensors='pt')
    ids = model.generate(**inputs, use_cache=True, max_new_tokens=count, do_sample=False)
    return ids[0, inputs['input_ids'].shape[1] :].tolist()


def penalised(checkpoint: Path, place: Path, penalty: float) -> Path:
    """Copy a checkpoint and have it penalise repetition."""
    folder = place / 'penalised'
    shutil.copytree(checkpoint, folder)
    settings_file = folder / 'generation_config.json'
    chosen = json.loads(settings_file.read_text()) | {'repetition_penalty': penalty}
    settings_file.write_text(json.dumps(chosen))
    return folder


def noise(width: int, height: int, seed: int = 0) -> Frame:
    return Frame(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def windowed(attention: Any, dtype: torch.dtype) -> Any:
    """Return a copy of an attention module that goes the fast way."""
    copied = deepcopy(attention).to(dtype)
    windows = vision_tower._WindowAttention()
    copied.attend = windows.attend
    copied.forward = MethodType(windows.forward(), copied)
    return copied


class TestAnswers:
    @pytest.mark.parametrize('name', ARCHITECTURES)
    def test_questions_are_answered_as_learnt_with_boxes_in_the_source_image(
        self, name: str, fast: dict[str, Any], pairs: Any
    ) -> None:
        for pair in pairs:
            said: list[str] = []
            told: list[GroundedObject] = []
            grounding = fast[name].reason(
                Frame(pair.image), Query(pair.query), said.append, on_object=told.append
            )
            assert grounding.raw_answer == pair.answer
            assert ''.join(said) == grounding.reasoning != ''
            assert len(said) > 3
            assert tuple(told) == grounding.objects
            assert grounding.generated_tokens > 10
            assert grounding.note == ''
        left_red = fast[name].reason(Frame(pairs[0].image), Query('the red box')).objects[0]
        np.testing.assert_allclose(left_red.box, (80, 150, 240, 330), atol=1)
        assert left_red.label == 'the red box'

    @pytest.mark.parametrize('name', ARCHITECTURES)
    @pytest.mark.parametrize('size', [(640, 480), (1280, 720), (90, 700), (840, 840)])
    def test_tokens_are_those_of_the_published_procedure(
        self, name: str, size: tuple[int, int], folders: dict[str, Path], fast: dict[str, Any]
    ) -> None:
        frame = noise(*size)
        expected = published_tokens(folders[name], frame, STRANGE, 40)
        decoder = fast[name]._decoder
        with torch.inference_mode():
            prompt = fast[name]._read_prompt(frame, STRANGE, transformers_reasoner.never_stop)
            tokens = decoder.generate(prompt, transformers_reasoner.never_stop)
            written = [token for token, _ in zip(tokens, range(len(expected)), strict=False)]
        assert written == expected

    @pytest.mark.parametrize('name', ARCHITECTURES)
    def test_a_cpu_reads_one_more_token_past_the_modules(
        self, name: str, fast: dict[str, Any]
    ) -> None:
        # Whether it may is tried out while loading, and the tokens do not tell.
        assert isinstance(fast[name]._decoder._fused_step, FusedDecodeStep)

    @pytest.mark.parametrize('name', ARCHITECTURES)
    def test_fast_and_plain_write_the_same_tokens_also_when_images_alternate(
        self, name: str, fast: dict[str, Any], plain: dict[str, Any], pairs: Any
    ) -> None:
        frames = [Frame(pairs[0].image), noise(300, 700), Frame(pairs[3].image)]
        queries = [Query('the red box'), Query('What is blue?'), STRANGE]
        # Each frame is asked several times, with questions about other frames in between.
        order = [(0, 0), (0, 1), (1, 0), (1, 2), (0, 1), (0, 0), (2, 0), (2, 1), (2, 0), (1, 0)]
        for frame, query in order:
            expected = raw_answer(plain[name], frames[frame], queries[query])
            assert raw_answer(fast[name], frames[frame], queries[query]) == expected

    @pytest.mark.parametrize('name', ARCHITECTURES)
    def test_a_list_is_written_in_fewer_steps_than_it_has_tokens(
        self, name: str, folders: dict[str, Path], pairs: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reasoner = load(folders[name])
        # How many tokens each step reads.
        steps: list[int] = []
        read = FusedDecodeStep.read

        def count(self: FusedDecodeStep, ids: Any, *rest: Any) -> Any:
            steps.append(ids.shape[1])
            return read(self, ids, *rest)

        monkeypatch.setattr(FusedDecodeStep, 'read', count)
        frame = Frame(pairs[3].image)
        answers = []
        for _ in range(3):
            steps.clear()
            answers.append(reasoner.reason(frame, Query(pairs[3].query)))
            # The form of the list is known from the prompt, and then from this answer.
            assert max(steps) > 4
            written = answers[-1].generated_tokens
            assert len(steps) < 0.75 * written
        assert [answer.raw_answer for answer in answers] == 3 * [pairs[3].answer]
        # What was written twice, numbers too, is guessed.
        assert len(steps) < 0.35 * written

    def test_nothing_is_guessed_where_several_rows_are_dear(
        self, folders: dict[str, Path], pairs: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(onednn, 'several_rows_are_cheap', lambda _: False)
        reasoner = load(folders['qwen2_5_vl'])
        assert reasoner._decoder._speculator is None
        answer = reasoner.reason(Frame(pairs[3].image), Query(pairs[3].query))
        assert answer.raw_answer == pairs[3].answer

    @pytest.mark.parametrize('name', ARCHITECTURES)
    @pytest.mark.parametrize('penalty', [1.0, 3.0])
    def test_wrong_guesses_leave_no_trace(
        self, name: str, penalty: float, folders: dict[str, Path], tmp_path: Path, pairs: Any
    ) -> None:
        class Wrong:
            """Guesses what is not written, or only begins so."""

            def __init__(self) -> None:
                self.written = 0

            def begin(self, tokens: Any) -> None: ...

            def add(self, tokens: list[int]) -> None:
                self.written += len(tokens)

            def draft(self) -> list[int]:
                right = expected[self.written : self.written + 5 * (self.written % 3)]
                return right + [3, 1, 4][: self.written % 4]

        folder = penalised(folders[name], tmp_path, penalty)
        reasoner = load(folder, max_new_tokens=60)
        for pair in pairs:
            frame = Frame(pair.image)
            for query in (Query(pair.query), STRANGE):
                expected = published_tokens(folder, frame, query, 60)
                reasoner._decoder._speculator = Wrong()
                with torch.inference_mode():
                    prompt = reasoner._read_prompt(frame, query, transformers_reasoner.never_stop)
                    tokens = reasoner._decoder.generate(prompt, transformers_reasoner.never_stop)
                    written = [token for token, _ in zip(tokens, expected, strict=False)]
                assert written == expected

    @pytest.mark.parametrize('ahead', [False, True])
    def test_a_static_cache_gives_the_same_tokens_as_a_growing_one(
        self, ahead: bool, fast: dict[str, Any], pairs: Any
    ) -> None:
        reasoner = fast['qwen2_5_vl']
        growing = reasoner._decoder
        static = decoding.Decoder(
            reasoner._model, 1540, 160, static=True, is_number=lambda _: False
        )
        # As on a GPU, where the next step begins before a token has come to the host.
        static._overlap_host_copy = ahead
        frames = [Frame(pair.image) for pair in pairs]
        for pair, frame in zip(pairs, frames, strict=True):
            for query in (Query(pair.query), STRANGE, Query(pair.query)):
                expected = raw_answer(reasoner, frame, query)
                reasoner._decoder = static
                try:
                    assert raw_answer(reasoner, frame, query) == expected
                    assert static._cache is static._static
                finally:
                    reasoner._decoder = growing
        # A prompt that is too long for the static cache is read into one that grows.
        long = Query('the red box ' * 200)
        expected = raw_answer(reasoner, frames[0], long)
        reasoner._decoder = static
        try:
            assert raw_answer(reasoner, frames[0], long) == expected
            assert static._cache is not static._static
            assert raw_answer(reasoner, frames[0], Query(pairs[0].query))[0] == pairs[0].answer
        finally:
            reasoner._decoder = growing

    def test_a_further_question_about_a_frame_reads_only_what_is_new(
        self, fast: dict[str, Any], pairs: Any
    ) -> None:
        reasoner = fast['qwen2_5_vl']
        frame = Frame(pairs[0].image)
        reasoner.reason(frame, Query(pairs[0].query))
        rows: list[int] = []
        handle = reasoner._model.model.language_model.layers[0].register_forward_pre_hook(
            lambda module, args: rows.append(args[0].shape[1])
        )
        looked: list[int] = []
        eyes = reasoner._model.model.visual.register_forward_pre_hook(
            lambda module, args: looked.append(1)
        )
        try:
            assert reasoner.reason(frame, Query(pairs[1].query)).raw_answer == pairs[1].answer
        finally:
            handle.remove()
            eyes.remove()
        assert looked == []
        # The answer's tokens are read past the modules.
        (read,) = rows
        assert 1 < read < 300

    def test_windows_of_a_size_share_one_attention_call(
        self, folders: dict[str, Path], fast: dict[str, Any]
    ) -> None:
        frame = noise(640, 480)
        one_by_one = load(folders['qwen2_5_vl'], fast_decoding=False)
        calls: list[int] = []
        original = torch.nn.functional.scaled_dot_product_attention

        def counted(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            return original(*args, **kwargs)

        features = []
        counts = []
        for reasoner in (one_by_one, fast['qwen2_5_vl']):
            calls.clear()
            torch.nn.functional.scaled_dot_product_attention = counted
            try:
                with torch.inference_mode():
                    features.append(reasoner._encode_image(frame)[0])
            finally:
                torch.nn.functional.scaled_dot_product_attention = original
            counts.append(len(calls))
        # The one block that sees everything does so in four parts.
        assert counts == [2 * 64 + 1, 2 * 3 + 4]
        torch.testing.assert_close(features[0], features[1], rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize('length', [767, 768, 1535, 1536, 2308, 3600])
    def test_a_large_window_in_parts_gives_the_same_bits(
        self, length: int, dtype: torch.dtype
    ) -> None:
        random = torch.Generator().manual_seed(length)
        mixed = torch.randn(1, length, 3, 2, 16, generator=random).to(dtype)
        windows = vision_tower._WindowAttention()
        parts: list[int] = []
        windows.attend.register_forward_pre_hook(
            lambda module, given: parts.append(given[0].shape[2])
        )
        found = windows._attention(mixed, 0.25)
        query, key, value = mixed.transpose(1, 3).contiguous().unbind(2)
        at_once = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=0.25)
        assert torch.equal(found, at_once[0].transpose(0, 1).flatten(1))
        assert sum(parts) == length
        assert max(parts) < 2 * 768

    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize('lengths', [[64] * 5, [16, 64, 16, 32, 64, 4], [1900]])
    @pytest.mark.parametrize('name', ARCHITECTURES)
    def test_attention_in_windows_gives_the_bits_of_transformers_own(
        self,
        name: str,
        lengths: list[int],
        dtype: torch.dtype,
        plain: dict[str, Any],
    ) -> None:
        random = torch.Generator().manual_seed(0)
        theirs = plain[name]._model.model.visual.blocks[0].attn
        angles = 6 * torch.rand(sum(lengths), theirs.head_dim // 2, generator=random)
        places = torch.cat([angles, angles], -1)
        bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        patches = torch.randn(sum(lengths), theirs.dim, generator=random).to(dtype)
        given = patches.clone()
        with torch.inference_mode():
            expected, found = (
                attention(
                    given, cu_seqlens=bounds, position_embeddings=(places.cos(), places.sin())
                )
                for attention in (deepcopy(theirs).to(dtype), windowed(theirs, dtype))
            )
        assert torch.equal(found, expected)
        assert torch.equal(given, patches)

    @pytest.mark.parametrize('name', ARCHITECTURES)
    def test_patches_by_one_product_are_what_their_convolution_gives(
        self, name: str, fast: dict[str, Any], plain: dict[str, Any]
    ) -> None:
        patches = torch.randn(36, 1176, generator=torch.Generator().manual_seed(0))
        convolutions: list[int] = []
        embedded = []
        for reasoner in (fast[name], plain[name]):
            embedding = reasoner._model.model.visual.patch_embed
            handle = embedding.proj.register_forward_pre_hook(lambda *_: convolutions.append(1))
            with torch.inference_mode():
                embedded.append(embedding(patches))
            handle.remove()
        assert convolutions == [1]
        torch.testing.assert_close(embedded[0], embedded[1], rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize('name', ARCHITECTURES)
    def test_a_repetition_penalty_of_the_checkpoint_counts_on_both_paths(
        self, name: str, folders: dict[str, Path], tmp_path: Path, pairs: Any
    ) -> None:
        folder = penalised(folders[name], tmp_path, 3.0)
        # Learnt by heart, and its numbers repeat.
        frame, query = Frame(pairs[0].image), Query(pairs[0].query)
        answers = [
            raw_answer(load(folder, fast_decoding=on, max_new_tokens=80), frame, query)
            for on in (True, False)
        ]
        unpenalised = raw_answer(load(folders[name], max_new_tokens=80), frame, query)
        assert answers[0] == answers[1] != unpenalised

    def test_settings_that_the_fast_path_does_not_know_go_to_generate(
        self, folders: dict[str, Path], tmp_path: Path, pairs: Any, caplog: Any
    ) -> None:
        folder = tmp_path / 'unusual'
        shutil.copytree(folders['qwen2_vl'], folder)
        settings_file = folder / 'generation_config.json'
        chosen = json.loads(settings_file.read_text()) | {'no_repeat_ngram_size': 40}
        settings_file.write_text(json.dumps(chosen))
        reasoner = load(folder)
        assert 'no_repeat_ngram_size' in caplog.text
        grounding = reasoner.reason(Frame(pairs[0].image), Query(pairs[0].query))
        assert grounding.raw_answer == pairs[0].answer

    def test_the_pipeline_makes_masks_of_the_answer(
        self, fast: dict[str, Any], pairs: Any
    ) -> None:
        pipeline = Pipeline(fast['qwen2_vl'], GrabCutSegmenter())
        answer = pipeline.answer(Frame(pairs[0].image), Query('the red box', id='7'))
        assert answer.status == Status.OK
        assert answer.reasoner.endswith('qwen2_vl')
        (segment,) = answer.segments
        assert segment.mask.sum() > 0.5 * 160 * 180
        nothing = pipeline.answer(Frame(pairs[4].image), Query(pairs[4].query))
        assert nothing.status == Status.NOT_FOUND

    @pytest.mark.parametrize('name', ARCHITECTURES)
    def test_the_step_is_one_graph_that_serves_every_question(
        self, name: str, fast: dict[str, Any], pairs: Any
    ) -> None:
        reasoner = fast[name]
        growing = reasoner._decoder
        static = decoding.Decoder(
            reasoner._model, 1540, 160, static=True, is_number=lambda _: False
        )
        graphs: list[int] = []

        def record(graph: Any, inputs: Any) -> Any:
            graphs.append(1)
            return graph.forward

        static._step = torch.compile(
            static._next_logits, backend=record, fullgraph=True, dynamic=False
        )
        reasoner._decoder = static
        try:
            for pair in (*pairs, *pairs[:2]):
                grounding = reasoner.reason(Frame(pair.image), Query(pair.query))
                assert grounding.raw_answer == pair.answer
        finally:
            reasoner._decoder = growing
        assert graphs == [1]

    def test_a_cache_that_grows_in_strides_holds_what_was_put_in_and_not_cut_off(self) -> None:
        from transformers.cache_utils import DynamicLayer

        from segzero_ros.reasoning.preallocated_cache import PreallocatedLayer

        roomy, plain_layer = PreallocatedLayer(), DynamicLayer()
        random = torch.Generator().manual_seed(0)
        for count, cut in ((900, 0), (300, 250), (1, 0), (1, 0), (700, 40), (1, 0), (1500, 0)):
            keys, values = (torch.rand(1, 2, count, 4, generator=random) for _ in range(2))
            held = [layer.update(keys, values) for layer in (roomy, plain_layer)]
            for mine, theirs in zip(*held, strict=True):
                assert torch.equal(mine, theirs)
            for layer in (roomy, plain_layer):
                layer.crop(-cut)
            assert roomy.get_seq_length() == plain_layer.get_seq_length()


class TestStopping:
    @pytest.mark.parametrize('on', [True, False])
    def test_cancelling_stops_within_a_token_and_the_next_question_is_answered(
        self, on: bool, fast: dict[str, Any], plain: dict[str, Any], pairs: Any
    ) -> None:
        reasoner = (fast if on else plain)['qwen2_5_vl']
        cancel = threading.Event()
        said: list[str] = []

        def listen(text: str) -> None:
            said.append(text)
            cancel.set()

        frame = Frame(pairs[0].image)
        with pytest.raises(Cancelled) as caught:
            reasoner.reason(frame, Query(pairs[0].query), listen, cancel.is_set)
        assert len(said) == 1
        assert caught.value.raw_answer.startswith('<think>')
        assert len(caught.value.raw_answer) < 20
        again = reasoner.reason(frame, Query(pairs[0].query))
        assert again.raw_answer == pairs[0].answer

    @pytest.mark.parametrize('on', [True, False])
    def test_cancelling_while_the_image_is_read_does_not_wait_for_the_end(
        self, on: bool, fast: dict[str, Any], plain: dict[str, Any], pairs: Any
    ) -> None:
        reasoner = (fast if on else plain)['qwen2_5_vl']
        asked: list[int] = []

        def third_time() -> bool:
            asked.append(1)
            return len(asked) >= 3

        layers: list[int] = []
        handle = reasoner._model.model.visual.blocks[2].register_forward_pre_hook(
            lambda module, args: layers.append(1)
        )
        try:
            with pytest.raises(Cancelled) as caught:
                reasoner.reason(Frame(pairs[1].image.copy()), STRANGE, cancelled=third_time)
        finally:
            handle.remove()
        assert layers == []
        assert caught.value.raw_answer == ''
        good = reasoner.reason(Frame(pairs[1].image), Query(pairs[1].query))
        assert good.raw_answer == pairs[1].answer

    @pytest.mark.parametrize('name', ARCHITECTURES)
    def test_the_eyes_ask_between_the_parts_of_an_attention_to_the_whole_image(
        self, name: str, fast: dict[str, Any], pairs: Any
    ) -> None:
        # On a CPU that is the longest thing that reading consists of.
        reasoner = fast[name]
        parts: list[int] = []

        def in_the_second_part() -> bool:
            return len(parts) == 1

        attention = reasoner._model.model.visual.blocks[-1].attn.attend
        handle = attention.register_forward_hook(
            lambda module, given, out: parts.append(1) if given[0].shape[2] >= 768 else None
        )
        try:
            with pytest.raises(Cancelled):
                reasoner.reason(
                    Frame(pairs[1].image.copy()), STRANGE, cancelled=in_the_second_part
                )
        finally:
            handle.remove()
        assert parts == [1]
        good = reasoner.reason(Frame(pairs[1].image), Query(pairs[1].query))
        assert good.raw_answer == pairs[1].answer

    @pytest.mark.parametrize('part', ['eyes', 'words'])
    @pytest.mark.parametrize('on', [True, False])
    def test_memory_that_runs_out_is_named_and_the_next_question_is_answered(
        self, on: bool, part: str, fast: dict[str, Any], plain: dict[str, Any], pairs: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        reasoner = (fast if on else plain)['qwen2_5_vl']
        model = reasoner._model
        module, calls = (model.model.visual, 1) if part == 'eyes' else (model.lm_head, 5)
        computes, left = module.forward, iter(range(calls - 1))

        def compute(*given: Any, **named: Any) -> Any:
            if next(left, None) is None:
                raise torch.OutOfMemoryError('Tried to allocate 2.00 GiB.')
            return computes(*given, **named)

        # A frame that nothing is kept of.
        frame = Frame(pairs[0].image.copy())
        with monkeypatch.context() as patched:
            patched.setattr(module, 'forward', compute)
            with pytest.raises(
                ReasonerUnavailable, match=r'ran out of memory.*quantization:=bnb4'
            ):
                reasoner.reason(frame, Query(pairs[0].query))
        if on:
            assert reasoner._decoder.cached_tokens == 0
        assert reasoner.reason(frame, Query(pairs[0].query)).raw_answer == pairs[0].answer

    @pytest.mark.parametrize('on', [True, False])
    def test_a_time_limit_ends_the_answer_and_carries_what_was_written(
        self, on: bool, folders: dict[str, Path], pairs: Any
    ) -> None:
        reasoner = load(folders['qwen2_vl'], fast_decoding=on, time_limit=30.0)
        frame, query = Frame(pairs[0].image), Query(pairs[0].query)
        assert reasoner.reason(frame, query).objects
        reasoner._options = replace(reasoner._options, time_limit=0.8)
        with pytest.raises(ReasonerTimeout, match=r'0\.8 s') as caught:
            reasoner.reason(frame, query, lambda text: time.sleep(0.3))
        assert caught.value.raw_answer.startswith('<think>')
        assert pairs[0].answer.startswith(caught.value.raw_answer)

    @pytest.mark.parametrize('on', [True, False])
    def test_the_token_limit_cuts_the_answer_and_says_so(
        self, on: bool, folders: dict[str, Path], pairs: Any
    ) -> None:
        reasoner = load(folders['qwen2_vl'], fast_decoding=on, max_new_tokens=6)
        with pytest.raises(MalformedAnswer, match='max_new_tokens=6') as caught:
            reasoner.reason(Frame(pairs[0].image), Query(pairs[0].query))
        assert pairs[0].answer.startswith(caught.value.raw_answer)

    def test_each_thread_has_a_place_for_its_graphs(self) -> None:
        """Older releases of torch give one to the importing thread only, and assert otherwise."""
        from torch._inductor import cudagraph_trees

        places: list[Any] = []

        def look() -> None:
            decoding.use_thread_local_cudagraphs()
            places.append(cudagraph_trees.local.tree_manager_containers)
            cudagraph_trees.local.tree_manager_locks[0].acquire()
            assert torch._C._get_obj_in_tls('tree_manager_containers') is places[-1]
            places[-1]['seen'] = True

        for _ in range(2):
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
        assert places == [{'seen': True}, {'seen': True}]
        assert places[0] is not places[1]

    def test_a_closed_reasoner_says_that_it_is_closed(self, folders: dict[str, Path]) -> None:
        reasoner = load(folders['qwen2_vl'])
        reasoner.close()
        with pytest.raises(ReasonerUnavailable, match='closed'):
            reasoner.reason(noise(64, 48), STRANGE)

    def test_closing_frees_the_weights_at_once(self, folders: dict[str, Path]) -> None:
        reasoner = load(folders['qwen2_5_vl'], max_new_tokens=4)
        with pytest.raises(MalformedAnswer):
            reasoner.reason(noise(64, 48), STRANGE)
        model = reasoner._model
        parts = (model.model.language_model, model.lm_head)
        weights = [weakref.ref(weight) for part in parts for weight in part.parameters()]
        del model, parts
        gc.disable()
        try:
            reasoner.close()
            assert [weight for weight in weights if weight() is not None] == []
        finally:
            gc.enable()


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
class TestOnGpu:
    @pytest.mark.parametrize('name', ARCHITECTURES)
    def test_the_compiled_step_writes_what_is_written_without_it(
        self, name: str, folders: dict[str, Path], pairs: Any
    ) -> None:
        # float32: these models are too small for bfloat16 to tell their tokens apart.
        options = {'device': 'cuda', 'dtype': 'float32', 'max_new_tokens': 160}
        compiled, plain = (
            load(folders[name], fast_decoding=on, **options) for on in (True, False)
        )
        assert compiled._decoder._step != compiled._decoder._next_logits
        assert compiled._decoder._fused_step is not None
        frames = [Frame(pairs[0].image), noise(300, 700), Frame(pairs[3].image)]
        queries = [Query('the red box'), Query('What is blue?'), STRANGE]
        for frame, query in [(0, 0), (0, 1), (1, 0), (0, 1), (2, 0), (1, 2), (2, 0)]:
            expected = raw_answer(plain, frames[frame], queries[query])
            assert raw_answer(compiled, frames[frame], queries[query]) == expected
        for pair in pairs:
            grounding = compiled.reason(Frame(pair.image), Query(pair.query))
            assert grounding.raw_answer == pair.answer
        compiled.close()
        plain.close()

    def test_closing_gives_the_memory_back_each_time(
        self, folders: dict[str, Path], pairs: Any
    ) -> None:
        held = []
        # More often than torch compiles one function anew before it gives up.
        for _ in range(10):
            reasoner = load(folders['qwen2_vl'], device='cuda')
            grounding = reasoner.reason(Frame(pairs[0].image), Query(pairs[0].query))
            assert grounding.raw_answer == pairs[0].answer
            reasoner.close()
            held.append(torch.cuda.memory_allocated())
        assert held[-1] <= held[1] + 1_000_000

    def test_it_answers_in_a_thread_of_its_own_while_an_encoder_works(
        self, folders: dict[str, Path], tiny_sam2: Path, pairs: Any
    ) -> None:
        answers: list[Any] = []

        def work() -> None:
            segmenter = load_segmenter(SegmenterOptions('sam2', str(tiny_sam2), device='cuda'))
            pipeline = Pipeline(load(folders['qwen2_vl'], device='cuda'), segmenter)
            for pair in pairs:
                answers.append(pipeline.answer(Frame(pair.image), Query(pair.query)))
            pipeline.close()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert [answer.raw_answer for answer in answers] == [pair.answer for pair in pairs]
        assert {answer.status for answer in answers} == {Status.OK, Status.NOT_FOUND}


class TestPreprocessing:
    @given(
        st.tuples(st.integers(1, 400), st.integers(1, 400)),
        st.tuples(st.integers(1, 200), st.integers(1, 200)),
        st.sampled_from(['bilinear', 'bicubic']),
        st.integers(0, 2**32 - 1),
    )
    # So small that one probe does not tell in which order Pillow resizes.
    @example((2, 4), (1, 1), 'bilinear', 2)
    @settings(max_examples=60, deadline=None)
    def test_squashing_on_the_device_gives_pillows_pixels(
        self, source: tuple[int, int], size: tuple[int, int], resampling: str, seed: int
    ) -> None:
        image = noise(*source, seed=seed).image
        expected = Image.fromarray(image).resize(size, Image.Resampling[resampling.upper()])
        squashed = resize_like_pillow(torch.from_numpy(image), size, resampling)
        np.testing.assert_array_equal(squashed.numpy(), np.asarray(expected))

    @pytest.mark.parametrize('size', [(640, 480), (1920, 1080), (480, 640), (37, 1200)])
    def test_squashing_camera_images_does_not_need_pillow(self, size: tuple[int, int]) -> None:
        from segzero_ros.reasoning.resize_like_pillow import _axis_order

        assert _axis_order(size, (840, 840), 'bilinear', torch.device('cpu')) is not None
        frame = noise(*size)
        squashed = resize_like_pillow(
            torch.from_numpy(frame.image), (840, 840), 'bilinear'
        ).numpy()
        expected = resize_for_model(dialect_named('vision_reasoner'), frame.image)
        np.testing.assert_array_equal(squashed, expected)

    @pytest.mark.parametrize(
        'text', ['plain', 'Käse, 日本 and 🙂🙃!', '<think>\n  two  blanks</think>']
    )
    def test_text_of_single_tokens_adds_up_to_the_text_of_all(
        self, text: str, fast: dict[str, Any]
    ) -> None:
        tokenizer = fast['qwen2_vl']._processor.tokenizer
        pieces = Detokenizer(tokenizer)
        parts = [pieces.add(token) for token in tokenizer(text)['input_ids']]
        assert '\ufffd' not in ''.join(parts)
        assert ''.join(parts) + pieces.rest() == text


class TestErrors:
    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ReasonerUnavailable, match=r'no folder .*nowhere.*profile:=offline'):
            load(tmp_path / 'nowhere')

    def test_weights_that_are_not_here_are_named_with_the_cure_and_the_other_profiles(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
        with pytest.raises(ReasonerUnavailable) as caught:
            load_reasoner(ReasonerOptions('transformers', offline=True, device='cpu'))
        for word in ('VisionReasoner-7B', 'hf download', 'profile:=remote', 'offline is set'):
            assert word in str(caught.value)

    def test_a_model_fetched_before_is_found_by_its_name_on_the_hub_without_the_hub(
        self, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs: Any
    ) -> None:
        monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
        repository = tmp_path / 'models--somebody--tiny'
        snapshot = repository / 'snapshots' / ('0' * 40)
        shutil.copytree(folders['qwen2_vl'], snapshot)
        (repository / 'refs').mkdir()
        (repository / 'refs' / 'main').write_text('0' * 40)
        reasoner = load_reasoner(ReasonerOptions('transformers', 'somebody/tiny', offline=True))
        assert reasoner.name == 'somebody/tiny'
        grounding = reasoner.reason(Frame(pairs[0].image), Query(pairs[0].query))
        assert grounding.raw_answer == pairs[0].answer
        # A download that was interrupted is no model.
        (snapshot / 'model.safetensors').unlink()
        with pytest.raises(ReasonerUnavailable, match='weights of somebody/tiny are not on this'):
            load_reasoner(
                ReasonerOptions(
                    'transformers', 'somebody/tiny', 'vision_reasoner', device='cpu', offline=True
                )
            )

    @pytest.mark.skipif(torch.cuda.is_available(), reason='this machine has a GPU')
    def test_the_robots_default_without_gpu_and_weights_fails_at_once_and_names_both(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
        started = time.monotonic()
        with pytest.raises(ReasonerUnavailable) as caught:
            load_reasoner(ReasonerOptions('transformers'))
        assert time.monotonic() - started < 5
        for word in ('no GPU', 'weights of', 'profile:=remote', 'profile:=offline', 'device:=cpu'):
            assert word in str(caught.value)

    @pytest.mark.skipif(torch.cuda.is_available(), reason='this machine has a GPU')
    def test_a_large_model_goes_to_the_cpu_only_for_those_who_insist(
        self, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from segzero_ros.reasoning import devices

        monkeypatch.setattr(devices, 'MAX_CPU_PARAMETERS', 1000)
        with pytest.raises(ReasonerUnavailable, match=r'no GPU.*device:=cpu.*profile:=remote'):
            load(folders['qwen2_vl'])
        assert load(folders['qwen2_vl'], device='cpu').name.endswith('qwen2_vl')

    @pytest.mark.skipif(torch.cuda.is_available(), reason='this machine has a GPU')
    def test_a_gpu_that_is_not_there_is_not_replaced_by_the_cpu(
        self, folders: dict[str, Path]
    ) -> None:
        with pytest.raises(ReasonerUnavailable, match='no cuda:1'):
            load(folders['qwen2_vl'], device='cuda:1')

    def test_a_checkpoint_cut_short_is_named(
        self, folders: dict[str, Path], tmp_path: Path
    ) -> None:
        folder = tmp_path / 'short'
        shutil.copytree(folders['qwen2_vl'], folder)
        os.truncate(folder / 'model.safetensors', 100_000)
        with pytest.raises(ReasonerUnavailable, match=r'model.safetensors is damaged.*100000'):
            load(folder)
        (folder / 'model.safetensors').unlink()
        with pytest.raises(ReasonerUnavailable, match=r'incomplete: model.safetensors'):
            load(folder)

    def test_a_missing_shard_is_named(self, folders: dict[str, Path], tmp_path: Path) -> None:
        folder = tmp_path / 'sharded'
        shutil.copytree(folders['qwen2_vl'], folder)
        (folder / 'model.safetensors').rename(folder / 'model-00001-of-00002.safetensors')
        index = {'weight_map': {'a': 'model-00001-of-00002.safetensors', 'b': 'model-00002.st'}}
        (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
        with pytest.raises(ReasonerUnavailable, match=r'model-00002.st missing'):
            load(folder)

    def test_an_architecture_that_does_not_speak_the_dialect_is_refused(
        self, folders: dict[str, Path]
    ) -> None:
        with pytest.raises(ReasonerUnavailable, match=r"'qwen2_vl'.*dialect qwen2_5_vl"):
            load(folders['qwen2_vl'], dialect='qwen2_5_vl')

    @pytest.mark.parametrize('quantization', ['bnb4', 'int8'])
    def test_a_quantisation_without_its_package_names_it(
        self, quantization: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from segzero_ros.reasoning import devices

        monkeypatch.setattr(devices, 'find_spec', lambda name: None)
        with pytest.raises(
            ReasonerUnavailable, match=rf'{quantization} needs.*install_models quantization'
        ):
            load(folders['qwen2_vl'], quantization=quantization)

    def test_a_misspelt_option_is_named_with_its_values(self, folders: dict[str, Path]) -> None:
        options = {'dtype': 'float8', 'device': 'gpu', 'quantization': 'int3'}
        options |= {'dialect': 'klingon', 'answer_parser': 'eval'}
        for name, value in options.items():
            with pytest.raises(ReasonerUnavailable, match=value):
                load(folders['qwen2_vl'], **{name: value})

    def test_a_missing_extra_is_named(self) -> None:
        code = (
            'import sys; sys.modules["torch"] = None\n'
            'from segzero_ros.loading import load_reasoner, ReasonerOptions\n'
            'try: load_reasoner(ReasonerOptions("transformers"))\n'
            'except Exception as error: print(type(error).__name__, error)'
        )
        root = Path(__file__).parents[2]
        out = subprocess.run(
            [sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=root
        ).stdout
        assert out.startswith('ReasonerUnavailable')
        assert 'scripts/install_models models' in out


def published_7b() -> checkpoints.Checkpoint:
    """The published 7B's sizes, tensor by tensor, without its weights."""
    text = {
        'num_attention_heads': 28,
        'num_key_value_heads': 4,
        'hidden_size': 3584,
        'intermediate_size': 18944,
        'num_hidden_layers': 28,
    }
    vision = {'hidden_size': 1280, 'intermediate_size': 3420}
    layer = 3584 * (3584 + 2 * 512) + 3584 * 3584 + 3 * 3584 * 18944
    names = [(f'model.layers.{n}.weight', layer) for n in range(28)]
    names += [('visual.blocks.weight', 676_550_144), ('embed', 544_997_376), ('head', 544_997_376)]
    tensors = tuple(checkpoints.Tensor(name, count, 2 * count) for name, count in names)
    return checkpoints.Checkpoint(Path('7b'), text | {'vision_config': vision}, tensors)


class TestMemory:
    def test_the_published_7b_needs_what_is_known_of_it(self) -> None:
        needs = memory.needs_of(published_7b(), 2, 2048, 900)
        assert needs.weights / memory.GIB == pytest.approx(15.45, abs=0.05)
        assert needs.cache == 2048 * 57_344
        assert 0.8 < needs.activations / memory.GIB < 3

    def test_quantisation_to_four_bits_brings_it_below_seven_gib(self) -> None:
        needs = memory.needs_of(published_7b(), 2, 2048, 900, 'bnb4')
        assert needs.weights / memory.GIB == pytest.approx(6.7, abs=0.3)

    def test_a_gpu_that_is_too_small_is_refused_with_figures_and_options(self) -> None:
        checkpoint = published_7b()
        needs = memory.needs_of(checkpoint, 2, 2048, 900)
        with pytest.raises(ReasonerUnavailable) as caught:
            memory.refuse_if_too_small(
                'VisionReasoner-7B', checkpoint, needs, 8 * memory.GIB, 'cuda:0 (Orin)', ''
            )
        for word in ('15.4 weights', '8.0 GiB free', 'bnb4', 'profile:=remote', 'cuda:0 (Orin)'):
            assert word in str(caught.value)
        memory.refuse_if_too_small('it', checkpoint, needs, 24 * memory.GIB, 'cuda:0', '')

    def test_a_small_checkpoint_is_counted_from_its_own_files(
        self, folders: dict[str, Path]
    ) -> None:
        checkpoint = checkpoints.open_checkpoint(
            folders['qwen2_5_vl'], dialect_named('vision_reasoner')
        )
        import transformers

        model = transformers.AutoModelForImageTextToText.from_pretrained(folders['qwen2_5_vl'])
        assert checkpoint.parameters == sum(weight.numel() for weight in model.parameters())
        assert checkpoint.parameters < 5_000_000
