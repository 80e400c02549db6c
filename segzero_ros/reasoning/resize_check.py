"""Notice a server that resizes an image again before its model sees it.

Checkpoints write pixels of the image as they see it. A server that makes another size of it moves
every box, and nothing in the answer tells. What it charges for images does: Qwen's vision towers
make one token of 28 by 28 pixels, so the same text with two images costs as much more as the one
has more of these.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import combinations
import logging
import secrets

import numpy as np

from segzero_ros.reasoning.dialects import Dialect, GRID
from segzero_ros.types import ReasonerUnavailable, RgbImage

Size = tuple[int, int]
# Ask the server what a text with an image costs, in tokens; None where it does not say.
Count = Callable[[RgbImage, str], Awaitable[int | None]]
Tokens = Callable[[Size], int]

# Sides of square images that are compared with the one in question: servers that enlarge small
# images or shrink large ones leave some of these as they are. Images of about as many tokens are
# left out: both shrunk, they may differ by just as much as before.
_PROBED = (560, 280, 112, 1120, 1176)
_ALIKE = 0.6, 1.6
# The servers that run the very models that dialects are for, by what they call themselves; others
# may charge for images as they like.
_CURES = {
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
_ANY_CURE = (
    'have its image processor keep images of {tokens} tokens as they are (llama-server: no '
    '--image-min-tokens above that; vLLM: min_pixels and max_pixels)'
)
# Questions of other words cost other tokens, never more than their bytes; template and question
# may merge a few.
_SLACK = 8
_MOST_ATTEMPTS = 3
# Of the published prompts, tokens per character lie between; of short ones the chat template's own
# tokens tell too little.
_FEWEST_PER_CHARACTER, _MOST_PER_CHARACTER = 0.15, 0.48
_LONG_PROMPT = 300

_logger = logging.getLogger(__name__)


def by_area(size: Size) -> int:
    """Return how many tokens an image of this size, in multiples of 28, is."""
    return (size[0] // GRID) * (size[1] // GRID)


def _by_side(size: Size) -> int:
    """Return what builds of llama.cpp charge that count positions instead of tokens."""
    return max(size) // GRID


class ResizeCheck:
    """Compares what one server charges for images with what they are."""

    def __init__(self, dialect: Dialect, server: str, owner: str, count: Count) -> None:
        """Begin with nothing known.

        Args:
            dialect: of the model; where coordinates are shares of the sides nothing can shift.
            server: for messages.
            owner: what the server calls itself, such as `vllm`; '' where it does not say.
            count: asks it.
        """
        # The small reasoner's own processor makes one size of every image.
        self._shifts = dialect.frame == 'pixels' and not dialect.position_code_cell
        self._template = len(dialect.prompt('').encode())
        self._server = server
        self._owner = owner
        self._count = count
        # What a query about an image of each size cost, and how many bytes its question had.
        self._kept: dict[Size, tuple[int, int]] = {}
        self._counts_queries = True
        self._failures = 0
        self._said = False

    async def check(self, size: Size, prompt: str, charged: int | None) -> None:
        """Make sure that the server left an image of this size alone.

        Args:
            size: (width, height) of the image that was sent.
            prompt: the text beside it.
            charged: prompt tokens that the server counted; None where it did not say.

        Raises:
            ReasonerUnavailable: it did not; the text names the cause and the cure.
        """
        if not self._shifts or self._failures >= _MOST_ATTEMPTS:
            return
        if size in self._kept:
            if self._fits(size, prompt, charged):
                return
        elif charged is not None and await self._costs_what_it_is(size, prompt, charged):
            self._keep(size, prompt, charged)
            return
        await self._measure(size, prompt, charged)

    def _fits(self, size: Size, prompt: str, charged: int | None) -> bool:
        """Return whether a query costs what others about images of this size did.

        Only the questions differ, and a question has no more tokens than bytes.
        """
        if charged is None or not self._counts_queries:
            return True
        before, length = self._kept[size]
        return -length - _SLACK <= charged - before <= self._length(prompt) + _SLACK

    def _length(self, prompt: str) -> int:
        """Return how many bytes a prompt's question has."""
        return len(prompt.encode()) - self._template

    def _keep(self, size: Size, prompt: str, charged: int) -> None:
        self._kept[size] = charged, self._length(prompt)

    async def _costs_what_it_is(self, size: Size, prompt: str, charged: int) -> bool:
        """Return whether a query costs as much more than one with another image as it should."""
        other = _others(size)[0]
        cost = await self._count(plain_image(other), prompt)
        return cost is not None and charged - cost == by_area(size) - by_area(other)

    async def _measure(self, size: Size, prompt: str, charged: int | None) -> None:
        """Compare images of many sizes, none of which the server can have cached."""
        self._kept.pop(size, None)
        own = await self._count(plain_image(size), prompt)
        if own is None:
            self._failures += 1
            self._say('does not say how many tokens an image was')
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
        alike = all(cost == own for cost in found.values())
        if self._owner in _CURES and (_too_odd(size, prompt, own) if alike else found):
            raise self._resized(size, found, own)
        self._failures = _MOST_ATTEMPTS
        self._say('counts images otherwise than Qwen2-VL and Qwen2.5-VL do')

    def _compare(
        self,
        size: Size,
        prompt: str,
        own: int,
        charged: int | None,
        found: dict[Size, int],
        model: Tokens,
    ) -> None:
        """Say what comes of it where it is known how the server charges."""
        if all(own - cost != model(size) - model(one) for one, cost in found.items()):
            raise self._resized(size, found, own)
        if charged is not None and charged > own:
            # What is cached may be charged less, never more: another replica has answered.
            raise self._resized(size, found, charged)
        self._keep(size, prompt, own)
        self._counts_queries = charged == own

    def _say(self, why: str) -> None:
        if not self._said:
            self._said = True
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
        cure = _CURES.get(self._owner, _ANY_CURE).format(tokens=tokens)
        return ReasonerUnavailable(
            f'{self._server} resizes the image of {size[0]}x{size[1]} pixels again ({seen} tokens '
            f'instead of {tokens}), so every box would be off: {cure} (docs/serving.md).'
        )


def _others(size: Size) -> list[Size]:
    """Return the sizes that one is compared with, the most telling first."""
    tokens = by_area(size)
    least, most = (tokens * share for share in _ALIKE)
    squares = [(side, side) for side in _PROBED]
    far = [one for one in squares if not least < by_area(one) < most]
    # Bounds that leave this size alone mostly leave one of its neighbours alone too.
    near = [(size[0] + step, size[1]) for step in (GRID, -GRID) if size[0] + step > 0]
    return far + near


def plain_image(size: Size) -> RgbImage:
    """Return an image of one colour that no server has seen before, (height, width, 3) uint8."""
    colour = np.frombuffer(secrets.token_bytes(3), np.uint8)
    return np.full((size[1], size[0], 3), colour, np.uint8)


def _agreeing(found: dict[Size, int], model: Tokens) -> list[tuple[Size, int]]:
    """Return the images that cost as much more than another as they should."""
    agreeing: dict[Size, int] = {}
    for (one, cost), (other, charge) in combinations(found.items(), 2):
        if cost - charge == model(one) - model(other):
            agreeing |= {one: cost, other: charge}
    return list(agreeing.items())


def _model_of(found: dict[Size, int]) -> Tokens | None:
    """Return how the server charges for images that it leaves alone; None where none fits."""
    if _agreeing(found, by_area):
        return by_area
    # Numbers as small as sides agree by chance.
    return _by_side if len(_agreeing(found, _by_side)) > 2 else None


def _too_odd(size: Size, prompt: str, own: int) -> bool:
    """Return whether a count that no image changes cannot be this image's and the prompt's."""
    if len(prompt) < _LONG_PROMPT:
        return False
    text = own - by_area(size)
    least, most = (len(prompt) * one for one in (_FEWEST_PER_CHARACTER, _MOST_PER_CHARACTER))
    return text > 0 and not least <= text <= most
