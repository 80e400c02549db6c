"""Dense supervision of the vision tower: class and box at each token.

Next-token training alone hardly trains a vision tower from scratch. The heads are linear, so that
the language model can use the features too; they are discarded after training.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn
from torch.nn import functional

from segzero_ros.training.mini.architecture import model_images, WIDTH
from segzero_ros.training.mini.dense_targets import COLOURS, KINDS, SHADES
from segzero_ros.training.mini.geometry import GRID, PATCH, SIDE, TOKENS

# Coordinates are classified in bins of two pixels, with soft targets.
_BIN_SIZE = 2
_BINS = SIDE // _BIN_SIZE + 1
_TARGET_DEVIATION = 0.8
_MAX_SHIFT = 2


@dataclass(frozen=True, eq=False)
class View:
    """A batch of `model_images` with their `dense_targets`."""

    pictures: torch.Tensor
    names: torch.Tensor
    places: torch.Tensor


class Heads(nn.Module):
    """Linear heads for the dense targets."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = (len(KINDS), len(COLOURS), len(SHADES), 2)
        self.names = nn.Linear(WIDTH, sum(self.sizes))
        self.places = nn.Linear(WIDTH, 6 * _BINS)

    def forward(
        self, features: torch.Tensor, view: View
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss of (B, TOKENS, WIDTH) features.

        Returns:
            The loss and figures: accuracy of kind, colour and object-or-not, mean coordinate error
            in pixels, and mean IoU of the boxes.
        """
        kind, colour, shade, middle = self.names(features).split(self.sizes, -1)
        owned = view.names[..., 0] > 0
        guessed = self.places(features[owned]).unflatten(-1, (6, _BINS))
        true = view.places[owned] / _BIN_SIZE
        entropy = functional.cross_entropy
        loss = (
            3 * entropy(kind.flatten(0, 1), view.names[..., 0].flatten())
            + 3 * entropy(middle.flatten(0, 1), view.names[..., 3].flatten())
            + entropy(colour[owned], view.names[..., 1][owned])
            + 0.3 * entropy(shade[owned], view.names[..., 2][owned])
            + 1.5 * entropy(guessed.flatten(0, 1), _soft(true).flatten(0, 1))
        )
        best = guessed.argmax(-1).float()
        figures = {
            'kind': _mean(kind[owned].argmax(-1) == view.names[..., 0][owned]),
            'colour': _mean(colour[owned].argmax(-1) == view.names[..., 1][owned]),
            'object': _mean((kind.argmax(-1) > 0) == owned),
            'pixels': _mean((best - true).abs() * _BIN_SIZE),
            'iou': _mean(paired_box_iou(best[:, :4], true[:, :4])),
        }
        return loss, figures


def augmented(
    pictures: NDArray[np.uint8], view_names: NDArray[np.int8], places: NDArray[np.float32],
    rng: np.random.Generator,
) -> View:  # fmt: skip
    """Return a batch mirrored, shifted by whole tokens and tinted at random."""
    images, names, where = pictures.copy(), view_names.copy(), places.copy()
    for row in range(len(images)):
        if rng.random() < 0.5:
            _mirror(images[row], names[row], where[row])
        down, right = rng.integers(-_MAX_SHIFT, _MAX_SHIFT + 1, 2)
        if rng.random() < 0.4:
            _shift(images[row], names[row], where[row], int(down), int(right))
        tint = rng.uniform(0.88, 1.12) * rng.uniform(0.96, 1.04, 3)
        # A lookup table is ten times as fast as arithmetic, and the GPU waits for batches.
        tinted = np.clip(np.arange(256)[:, None] * tint, 0, 255).astype(np.uint8)
        cv2.LUT(images[row], tinted[None], dst=images[row])
    return unaugmented(images, names, where)


def unaugmented(
    pictures: NDArray[np.uint8], names: NDArray[np.int8], places: NDArray[np.float32]
) -> View:
    """Return a batch without augmentation."""
    return View(model_images(pictures), torch.from_numpy(names).long(), torch.from_numpy(places))


def _mirror(
    picture: NDArray[np.uint8], names: NDArray[np.int8], places: NDArray[np.float32]
) -> None:
    """Mirror an image and its targets horizontally, in place."""
    cv2.flip(picture, 1, dst=picture)
    names[:] = names.reshape(GRID, GRID, -1)[:, ::-1].reshape(TOKENS, -1)
    x1, y1, x2, y2, x, y = places.reshape(GRID, GRID, -1)[:, ::-1].reshape(TOKENS, -1).T
    places[:] = np.stack([SIDE - x2, y1, SIDE - x1, y2, SIDE - x, y], 1)


def _shift(
    picture: NDArray[np.uint8],
    names: NDArray[np.int8],
    places: NDArray[np.float32],
    down: int,
    right: int,
) -> None:
    """Shift an image and its targets by whole tokens, in place; repeat the border."""
    wanted_rows, wanted_columns = np.arange(GRID) - down, np.arange(GRID) - right
    rows, columns = (np.clip(wanted, 0, GRID - 1) for wanted in (wanted_rows, wanted_columns))
    cells = picture.reshape(GRID, PATCH, GRID, PATCH, 3)
    picture[:] = cells[rows][:, :, columns].reshape(SIDE, SIDE, 3)
    known = (rows == wanted_rows)[:, None] & (columns == wanted_columns)
    moved = names.reshape(GRID, GRID, -1)[rows][:, columns] * known[..., None]
    names[:] = moved.reshape(TOKENS, -1)
    where = places.reshape(GRID, GRID, -1)[rows][:, columns].reshape(TOKENS, -1)
    places[:] = np.clip(where + np.array([right, down] * 3) * PATCH, 0, SIDE)


def _soft(values: torch.Tensor) -> torch.Tensor:
    """Return (..., bins) Gaussian soft targets of (...) values."""
    bins = torch.arange(_BINS, dtype=torch.float32, device=values.device)
    return (-((values[..., None] - bins) ** 2) / (2 * _TARGET_DEVIATION**2)).softmax(-1)


def _mean(values: torch.Tensor) -> torch.Tensor:
    return values.float().mean()


def paired_box_iou(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return (N,) IoUs of the pairs of (N, 4) boxes; inverted boxes have no area."""
    low, high = torch.maximum(one[:, :2], other[:, :2]), torch.minimum(one[:, 2:], other[:, 2:])
    common = (high - low).clamp(0).prod(1)
    areas = [(box[:, 2:] - box[:, :2]).clamp(0).prod(1) for box in (one, other)]
    return common / (areas[0] + areas[1] - common).clamp(1e-6)
