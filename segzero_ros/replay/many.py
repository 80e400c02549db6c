"""Replays of several bags: each in a folder of its own, as its replay alone would write it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segzero_ros.config import reasoner_options, segmenter_options
from segzero_ros.replay.bag_folder import NamedBag
from segzero_ros.replay.replay import replay, ReplayListener, ReplayOptions
from segzero_ros.sharding.base import Progress, Report, ShardTask
from segzero_ros.sharding.needs import absolute_if_path, local_models
from segzero_ros.types import Answer


@dataclass(frozen=True)
class BagReplay:
    """The replay of one of several bags.

    Attributes:
        bag: its file or folder.
        output: folder for its results.
        parameters: of the node, as from `config.read_profile`.
        replay_options: queries, topics and outputs.
    """

    bag: Path
    output: Path
    parameters: Mapping[str, Any]
    replay_options: ReplayOptions


def replay_bag(one: BagReplay, report: Report) -> dict[str, int]:
    """Replay a bag, unless its replay is finished; return the numbers of answers by status.

    Args:
        one: the replay.
        report: called after each answer, and with each warning.

    Raises:
        SegZeroError: the replay failed; the message has the reason and a hint.
    """
    total = 0

    def begin(done: int, expected: int) -> None:
        nonlocal total
        total = expected
        report(Progress(done, total))

    def answered(number: int, answer: Answer) -> None:
        report(Progress(number + 1, total))

    listener = ReplayListener(
        on_warning=lambda text: report(Progress(note=text)),
        on_begin=begin,
        on_answer=answered,
    )
    folder = replay(one.bag, one.output, one.parameters, one.replay_options, listener)
    counts = Counter(record.answer.status for record in folder.records())
    return {status.name: counts[status] for status in sorted(counts)}


def replay_task(
    bag: NamedBag, output: Path, parameters: Mapping[str, Any], replay_options: ReplayOptions
) -> ShardTask:
    """Return the replay of one of several bags for the executor.

    Args:
        bag: the bag.
        output: folder for the results of all bags.
        parameters: of the node.
        replay_options: queries, topics and outputs.
    """
    absolute = {
        name: absolute_if_path(parameters[name]) for name in ('reasoner.model', 'segmenter.model')
    }
    value = {**parameters, **absolute}
    one = BagReplay(
        bag.path,
        output.absolute() / bag.name,
        value,
        replace(replay_options, workers=1, keep_finished=True),
    )
    models = local_models(reasoner_options(value.get), segmenter_options(value.get))
    work = f'{__name__}:{replay_bag.__name__}'
    return ShardTask(bag.name, work, one, (bag.path, *models))
