"""Image deduplication: run the vision tower once for all answers about an image.

The trainer repeats the image of a query for each of its answers.
"""

from __future__ import annotations

from typing import Any

import torch


def deduplicate_images(visual: Any) -> None:
    """Patch a vision tower to encode consecutive equal images once; gradients are unchanged.

    Args:
        visual: the tower of a Qwen2-VL or Qwen2.5-VL.
    """
    original = visual.forward
    merged = visual.spatial_merge_size**2

    def forward(pixels: torch.Tensor, grid_thw: torch.Tensor, **named: Any) -> Any:
        counts: list[int] = grid_thw.prod(-1).tolist()
        images = torch.split(pixels, counts)
        numbers = _numbered(images, grid_thw)
        firsts = [numbers.index(number) for number in range(numbers[-1] + 1)]
        if len(firsts) == len(numbers):
            return original(pixels, grid_thw=grid_thw, **named)
        output = original(
            torch.cat([images[first] for first in firsts]), grid_thw=grid_thw[firsts], **named
        )
        tokens = torch.split(output.pooler_output, [counts[first] // merged for first in firsts])
        output.pooler_output = torch.cat([tokens[number] for number in numbers])
        return output

    visual.forward = forward


def _numbered(images: tuple[torch.Tensor, ...], grid_thw: torch.Tensor) -> list[int]:
    """Return a number for each image, the same as its predecessor's if both are equal."""
    numbers = [0]
    for at in range(1, len(images)):
        same = torch.equal(grid_thw[at], grid_thw[at - 1]) and torch.equal(
            images[at], images[at - 1]
        )
        numbers.append(numbers[-1] + (not same))
    return numbers
