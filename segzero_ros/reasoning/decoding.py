"""Greedy decoding with what was read before kept: the fast way to the tokens `generate` gives.

One loop over the model's own parts: image features are kept per image, keys and values up to the
first token that differs from the last prompt, positions are worked out here (the model's own
memory of them goes stale when images alternate), on a GPU each step is one compiled graph that is
under way before the token it reads has come to the host, on a CPU tokens that are likely to follow
are read in the same step, and it goes past the modules wherever that is known to give the same.
Used from one thread: CUDA graphs live in the thread that recorded them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
import threading
from typing import Any

import torch
from transformers import RepetitionPenaltyLogitsProcessor, StaticCache

from segzero_ros import onednn
from segzero_ros.cancellation import cancellable
from segzero_ros.reasoning.fused_decode import fused_decode_step
from segzero_ros.reasoning.gqa_decode_attention import KV_BLOCK
from segzero_ros.reasoning.preallocated_cache import preallocated_cache
from segzero_ros.reasoning.prompt_lookup import NgramSpeculator

# Settings of a generation_config that change greedy tokens and that this loop does not know.
_UNKNOWN_HERE = {
    'num_beams': 1,
    'no_repeat_ngram_size': 0,
    'encoder_no_repeat_ngram_size': 0,
    'encoder_repetition_penalty': 1.0,
    'bad_words_ids': None,
    'min_length': 0,
    'min_new_tokens': None,
    'forced_bos_token_id': None,
    'forced_eos_token_id': None,
    'suppress_tokens': None,
    'begin_suppress_tokens': None,
    'sequence_bias': None,
    'exponential_decay_length_penalty': None,
    'guidance_scale': None,
    'prompt_lookup_num_tokens': None,
}


@dataclass
class Prompt:
    """What the model is asked.

    Attributes:
        ids: tokens, the image's placeholders included.
        image: (image tokens, width) features, on the model's device.
        grid: (1, 3) patches of the image: 1, rows, columns.
    """

    ids: list[int]
    image: torch.Tensor
    grid: torch.Tensor


class Decoder:
    """Decodes greedily with one model and one cache."""

    def __init__(
        self,
        model: Any,
        longest_prompt: int,
        longest_answer: int,
        *,
        static: bool,
        is_number: Callable[[int], bool],
    ) -> None:
        """Prepare decoding.

        Args:
            model: a loaded Qwen2-VL or Qwen2.5-VL.
            longest_prompt: tokens that a static cache has room for; longer prompts are read into
                one that grows.
            longest_answer: most tokens that are asked for.
            static: keep keys and values in a cache of fixed size and, on a GPU, compile the step.
            is_number: whether a token is a number or belongs to one.
        """
        self._model = model
        self._longest_prompt = longest_prompt
        text_config = model.config.get_text_config()
        room = -(-(longest_prompt + longest_answer) // KV_BLOCK) * KV_BLOCK
        self._static = StaticCache(text_config, room) if static else None
        self._cached_ids: list[int] = []
        self._image: torch.Tensor | None = None
        self._cache: Any = None
        self._step = self._next_logits
        if self._is_compiled(model, static):
            self._step = compiled(self._next_logits)
        self._fused_step = fused_decode_step(model)
        # While a token is on its way to the host and the caller thinks about it, a GPU goes on; a
        # step in vain behind the last token is the price.
        self._overlap_host_copy = model.device.type == 'cuda'
        # A GPU's step is recorded for one token; without the fast way a longer one costs more.
        cheap = model.device.type == 'cpu' and onednn.several_rows_are_cheap(model.dtype)
        self._speculator = (
            NgramSpeculator(is_number) if cheap and self._fused_step is not None else None
        )
        penalty = model.generation_config.repetition_penalty or 1.0
        self._penalty = RepetitionPenaltyLogitsProcessor(penalty) if penalty != 1.0 else None

    @staticmethod
    def _is_compiled(model: Any, static: bool) -> bool:
        return static and bool(model.device.type == 'cuda')

    @property
    def cached_tokens(self) -> int:
        """How many tokens of the last prompt and answer are kept."""
        return len(self._cached_ids)

    def forget(self) -> None:
        """Drop everything that is kept of the last prompt."""
        self._cached_ids = []
        self._image = None
        self._cache = None

    def close(self) -> None:
        """Let go of the model; the decoder is not used again.

        The step is bound to this object, so both would keep each other, and gigabytes of weights,
        until Python looks for such rings.
        """
        self.forget()
        compiled = self._step != self._next_logits
        del self._step
        self._model = self._static = self._fused_step = None
        if compiled:
            # Recorded graphs keep their memory, and each further model would count against the
            # number of times that torch compiles a function anew before it gives up.
            torch.compiler.reset()

    def try_out(
        self, prompt: Prompt, written: list[int]
    ) -> Iterator[tuple[str, int, torch.Tensor]]:
        """Read an answer in every way that answers are written in.

        Args:
            prompt: what the model is asked.
            written: the answer's tokens, three or more.

        Yields:
            What was tried, from which token of the answer on, and the logits before it and those
            after it, (tokens, vocabulary) float32.
        """
        positions, offset = self._positions(prompt)
        place = len(prompt.ids) + offset
        steps = 'the compiled step' if self._step != self._next_logits else 'the decode step'
        for what in ('reading the prompt', 'reading only what is new of a prompt'):
            hidden = self._read(prompt, positions)
            yield what, 0, self._model.lm_head(hidden).float()
            for number, token in enumerate(written[:-1]):
                choice = torch.tensor([[token]], device=hidden.device)
                logits = self._advance(choice, _PendingToken(choice), place + number)
                # A recorded graph's results lie where those of its next run will.
                yield steps, number + 1, logits.clone()
        if self._speculator is not None and self._cache is not self._static:
            again = written[1:-1]
            self._drop(len(again))
            yield 'prompt lookup', 2, self._advance_by(again, place + 1)
        self.forget()

    def generate(self, prompt: Prompt, check: Callable[[], None]) -> Iterator[int]:
        """Yield one token after the other, without end.

        Args:
            prompt: what the model is asked.
            check: called between the modules while the prompt is read; what it raises ends that.
        """
        positions, offset = self._positions(prompt)
        with cancellable(self._model.modules(), check):
            hidden = self._read(prompt, positions)
        logits = self._model.lm_head(hidden).float()
        place = len(prompt.ids) + offset
        if self._speculator is not None and self._cache is not self._static:
            yield from self._write_speculating(self._speculator, prompt, logits, place)
        else:
            yield from self._write_one_by_one(prompt, logits, place)

    def _write_one_by_one(self, prompt: Prompt, logits: torch.Tensor, place: int) -> Iterator[int]:
        """Yield tokens, from the logits after the prompt, (1, vocabulary), and the next place."""
        seen = torch.tensor([prompt.ids], device=logits.device) if self._penalty else None
        while True:
            if self._penalty is not None and seen is not None:
                logits = self._penalty(seen, logits)
            choice = logits.argmax(-1, keepdim=True)
            if seen is not None:
                seen = torch.cat([seen, choice], dim=1)
            coming = _PendingToken(choice)
            if not self._overlap_host_copy:
                yield coming.token()
            logits = self._advance(choice, coming, place)
            if self._overlap_host_copy:
                yield coming.token()
            place += 1

    def _write_speculating(
        self, drafter: NgramSpeculator, prompt: Prompt, logits: torch.Tensor, place: int
    ) -> Iterator[int]:
        """Yield the same tokens, several from a step where the drafter guessed them."""
        image_token = self._model.config.image_token_id
        question = prompt.ids[::-1]
        if image_token in question:
            question = question[: question.index(image_token)]
        drafter.begin(question[::-1])
        written = list(prompt.ids)
        draft: list[int] = []
        while True:
            # All but the last of these have been read.
            said = self._accepted(logits, draft, written)
            self._drop(len(draft) + 1 - len(said))
            drafter.add(said)
            written += said
            place += len(said) - 1
            yield from said
            draft = drafter.draft()
            logits = self._advance_by([said[-1], *draft], place)
            place += 1

    def _accepted(self, logits: torch.Tensor, draft: list[int], written: list[int]) -> list[int]:
        """Return what the model writes: the draft as far as it agrees, and a token of its own.

        Args:
            logits: (draft + 1, vocabulary) float32, before each token of the draft and after it.
            draft: what was guessed.
            written: all tokens before it, the prompt's too.
        """
        said: list[int] = []
        for row, guessed in zip_longest(torch.split(logits, 1), draft):
            if self._penalty is not None:
                row = self._penalty(torch.tensor([written + said]), row)
            said.append(int(row.argmax(-1)))
            if said[-1] != guessed:
                break
        return said

    def _drop(self, count: int) -> None:
        """Drop the last so many tokens from what is kept."""
        if count:
            self._cache.crop(-count)
            del self._cached_ids[-count:]

    def _positions(self, prompt: Prompt) -> tuple[torch.Tensor, int]:
        """Return (3, 1, tokens) positions and what to add to a later token's number."""
        ids = torch.tensor([prompt.ids])
        kinds = (ids == self._model.config.image_token_id).int()
        positions, offset = self._model.model.get_rope_index(
            ids, mm_token_type_ids=kinds, image_grid_thw=prompt.grid.cpu()
        )
        return positions, int(offset)

    def _read(self, prompt: Prompt, positions: torch.Tensor) -> torch.Tensor:
        """Read the prompt from the first token that is not kept; return the last hidden state."""
        start = self._reuse(prompt)
        # Should reading be interrupted, the cache is of no further use.
        cache, self._cache, self._cached_ids = self._cache, None, []
        device = self._model.get_input_embeddings().weight.device
        ids = torch.tensor([prompt.ids[start:]], device=device)
        embeds = self._model.get_input_embeddings()(ids)
        if not start:
            places = (ids == self._model.config.image_token_id).unsqueeze(-1)
            embeds = embeds.masked_scatter(places, prompt.image.to(embeds.device, embeds.dtype))
        output = self._model.model.language_model(
            inputs_embeds=embeds,
            position_ids=positions[:, :, start:].to(device),
            past_key_values=cache,
            use_cache=True,
        )
        self._cache, self._cached_ids, self._image = cache, list(prompt.ids), prompt.image
        last: torch.Tensor = output.last_hidden_state[:, -1]
        return last

    def _reuse(self, prompt: Prompt) -> int:
        """Cut the cache back to what the prompt shares with the last; return how much that is."""
        ids = prompt.ids
        shared = 0
        if self._image is prompt.image and self._cache is not None:
            pairs = zip(self._cached_ids, ids[:-1], strict=False)
            differing = (
                at for at, (cached_tokens, asked) in enumerate(pairs) if cached_tokens != asked
            )
            shared = next(differing, min(len(self._cached_ids), len(ids) - 1))
        image_token = self._model.config.image_token_id
        if image_token in ids[shared:]:
            shared = 0
        return self._rewind(shared, len(ids))

    def _rewind(self, shared: int, wanted: int) -> int:
        """Have a cache that holds the first `shared` tokens; return how many it does hold."""
        fits = self._static is not None and wanted <= self._longest_prompt
        if fits != (self._cache is self._static):
            shared = 0
        if self._static is not None and fits:
            # There is no public way back in a static cache; what lies behind is overwritten.
            layers: Any = self._static.layers
            for layer in layers:
                layer.cumulative_length.fill_(shared)
            self._cache = self._static
        elif not shared:
            self._cache = preallocated_cache(
                self._model.config.get_text_config().num_hidden_layers
            )
        elif len(self._cached_ids) > shared:
            self._cache.crop(shared - len(self._cached_ids))
        return shared

    def _advance(self, choice: torch.Tensor, coming: _PendingToken, place: int) -> torch.Tensor:
        """Read one more token, (1, 1); return the logits after it, (1, vocabulary) float32."""
        device = self._model.get_input_embeddings().weight.device
        step = self._step if self._cache is self._static else self._next_logits
        if self._cache is self._static:
            compiler: Any = torch.compiler
            compiler.cudagraph_mark_step_begin()
        positions = torch.full((3, 1, 1), place, device=device)
        # Should the step fail, nobody knows what the cache holds.
        cached_tokens, self._cached_ids = self._cached_ids, []
        logits = step(choice.to(device), positions)
        cached_tokens.append(coming.token())
        self._cached_ids = cached_tokens
        return logits

    def _advance_by(self, tokens: list[int], place: int) -> torch.Tensor:
        """Read several more tokens; return the logits after each, (tokens, vocabulary) float32."""
        assert self._fused_step is not None
        positions = torch.arange(place, place + len(tokens)).expand(3, 1, -1)
        # Should the step fail, nobody knows what the cache holds.
        cached_tokens, self._cached_ids = self._cached_ids, []
        logits = self._fused_step(torch.tensor([tokens]), positions, self._cache)
        cached_tokens += tokens
        self._cached_ids = cached_tokens
        return logits

    def _next_logits(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        if self._fused_step is not None:
            return self._fused_step(ids, positions, self._cache)
        output = self._model.model.language_model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=self._mask_for_one(),
            past_key_values=self._cache,
            use_cache=True,
        )
        logits: torch.Tensor = self._model.lm_head(output.last_hidden_state[:, -1]).float()
        return logits

    def _mask_for_one(self) -> dict[str, None] | None:
        """Return what to pass as mask for one new token.

        It may look at everything that a growing cache holds, so no mask need be worked out; a
        static cache also holds what is not there yet.
        """
        return None if self._cache is self._static else {'full_attention': None}


class _PendingToken:
    """A token on its way to the host."""

    def __init__(self, choice: torch.Tensor) -> None:
        self._choice = choice.to('cpu', non_blocking=choice.is_cuda)
        self._arrived = (
            torch.cuda.current_stream(choice.device).record_event() if choice.is_cuda else None
        )

    def token(self) -> int:
        """Return the token once it has arrived, whatever else the GPU has to do."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return int(self._choice)


def unknown_settings(model: Any) -> list[str]:
    """Return what a checkpoint asks for and `Decoder` does not follow, by its names."""
    generation_config = model.generation_config
    sliding = 'sliding_attention' in (model.config.get_text_config().layer_types or ())
    return ['sliding_attention'] * sliding + [
        name
        for name, neutral in _UNKNOWN_HERE.items()
        if getattr(generation_config, name, None) not in (None, neutral)
    ]


def compiled(step: Any) -> Any:
    """Return a step that is compiled, and recorded as a CUDA graph, when it is called."""
    keep_graphs_in_this_thread()
    return torch.compile(step, mode='reduce-overhead', dynamic=False)


def keep_graphs_in_this_thread() -> None:
    """Give this thread its own place for CUDA graphs.

    In torch 2.11, say, only the thread that imported this part of torch has one, and compiling in
    another ends in an assertion (pytorch issue 123177): after a worker that hangs was left behind,
    or for a second node in the process.
    """
    from torch._inductor import cudagraph_trees

    place: Any = cudagraph_trees.local
    if hasattr(place, 'tree_manager_containers'):
        return
    place.tree_manager_containers = {}
    place.tree_manager_locks = defaultdict(threading.Lock)
    # Where threads of autograd, and torch.compiler.reset(), look.
    for name in ('tree_manager_containers', 'tree_manager_locks'):
        torch._C._stash_obj_in_tls(name, getattr(place, name))
