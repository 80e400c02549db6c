"""Have the vision tower look at a picture once, however many answers about it are in a batch.

Answers to one question share their picture, and the trainer repeats it for each.
"""

from __future__ import annotations

from typing import Any

import torch


def deduplicate_images(visual: Any) -> None:
    """Change a vision tower so that equal pictures that follow each other are looked at once.

    Gradients of all answers reach the tower as before.

    Args:
        visual: the tower of a Qwen2-VL or Qwen2.5-VL.
    """
    look = visual.forward
    merged = visual.spatial_merge_size**2

    def forward(pixels: torch.Tensor, grid_thw: torch.Tensor, **named: Any) -> Any:
        counts: list[int] = grid_thw.prod(-1).tolist()
        pictures = torch.split(pixels, counts)
        which = _numbered(pictures, grid_thw)
        firsts = [which.index(number) for number in range(which[-1] + 1)]
        if len(firsts) == len(which):
            return look(pixels, grid_thw=grid_thw, **named)
        seen = look(
            torch.cat([pictures[first] for first in firsts]), grid_thw=grid_thw[firsts], **named
        )
        tokens = torch.split(seen.pooler_output, [counts[first] // merged for first in firsts])
        seen.pooler_output = torch.cat([tokens[number] for number in which])
        return seen

    visual.forward = forward


def _numbered(pictures: tuple[torch.Tensor, ...], grid_thw: torch.Tensor) -> list[int]:
    """Return for each picture its number, the same as its predecessor's where both are equal."""
    which = [0]
    for at in range(1, len(pictures)):
        same = torch.equal(grid_thw[at], grid_thw[at - 1]) and torch.equal(
            pictures[at], pictures[at - 1]
        )
        which.append(which[-1] + (not same))
    return which
