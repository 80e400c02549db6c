"""Detect a server that resizes images again, or whose model is of another family.

Checkpoints answer in pixels of the resized image. A server that resizes it again shifts every box,
and the answer does not show it. The prompt tokens do: Qwen's vision towers make one token of 28 by
28 pixels, so the counts of the same text with two images must differ by the difference of these.
They also tell Qwen3-VL and its kin, which see 32 by 32 pixels as one token and answer in
thousandths: read in a dialect of the others, their boxes would look plausible and be off.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import combinations
import logging
import secrets

import numpy as np

from segzero_ros.reasoning.dialects import Dialect, DIALECTS, GRID
from segzero_ros.types import ReasonerUnavailable, RgbImage

Size = tuple[int, int]
# Return the prompt tokens of a text with an image; None where the server reports none.
Count = Callable[[RgbImage, str], Awaitable[int | None]]
Tokens = Callable[[Size], int]

# Sides of square images to compare with: servers that enlarge small images or shrink large ones
# leave some of these unchanged. Images of a similar token count are skipped, because both may be
# shrunk and still differ by the expected number.
_PROBED = (560, 280, 112, 1120, 1176)
_ALIKE = 0.6, 1.6
# Hints by `owned_by`, for servers that run these models themselves; others may count image tokens
# in another way.
_HINTS = {
    'llamacpp': (
        'start llama-server without --image-min-tokens, or with at most {tokens}, and with an '
        '--image-max-tokens of {tokens} or more'
    ),
    'vllm': (
        'start vLLM with --mm-processor-kwargs \'{{"min_pixels": 3136, "max_pixels": 1003520}}\''
    ),
    'sglang': (
        'set min_pixels to 3136 and max_pixels to 1003520 in the preprocessor_config.json that '
        'SGLang reads'
    ),
}
_DEFAULT_HINT = (
    'have its image processor keep images of {tokens} tokens as they are (llama-server: no '
    '--image-min-tokens above that; vLLM: min_pixels and max_pixels)'
)
# A question has at most as many tokens as bytes, and may merge a few with the template.
_SLACK = 8
# The cells that a token may be of, and sides of squares that are multiples of both.
_CELLS = (28, 32)
_ON_BOTH_GRIDS = (896, 448)
_MAX_FAILURES = 3
# Range of tokens per character of the published prompts; short prompts are skipped, because the
# chat template dominates their count.
_MIN_TOKENS_PER_CHARACTER, _MAX_TOKENS_PER_CHARACTER = 0.15, 0.48
_LONG_PROMPT = 300

_logger = logging.getLogger(__name__)


def by_area(size: Size) -> int:
    """Return the tokens of an image of this size, in multiples of 28."""
    return (size[0] // GRID) * (size[1] // GRID)


def _by_side(size: Size) -> int:
    """Return the count of llama.cpp builds that report positions instead of tokens."""
    return max(size) // GRID


class ResizeCheck:
    """Compares one server's prompt token counts with the sizes of the images."""

    def __init__(self, dialect: Dialect, server: str, owner: str, count: Count) -> None:
        """Start without any counts.

        Args:
            dialect: of the model; coordinates in thousandths cannot shift.
            server: its address, for messages.
            owner: the model's `owned_by`, such as `vllm`; '' if unknown.
            count: returns the server's prompt token count.
        """
        # Every dialect that answers in pixels has the same grid. mini's own processor resizes
        # every image to one size.
        self._shifts = dialect.frame == 'pixels' and not dialect.position_code_cell
        self._dialect = dialect
        # Thousandths of a model with another grid are no less wrong.
        self._checks_cells = dialect.frame == 'thousandths' and dialect.grid != GRID
        self._template = len(dialect.prompt('').encode())
        self._server = server
        self._owner = owner
        self._count = count
        # By image size: the token count of a query, and its question's bytes.
        self._known_costs: dict[Size, tuple[int, int]] = {}
        self._counts_queries = True
        self._failures = 0
        self._warned = False

    async def check(self, size: Size, prompt: str, charged: int | None) -> None:
        """Check that the server did not resize an image of this size.

        Args:
            size: (width, height) of the image that was sent.
            prompt: the text after it.
            charged: prompt tokens that the server reported; None if none.

        Raises:
            ReasonerUnavailable: it did, or its model is of another family; the text names the
                cause and a hint.
        """
        if self._checks_cells:
            await self._refuse_other_cells(prompt)
            self._checks_cells = False
        if not self._shifts or self._failures >= _MAX_FAILURES:
            return
        if size in self._known_costs:
            if self._fits(size, prompt, charged):
                return
        elif charged is not None and await self._costs_as_expected(size, prompt, charged):
            self._store(size, prompt, charged)
            return
        await self._measure(size, prompt, charged)

    def _fits(self, size: Size, prompt: str, charged: int | None) -> bool:
        """Return whether a query's count fits those of earlier ones with this image size.

        Only the questions differ, and a question has no more tokens than bytes.
        """
        if charged is None or not self._counts_queries:
            return True
        before, length = self._known_costs[size]
        return -length - _SLACK <= charged - before <= self._length(prompt) + _SLACK

    def _length(self, prompt: str) -> int:
        """Return the bytes of a prompt's question."""
        return len(prompt.encode()) - self._template

    def _store(self, size: Size, prompt: str, charged: int) -> None:
        self._known_costs[size] = charged, self._length(prompt)

    async def _costs_as_expected(self, size: Size, prompt: str, charged: int) -> bool:
        """Return whether the count differs from one with another image by the expected number."""
        other = _others(size)[0]
        cost = await self._count(plain_image(other), prompt)
        return cost is not None and charged - cost == by_area(size) - by_area(other)

    async def _measure(self, size: Size, prompt: str, charged: int | None) -> None:
        """Compare images of several sizes, none of which the server can have cached."""
        self._known_costs.pop(size, None)
        own = await self._count(plain_image(size), prompt)
        if own is None:
            self._failures += 1
            self._warn('does not say how many tokens an image was')
            return
        found = {}
        for other in _others(size):
            cost = await self._count(plain_image(other), prompt)
            if cost is not None:
                found[other] = cost
        model = _model_of({**found, size: own})
        if model is not None:
            self._compare(size, prompt, own, charged, found, model)
            return
        await self._refuse_other_cells(prompt)
        equal = all(cost == own for cost in found.values())
        if self._owner in _HINTS and (_is_implausible(size, prompt, own) if equal else found):
            raise self._resized(size, found, own)
        self._failures = _MAX_FAILURES
        self._warn('counts images otherwise than Qwen2-VL and Qwen2.5-VL do')

    async def _refuse_other_cells(self, prompt: str) -> None:
        """Raise ReasonerUnavailable if the model's tokens are of cells of another dialect's."""
        costs = []
        for side in _ON_BOTH_GRIDS:
            cost = await self._count(plain_image((side, side)), prompt)
            if cost is None:
                return
            costs.append(cost)
        large, small = _ON_BOTH_GRIDS
        others = [
            cell
            for cell in _CELLS
            if cell != self._dialect.grid
            and costs[0] - costs[1] == (large // cell) ** 2 - (small // cell) ** 2
        ]
        if others:
            raise self._of_another_family(others[0])

    def _of_another_family(self, cell: int) -> ReasonerUnavailable:
        name, grid = self._dialect.name, self._dialect.grid
        right = ' or '.join(
            each.name for each in DIALECTS.values() if each.grid == cell and each.architectures
        )
        return ReasonerUnavailable(
            f'The model at {self._server} sees {cell}x{cell} pixels as one token, and models of '
            f'the dialect {name} see {grid}x{grid}: it is of another family, whose boxes would be '
            f'read wrongly. Set reasoner.dialect to {right}, or serve a model of {name} '
            '(docs/serving.md).'
        )

    def _compare(
        self,
        size: Size,
        prompt: str,
        own: int,
        charged: int | None,
        found: dict[Size, int],
        model: Tokens,
    ) -> None:
        """Judge the counts where the server's way of counting is known."""
        if all(own - cost != model(size) - model(one) for one, cost in found.items()):
            raise self._resized(size, found, own)
        if charged is not None and charged > own:
            # Caching may lower a count, never raise it: another replica answered.
            raise self._resized(size, found, charged)
        self._store(size, prompt, own)
        self._counts_queries = charged == own

    def _warn(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            _logger.warning(
                '%s %s, so nobody can check whether it resizes images again; if it does, every '
                'box is off. Compare a few boxes with the picture (docs/serving.md).',
                self._server,
                why,
            )

    def _resized(self, size: Size, found: dict[Size, int], own: int) -> ReasonerUnavailable:
        tokens = by_area(size)
        texts = [cost - by_area(one) for one, cost in _agreeing(found, by_area)]
        seen = str(own - min(texts)) if texts else 'another number of'
        hint = _HINTS.get(self._owner, _DEFAULT_HINT).format(tokens=tokens)
        return ReasonerUnavailable(
            f'{self._server} resizes the image of {size[0]}x{size[1]} pixels again ({seen} tokens '
            f'instead of {tokens}), so every box would be off: {hint} (docs/serving.md).'
        )


def _others(size: Size) -> list[Size]:
    """Return the sizes to compare with, the most significant first."""
    tokens = by_area(size)
    lower, upper = (tokens * share for share in _ALIKE)
    squares = [(side, side) for side in _PROBED]
    far = [one for one in squares if not lower < by_area(one) < upper]
    # Bounds that keep this size mostly keep one of its neighbours, too.
    near = [(size[0] + step, size[1]) for step in (GRID, -GRID) if size[0] + step > 0]
    return far + near


def plain_image(size: Size) -> RgbImage:
    """Return an image of a random colour, so that it is not cached, (height, width, 3) uint8."""
    colour = np.frombuffer(secrets.token_bytes(3), np.uint8)
    return np.full((size[1], size[0], 3), colour, np.uint8)


def _agreeing(found: dict[Size, int], model: Tokens) -> list[tuple[Size, int]]:
    """Return the images whose counts differ from another's by the expected number."""
    agreeing: dict[Size, int] = {}
    for (one, cost), (other, charge) in combinations(found.items(), 2):
        if cost - charge == model(one) - model(other):
            agreeing |= {one: cost, other: charge}
    return list(agreeing.items())


def _model_of(found: dict[Size, int]) -> Tokens | None:
    """Return how the server counts images that it does not resize; None if unknown."""
    if _agreeing(found, by_area):
        return by_area
    # Small numbers agree by chance.
    return _by_side if len(_agreeing(found, _by_side)) > 2 else None


def _is_implausible(size: Size, prompt: str, own: int) -> bool:
    """Return whether a count that is equal for all images cannot be that of image and prompt."""
    if len(prompt) < _LONG_PROMPT:
        return False
    text = own - by_area(size)
    lower, upper = (
        len(prompt) * one for one in (_MIN_TOKENS_PER_CHARACTER, _MAX_TOKENS_PER_CHARACTER)
    )
    return text > 0 and not lower <= text <= upper
