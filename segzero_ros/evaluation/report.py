"""Reports of a run: `summary.json`, `report.md` and the gallery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from segzero_ros.evaluation import tabletop
from segzero_ros.evaluation.coco_ap import coco_ap
from segzero_ros.evaluation.counterfactual import counterfactual_figures
from segzero_ros.evaluation.gallery import MAX_ENTRIES, write_gallery
from segzero_ros.evaluation.hub import PUBLISHED
from segzero_ros.evaluation.measurements import IOU_OF_A_HIT, Measurement
from segzero_ros.evaluation.metrics import CONVENTIONS, figures, intervals, point_score
from segzero_ros.evaluation.published import ABLATIONS, TABLES
from segzero_ros.evaluation.records import SampleRecord
from segzero_ros.evaluation.runner import RunFolder
from segzero_ros.evaluation.samples import BAG
from segzero_ros.types import Task

# The convention of a checkpoint, by its dialect.
_OWN_CONVENTION = {'seg_zero': 'seg_zero', 'vision_reasoner': 'vision_reasoner'}
_DASH = '\N{EN DASH}'
_HEADINGS = {
    'giou': 'gIoU',
    'ciou': 'cIoU',
    'bbox_ap': 'bbox AP',
    'bbox_ap_merged': 'bbox AP since 2025-08-29',
    'giou_no_target': 'gIoU, correctly empty is 1',
    'n_acc': 'N-acc',
    'point_accuracy': 'points on target',
}
# The count that a figure is a fraction of.
_DENOMINATORS = {
    'giou': 'scored',
    'ciou': 'scored',
    'bbox_ap': 'with_box',
    'giou_no_target': 'without_target',
    'n_acc': 'without_target',
    'point_accuracy': 'points',
}


def summarise(rows: Sequence[SampleRecord], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the summary of a run; only `timing` depends on the machine.

    Args:
        rows: all answers.
        manifest: of the run: data set and models.
    """
    items = [row.item for row in rows]
    summary: dict[str, Any] = {
        'dataset': manifest['dataset'],
        'models': manifest['models'],
        'tasks': _counts(sorted(row.task for row in rows)),
        'statuses': _counts([status.name for status in sorted(row.status for row in rows)]),
        'conventions': {
            name: {
                'source': convention.source,
                'figures': figures(items, convention),
                'intervals_95': intervals(items, convention),
            }
            for name, convention in CONVENTIONS.items()
        },
        'tokens': _spread([row.tokens for row in rows]),
        'timing': {
            stage: _spread([row.seconds[stage] for row in rows])
            for stage in ('reasoning', 'encoding', 'segmenting', 'total')
        },
    }
    if bags := _by_bag(rows, manifest):
        summary['bags'] = bags
    if any(item.is_pointed for item in items):
        summary['points'] = _point_scores(rows)
    elif any(item.distracted is not None for item in items):
        summary['counterfactual'] = counterfactual_figures(rows)
    elif (
        any(row.group for row in rows)
        and not bags
        and all(row.task == Task.SEGMENT.name for row in rows)
    ):
        groups = tabletop.report(rows)
        times = {
            name: {k: row.pop(k) for k in ('p50_ms', 'p95_ms')} for name, row in groups.items()
        }
        summary['groups'] = groups
        summary['timing']['groups'] = times
    if any(row.task == Task.DETECT.name for row in rows) and (found := coco_ap(rows)):
        summary['coco'] = found
    cleaned: dict[str, Any] = _without_nan(summary)
    return cleaned


def _point_scores(rows: Sequence[SampleRecord]) -> dict[str, Any]:
    """Return the points metric over all answers and per group."""
    groups = {'all': list(rows)}
    for name in dict.fromkeys(name for row in rows for name in row.group):
        groups[name] = [row for row in rows if name in row.group]
    return {
        name: {
            **point_score([row.item for row in chosen])._asdict(),
            'from_masks': sum(row.points_from_masks for row in chosen),
        }
        for name, chosen in groups.items()
    }


def _by_bag(rows: Sequence[SampleRecord], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the main figures of each bag of several."""
    by_bag: dict[str, list[Measurement]] = {}
    for row in rows:
        for group in row.group:
            if group.startswith(BAG):
                by_bag.setdefault(group.removeprefix(BAG), []).append(row.item)
    convention = CONVENTIONS[leading(manifest)]
    found = {}
    for name, items in by_bag.items():
        all_figures = figures(items, convention)
        kept = {key: all_figures[key] for key in ('scored', 'failed', 'giou', 'n_acc')}
        found[name] = {'answers': len(items), **kept}
    return found


def _counts(names: Sequence[str]) -> dict[str, int]:
    return {name: names.count(name) for name in dict.fromkeys(names)}


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    p50, p90, p99 = np.percentile(values, (50, 90, 99))
    return {
        'mean': float(np.mean(values)),
        'p50': float(p50),
        'p90': float(p90),
        'p99': float(p99),
        'max': float(max(values)),
    }


def _without_nan(value: Any) -> Any:
    """Return the value with None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _without_nan(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_report(folder: RunFolder, max_entries: int = MAX_ENTRIES) -> dict[str, Any]:
    """Write the reports of a run into its folder; return the summary.

    Args:
        folder: of the run; an unfinished one is reported as such.
        max_entries: number of answers in the gallery.
    """
    manifest = folder.manifest()
    rows, whole = folder.rows()
    summary = {'complete': whole, **summarise(rows, manifest)}
    text = json.dumps(summary, indent=1, allow_nan=False)
    (folder.path / 'summary.json').write_text(f'{text}\n', encoding='utf-8')
    page = markdown(summary, manifest)
    (folder.path / 'report.md').write_text(page, encoding='utf-8')
    title = f'{manifest["dataset"]["name"]}: {_models(manifest)}'
    first = CONVENTIONS[leading(manifest)]
    write_gallery(folder.path / 'gallery.html', title, rows, first, folder.image_path, max_entries)
    return summary


def leading(manifest: Mapping[str, Any]) -> str:
    """Return the convention of a run's data set, or the one its models were published with."""
    published = PUBLISHED.get(manifest['dataset']['published'])
    if published and published.convention:
        return published.convention
    return _OWN_CONVENTION.get(manifest['models']['reasoner']['dialect'], 'vision_reasoner')


def _models(manifest: Mapping[str, Any]) -> str:
    names = []
    for part in ('reasoner', 'segmenter'):
        options = manifest['models'][part]
        plain = options['backend'] in ('attributes', 'grabcut')
        model = options['model']
        # The name of a local file or folder is enough.
        model = Path(model).name if Path(model).is_absolute() else model
        names.append(options['backend'] if plain else model)
    return ' + '.join(names) + (', searching' if 'agent' in manifest['models'] else '')


def markdown(summary: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """Return the report as Markdown.

    Args:
        summary: of the run, see `summarise`.
        manifest: of the run.
    """
    parts = [f'# {manifest["dataset"]["name"]}: {_models(manifest)}', _about(summary, manifest)]
    if 'groups' in summary:
        parts.append(_groups(summary))
    published = TABLES.get(manifest['dataset']['published'])
    if published:
        parts.append(_compared_with_published(summary, manifest, published))
    parts += [
        _bags(summary),
        _points(summary),
        _counterfactual(summary),
        _coco(summary),
        _boxes(summary),
    ]
    parts += [_conventions(summary), _counting(summary), _timing(summary)]
    return '\n\n'.join(filter(None, parts)) + '\n'


def _about(summary: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    samples = sum(summary['statuses'].values())
    statuses = ', '.join(f'{count} {name}' for name, count in summary['statuses'].items())
    lines = [f'{samples} answers: {statuses or "none"}.']
    if not summary['complete']:
        lines.append('**Unfinished**: run the same command again to resume.')
    if set(summary['tasks']) - {Task.SEGMENT.name}:
        lines.append(f'Asked to {_named_tasks(summary["tasks"])}.')
    name = manifest['dataset']['published']
    expected = PUBLISHED[name].samples if name in PUBLISHED else 0
    if expected and expected != samples:
        lines.append(f'The papers use {expected} samples: the figures are not comparable.')
    return ' '.join(lines)


def _named_tasks(tasks: Mapping[str, int]) -> str:
    if len(tasks) == 1:
        return next(iter(tasks)).lower()
    return ', '.join(f'{name.lower()} ({count})' for name, count in tasks.items())


def _points(summary: Mapping[str, Any]) -> str:
    if 'points' not in summary:
        return ''
    lines = [['samples', 'count', 'unreadable', 'left out', 'counted as 0']]
    for name, row in summary['points'].items():
        scores = (
            f'{_percent(row[key])} ({_percent(row[f"{key}_between"][0])} to '
            f'{_percent(row[f"{key}_between"][1])})'
            for key in ('left_out', 'counted')
        )
        lines.append([name, str(row['samples']), str(row['unreadable']), *scores])
    note = (
        'Mean share of the predicted points that lie on the target, in percent: with unreadable '
        'answers left out, and with them counted as 0.'
    )
    if inner := summary['points']['all']['from_masks']:
        note += (
            f' In {inner} answers the model gave masks only: the innermost point of each mask '
            'counts.'
        )
    return f'## Points on target\n\n{_table(lines)}\n\n{note}'


def _counterfactual(summary: Mapping[str, Any]) -> str:
    found = summary.get('counterfactual')
    if not found:
        return ''
    lines = [
        ['image', 'IoU', 'ΔIoU', 'confusion mask score', 'NOT_FOUND is right'],
        *(
            [
                kind,
                _percent(found[f'iou_{kind}']),
                _percent(found[f'delta_iou_{delta}']),
                _decimal(found[f'confusion_{kind}']),
                _percent(found[f'not_found_{kind}']),
            ]
            for kind, delta in (('factual', 'textual'), ('counterfactual', 'visual'))
        ),
    ]
    note = (
        'IoU of the label that belongs to the image. The rest is about the other label: ΔIoU is '
        'the IoU in the factual image minus that of what is marked wrongly (high is good), the '
        'confusion mask score is 0 if nothing is marked.'
    )
    return f'## Counterfactual images\n\n{_table(lines)}\n\n{note}'


def _coco(summary: Mapping[str, Any]) -> str:
    found = summary.get('coco')
    if not found:
        return ''
    figures_of = ('ap', 'ap_50', 'ap_75', 'ar_100')
    lines = [
        ['AP', 'AP 0.5', 'AP 0.75', 'AR 100', 'boxes', 'true boxes'],
        [
            *(_percent(found[key]) for key in figures_of),
            str(found['boxes']),
            str(found['true_boxes']),
        ],
    ]
    note = (
        "pycocotools' box AP. The score of a box is its area over the image's, as in "
        "VisionReasoner's script."
    )
    return f'## COCO\n\n{_table(lines)}\n\n{note}'


def _bags(summary: Mapping[str, Any]) -> str:
    if 'bags' not in summary:
        return ''
    lines = [['bag', 'answers', 'scored', 'failed', 'gIoU', 'N-acc']]
    for name, row in summary['bags'].items():
        counts = (str(row[key]) for key in ('answers', 'scored', 'failed'))
        lines.append([name, *counts, *(_percent(row[key]) for key in ('giou', 'n_acc'))])
    return f'## By bag\n\n{_table(lines)}'


def _boxes(summary: Mapping[str, Any]) -> str:
    found = next(iter(summary['conventions'].values()))['figures']
    if not (found.get('boxes_alone') and found['predicted_boxes']) or 'coco' in summary:
        return ''
    lines = [
        ['samples', 'IoU of the first box', f'IoU above {IOU_OF_A_HIT}'],
        [str(found['with_box']), _percent(found['box_iou']), _percent(found['bbox_ap'])],
    ]
    return f'## Boxes\n\n{_table(lines)}'


def _decimal(value: float | None) -> str:
    return _DASH if value is None else f'{value:.3f}'


def _compared_with_published(
    summary: Mapping[str, Any], manifest: Mapping[str, Any], published: Sequence[Any]
) -> str:
    """Return the papers' table with the measured row, in percent."""
    lines = [['method', 'gIoU', 'cIoU', 'source']]
    for row in published:
        lines.append([row.method, _plain(row.giou), _plain(row.ciou), f'published: {row.source}'])
    name = leading(manifest)
    measured = summary['conventions'][name]['figures']
    giou, ciou = (
        f'**{_percent(measured[key])}** {_interval(summary, name, key)}'
        for key in ('giou', 'ciou')
    )
    lines.append([f'**{_models(manifest)}**', giou, ciou, f'**measured**, convention {name}'])
    return '## Published figures\n\n' + _table(lines) + _ablations(manifest)


def _ablations(manifest: Mapping[str, Any]) -> str:
    column = manifest['dataset']['published']
    if column not in ('refcocog_test', 'reasonseg_test'):
        return ''
    lines = [['Seg-Zero, tables 1 and 5', 'gIoU, published']]
    lines += [[row.what, _plain(getattr(row, column))] for row in ABLATIONS]
    return '\n\n' + _table(lines)


def _conventions(summary: Mapping[str, Any]) -> str:
    first = next(iter(summary['conventions'].values()))['figures']
    if 'points' in summary and not first['scored'] and not first.get('predicted_boxes'):
        return ''
    lines = [['convention', *_HEADINGS.values(), 'scored', 'failed', 'dropped']]
    for name, one in summary['conventions'].items():
        found = one['figures']
        cells = []
        for key in _HEADINGS:
            empty = key in _DENOMINATORS and not found.get(_DENOMINATORS[key])
            cells.append(
                _DASH if empty else f'{_percent(found[key])} {_interval(summary, name, key)}'
            )
        counts = (str(found[key]) for key in ('scored', 'failed', 'dropped'))
        lines.append([f'{name} ({one["source"]})', *(cell.strip() for cell in cells), *counts])
    note = 'In percent, with 95 % bootstrap intervals. The conventions: docs/evaluation.md.'
    if boxed := first.get('boxes_alone'):
        note += f' {boxed} samples have true boxes but no masks: they count only in bbox AP.'
    return f'## By convention\n\n{_table(lines)}\n\n{note}'


def _counting(summary: Mapping[str, Any]) -> str:
    found = next(iter(summary['conventions'].values()))['figures']
    if not found.get('counted'):
        return ''
    cells = [f'{found[key]:.3f}' for key in ('count_mae', 'count_rmse')]
    lines = [
        ['counted', 'correct', 'MAE', 'RMSE'],
        [str(found['counted']), _percent(found['count_accuracy']), *cells],
    ]
    return f'## Counts\n\n{_table(lines)}'


def _groups(summary: Mapping[str, Any]) -> str:
    lines = [['sentences', 'count', 'gIoU', 'wrong object', 'missed', 'not found', 'p50', 'p95']]
    for name, row in summary['groups'].items():
        times = summary['timing']['groups'][name]
        giou, wrong = (_percent_with_interval(row, key) for key in ('giou', 'wrong_object'))
        shares = (row[key] for key in ('missed', 'not_found'))
        milliseconds = (f'{times[key]:.0f} ms' for key in ('p50_ms', 'p95_ms'))
        cells = (giou, wrong, *map(_percent, shares), *milliseconds)
        lines.append([name, str(row['sentences']), *cells])
    return f'## By sentence\n\n{_table(lines)}'


def _percent_with_interval(row: Mapping[str, float | None], key: str) -> str:
    """Return a fraction of one kind of sentence, with its interval."""
    if row[key] is None:
        return _DASH
    low, high = _percent(row[f'{key}_low']), _percent(row[f'{key}_high'])
    return f'{_percent(row[key])} ({low} to {high})'


def _timing(summary: Mapping[str, Any]) -> str:
    lines = [['seconds', 'mean', 'median', '90 %', '99 %', 'max']]
    for stage, spread in summary['timing'].items():
        if stage != 'groups' and spread:
            lines.append([stage, *(f'{value:.3f}' for value in spread.values())])
    if summary['tokens'].get('max'):
        lines.append(['tokens', *(f'{value:.0f}' for value in summary['tokens'].values())])
    return f'## Per query\n\n{_table(lines)}'


def _table(lines: Sequence[Sequence[str]]) -> str:
    head, *body = ('| ' + ' | '.join(line) + ' |' for line in lines)
    rule = '|' + '---|' * len(lines[0])
    return '\n'.join([head, rule, *body])


def _percent(share: float | None) -> str:
    return _DASH if share is None else f'{100 * share:.1f}'


def _plain(percent: float | None) -> str:
    return _DASH if percent is None else f'{percent:.1f}'


def _interval(summary: Mapping[str, Any], convention: str, figure: str) -> str:
    between = summary['conventions'][convention]['intervals_95'].get(figure)
    return f'({_percent(between[0])} to {_percent(between[1])})' if between else ''
