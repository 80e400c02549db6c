"""Plot of the mini reasoner's training curves."""

from __future__ import annotations

from collections.abc import Sequence
import json
from pathlib import Path

# Upper limit of the axis; losses of the first steps are higher.
_MAX_VALUE = 3.0


def draw_curves(folder: Path, stages: Sequence[str]) -> Path:
    """Plot all figures of the stages' files over their steps; return the path of the image."""
    import matplotlib

    matplotlib.use('agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(stages), figsize=(7 * len(stages), 4), squeeze=False)
    for axis, stage in zip(axes[0], stages, strict=True):
        text = (folder / f'{stage}.jsonl').read_text(encoding='utf-8')
        lines = [json.loads(line) for line in text.splitlines()]
        names = dict.fromkeys(name for line in lines for name in line)
        for name in names:
            if name in ('step', 'seconds', 'pixels', 'unseen_pixels'):
                continue
            points = [(line['step'], line[name]) for line in lines if name in line]
            style = '--' if name.startswith('unseen_') else '-'
            axis.plot(*zip(*points, strict=True), style, label=name.replace('_', ' '))
        axis.set(title=stage, xlabel='step', ylim=(0, min(_MAX_VALUE, axis.get_ylim()[1])))
        axis.grid(alpha=0.3)
        axis.legend(fontsize='small', loc='center left', bbox_to_anchor=(1, 0.5))
    path = folder / 'curves.png'
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
