"""Plot of a run's curves: reward and its parts, length, KL, validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_PANELS: dict[str, Callable[[str], bool]] = {
    'reward and its parts': lambda name: (
        name == 'reward' or (name.endswith('/mean') and name.startswith('rewards/'))
    ),
    'length': lambda name: name in ('completions/mean_length', 'thought_words'),
    'loss, KL, entropy': lambda name: name in ('loss', 'kl', 'entropy', 'mean_token_accuracy'),
    'validation': lambda name: name.startswith('validation_'),
}


def draw_curves(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Plot the figures of a run over its steps.

    Args:
        lines: the figures of each step.
        path: of the image.
    """
    import matplotlib

    matplotlib.use('agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(12, 8))
    for axis, (title, belongs) in zip(axes.flat, _PANELS.items(), strict=True):
        for name in dict.fromkeys(name for line in lines for name in line if belongs(name)):
            points = [(line['step'], line[name]) for line in lines if name in line]
            label = name.removeprefix('rewards/').removesuffix('/mean').replace('_', ' ')
            axis.plot(*zip(*points, strict=True), label=label, marker='.')
        axis.set(title=title, xlabel='step')
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize='small')
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
