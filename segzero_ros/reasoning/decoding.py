"""Fast greedy decoding that gives the same tokens as `generate`.

One loop over the model's own modules. Image features are cached per image, and keys and values up
to the first token that differs from the last prompt. Positions are computed here, because the
model's cached `rope_deltas` are stale when images alternate. On a GPU each step is one compiled
graph, launched before its input token has reached the host; on a CPU a step also checks drafted
tokens (prompt lookup). The fused decode step replaces the modules where it was found to match.
Used from one thread: CUDA graphs belong to the thread that recorded them.
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

# Settings of a generation_config that change greedy tokens and are not implemented here, with
# their neutral values.
_UNSUPPORTED_SETTINGS = {
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
    """The tokens of a prompt and the features of its image.

    Attributes:
        ids: tokens, including the image's placeholders.
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
        max_prompt_tokens: int,
        max_new_tokens: int,
        *,
        static: bool,
        is_number: Callable[[int], bool],
    ) -> None:
        """Prepare decoding.

        Args:
            model: a loaded Qwen2-VL or Qwen2.5-VL.
            max_prompt_tokens: for which the static cache has room; longer prompts use a dynamic
                cache.
            max_new_tokens: most tokens of an answer.
            static: use a static cache and, on a GPU, compile the step.
            is_number: whether a token is a number or part of one.
        """
        self._model = model
        self._max_prompt_tokens = max_prompt_tokens
        text_config = model.config.get_text_config()
        length = -(-(max_prompt_tokens + max_new_tokens) // KV_BLOCK) * KV_BLOCK
        self._static = StaticCache(text_config, length) if static else None
        self._cached_ids: list[int] = []
        self._image: torch.Tensor | None = None
        self._cache: Any = None
        self._step = self._next_logits
        if self._is_compiled(model, static):
            self._step = compiled(self._next_logits)
        self._fused_step = fused_decode_step(model)
        # A GPU runs the next step while the token is copied to the host and processed there; the
        # price is one unused step after the last token.
        self._overlap_host_copy = model.device.type == 'cuda'
        # On a GPU the step is recorded for one token; without the fused step several tokens cost
        # more than one.
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
        """How many tokens of the last prompt and answer are cached."""
        return len(self._cached_ids)

    def reset(self) -> None:
        """Drop all that is cached of the last prompt."""
        self._cached_ids = []
        self._image = None
        self._cache = None

    def close(self) -> None:
        """Release the model; the decoder is not used again.

        The step is a bound method of this object: a reference cycle that would hold gigabytes of
        weights until the next garbage collection.
        """
        self.reset()
        compiled = self._step != self._next_logits
        del self._step
        self._model = self._static = self._fused_step = None
        if compiled:
            # Recorded graphs hold their memory, and each further model would count towards torch's
            # recompile limit.
            torch.compiler.reset()

    def logits_by_path(
        self, prompt: Prompt, generated: list[int]
    ) -> Iterator[tuple[str, int, torch.Tensor]]:
        """Compute an answer's logits by each decoding path, to compare them with the model's.

        Args:
            prompt: the prompt.
            generated: the answer's tokens, three or more.

        Yields:
            The path's name, the index of the first answer token whose logits follow, and the
            logits, (tokens, vocabulary) float32.
        """
        positions, offset = self._positions(prompt)
        position = len(prompt.ids) + offset
        steps = 'the compiled step' if self._step != self._next_logits else 'the decode step'
        for path in ('reading the prompt', 'reading only what is new of a prompt'):
            hidden = self._prefill(prompt, positions)
            yield path, 0, self._model.lm_head(hidden).float()
            for index, token in enumerate(generated[:-1]):
                choice = torch.tensor([[token]], device=hidden.device)
                logits = self._decode_one(choice, _PendingToken(choice), position + index)
                # The graph's next run overwrites its output buffer.
                yield steps, index + 1, logits.clone()
        if self._speculator is not None and self._cache is not self._static:
            draft = generated[1:-1]
            self._crop_cache(len(draft))
            yield 'prompt lookup', 2, self._decode_several(draft, position + 1)
        self.reset()

    def generate(self, prompt: Prompt, check: Callable[[], None]) -> Iterator[int]:
        """Yield the tokens one by one, without end.

        Args:
            prompt: the prompt.
            check: called between the modules during prefill; raises to cancel it.
        """
        positions, offset = self._positions(prompt)
        with cancellable(self._model.modules(), check):
            hidden = self._prefill(prompt, positions)
        logits = self._model.lm_head(hidden).float()
        position = len(prompt.ids) + offset
        if self._speculator is not None and self._cache is not self._static:
            yield from self._decode_speculatively(self._speculator, prompt, logits, position)
        else:
            yield from self._decode_greedily(prompt, logits, position)

    def _decode_greedily(
        self, prompt: Prompt, logits: torch.Tensor, position: int
    ) -> Iterator[int]:
        """Yield tokens, given the prompt's last logits, (1, vocabulary), and the next position."""
        seen = torch.tensor([prompt.ids], device=logits.device) if self._penalty else None
        while True:
            if self._penalty is not None and seen is not None:
                logits = self._penalty(seen, logits)
            choice = logits.argmax(-1, keepdim=True)
            if seen is not None:
                seen = torch.cat([seen, choice], dim=1)
            pending = _PendingToken(choice)
            if not self._overlap_host_copy:
                yield pending.token()
            logits = self._decode_one(choice, pending, position)
            if self._overlap_host_copy:
                yield pending.token()
            position += 1

    def _decode_speculatively(
        self, speculator: NgramSpeculator, prompt: Prompt, logits: torch.Tensor, position: int
    ) -> Iterator[int]:
        """Yield the same tokens, several per step where the draft was right."""
        image_token = self._model.config.image_token_id
        question = prompt.ids[::-1]
        if image_token in question:
            question = question[: question.index(image_token)]
        speculator.begin(question[::-1])
        generated = list(prompt.ids)
        draft: list[int] = []
        while True:
            # Keys and values of all but the last are cached.
            accepted = self._accepted(logits, draft, generated)
            self._crop_cache(len(draft) + 1 - len(accepted))
            speculator.add(accepted)
            generated += accepted
            position += len(accepted) - 1
            yield from accepted
            draft = speculator.draft()
            logits = self._decode_several([accepted[-1], *draft], position)
            position += 1

    def _accepted(self, logits: torch.Tensor, draft: list[int], generated: list[int]) -> list[int]:
        """Return the draft up to the first mismatch, and the model's own token after it.

        Args:
            logits: (draft + 1, vocabulary) float32, before each token of the draft and after it.
            draft: the drafted tokens.
            generated: all tokens before it, including the prompt.
        """
        accepted: list[int] = []
        for row, guessed in zip_longest(torch.split(logits, 1), draft):
            if self._penalty is not None:
                row = self._penalty(torch.tensor([generated + accepted]), row)
            accepted.append(int(row.argmax(-1)))
            if accepted[-1] != guessed:
                break
        return accepted

    def _crop_cache(self, count: int) -> None:
        """Remove the last so many tokens from the cache."""
        if count:
            self._cache.crop(-count)
            del self._cached_ids[-count:]

    def _positions(self, prompt: Prompt) -> tuple[torch.Tensor, int]:
        """Return (3, 1, tokens) positions and the offset of later tokens' positions."""
        ids = torch.tensor([prompt.ids])
        kinds = (ids == self._model.config.image_token_id).int()
        positions, offset = self._model.model.get_rope_index(
            ids, mm_token_type_ids=kinds, image_grid_thw=prompt.grid.cpu()
        )
        return positions, int(offset)

    def _prefill(self, prompt: Prompt, positions: torch.Tensor) -> torch.Tensor:
        """Run the prompt from its first uncached token; return the last hidden state."""
        start = self._reuse_cache(prompt)
        # If prefill is cancelled, the cache is in an unknown state.
        cache, self._cache, self._cached_ids = self._cache, None, []
        device = self._model.get_input_embeddings().weight.device
        ids = torch.tensor([prompt.ids[start:]], device=device)
        embeds = self._model.get_input_embeddings()(ids)
        if not start:
            image_positions = (ids == self._model.config.image_token_id).unsqueeze(-1)
            embeds = embeds.masked_scatter(
                image_positions, prompt.image.to(embeds.device, embeds.dtype)
            )
        output = self._model.model.language_model(
            inputs_embeds=embeds,
            position_ids=positions[:, :, start:].to(device),
            past_key_values=cache,
            use_cache=True,
        )
        self._cache, self._cached_ids, self._image = cache, list(prompt.ids), prompt.image
        last: torch.Tensor = output.last_hidden_state[:, -1]
        return last

    def _reuse_cache(self, prompt: Prompt) -> int:
        """Crop the cache to the prefix shared with the last prompt; return its length."""
        ids = prompt.ids
        shared = 0
        if self._image is prompt.image and self._cache is not None:
            pairs = zip(self._cached_ids, ids[:-1], strict=False)
            differing = (index for index, (cached, wanted) in enumerate(pairs) if cached != wanted)
            shared = next(differing, min(len(self._cached_ids), len(ids) - 1))
        image_token = self._model.config.image_token_id
        if image_token in ids[shared:]:
            shared = 0
        return self._rewind_cache(shared, len(ids))

    def _rewind_cache(self, shared: int, prompt_tokens: int) -> int:
        """Set up a cache with the first `shared` tokens; return how many it holds."""
        fits = self._static is not None and prompt_tokens <= self._max_prompt_tokens
        if fits != (self._cache is self._static):
            shared = 0
        if self._static is not None and fits:
            # A static cache has no public crop; slots after this length are overwritten.
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

    def _decode_one(
        self, choice: torch.Tensor, pending: _PendingToken, position: int
    ) -> torch.Tensor:
        """Run one token, (1, 1); return the logits after it, (1, vocabulary) float32."""
        device = self._model.get_input_embeddings().weight.device
        step = self._step if self._cache is self._static else self._next_logits
        if self._cache is self._static:
            compiler: Any = torch.compiler
            compiler.cudagraph_mark_step_begin()
        positions = torch.full((3, 1, 1), position, device=device)
        # If the step fails, the cache is in an unknown state.
        cached_tokens, self._cached_ids = self._cached_ids, []
        logits = step(choice.to(device), positions)
        cached_tokens.append(pending.token())
        self._cached_ids = cached_tokens
        return logits

    def _decode_several(self, tokens: list[int], position: int) -> torch.Tensor:
        """Run several tokens; return the logits after each, (tokens, vocabulary) float32."""
        assert self._fused_step is not None
        positions = torch.arange(position, position + len(tokens)).expand(3, 1, -1)
        # If the step fails, the cache is in an unknown state.
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
            attention_mask=self._decode_mask(),
            past_key_values=self._cache,
            use_cache=True,
        )
        logits: torch.Tensor = self._model.lm_head(output.last_hidden_state[:, -1]).float()
        return logits

    def _decode_mask(self) -> dict[str, None] | None:
        """Return the attention mask to pass for one new token.

        It attends to all of a dynamic cache, so no mask is needed; a static cache has unused
        slots, for which transformers makes one.
        """
        return None if self._cache is self._static else {'full_attention': None}


class _PendingToken:
    """A token that is being copied to the host."""

    def __init__(self, choice: torch.Tensor) -> None:
        self._choice = choice.to('cpu', non_blocking=choice.is_cuda)
        self._arrived = (
            torch.cuda.current_stream(choice.device).record_event() if choice.is_cuda else None
        )

    def token(self) -> int:
        """Wait for the copy, not for later GPU work, and return the token."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return int(self._choice)


def unsupported_settings(model: Any) -> list[str]:
    """Return the names of a checkpoint's settings that `Decoder` does not implement."""
    generation_config = model.generation_config
    sliding = 'sliding_attention' in (model.config.get_text_config().layer_types or ())
    return ['sliding_attention'] * sliding + [
        name
        for name, neutral in _UNSUPPORTED_SETTINGS.items()
        if getattr(generation_config, name, None) not in (None, neutral)
    ]


def compiled(step: Any) -> Any:
    """Return a step that is compiled and recorded as a CUDA graph at its first calls."""
    use_thread_local_cudagraphs()
    return torch.compile(step, mode='reduce-overhead', dynamic=False)


def use_thread_local_cudagraphs() -> None:
    """Set up torch's thread-local CUDA graph containers in this thread.

    In torch 2.11, for one, only the thread that imported the module has them, and compiling in
    another fails an assertion (pytorch issue 123177): in the worker that replaces an abandoned
    one, or for a second node in the process.
    """
    from torch._inductor import cudagraph_trees

    local: Any = cudagraph_trees.local
    if hasattr(local, 'tree_manager_containers'):
        return
    local.tree_manager_containers = {}
    local.tree_manager_locks = defaultdict(threading.Lock)
    # Autograd's threads and torch.compiler.reset() read them from here.
    for name in ('tree_manager_containers', 'tree_manager_locks'):
        torch._C._stash_obj_in_tls(name, getattr(local, name))
