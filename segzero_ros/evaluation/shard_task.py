"""One shard of an evaluation: what it is made from, and its run in any process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from segzero_ros.evaluation.concurrency import load_pipelines
from segzero_ros.evaluation.datasets import open_dataset
from segzero_ros.evaluation.measurements import Failure
from segzero_ros.evaluation.records import SampleRecord
from segzero_ros.evaluation.runner import indices_of, run, RunFolder, Shard
from segzero_ros.evaluation.samples import Dataset, recording_starts
from segzero_ros.evaluation.tabletop import Tabletop
from segzero_ros.loading import ReasonerOptions, SegmenterOptions
from segzero_ros.replay.bags_extra import require_bags
from segzero_ros.sharding.base import Progress, Report, ShardTask
from segzero_ros.sharding.needs import absolute_if_path, heavy_models, local_models

# Parts for each worker, so that one that is done early takes more; at least so many samples each.
_PARTS_PER_WORKER = 4
_MIN_SAMPLES = 8


@dataclass(frozen=True)
class Source:
    """A data set by its name, and how to open it.

    Attributes:
        name: see `open_dataset`; unused with `bags` or `scenes`.
        bags: bags with their truths in the folder `truth`, as one data set.
        scenes: the generated scenes.
        offline: see `open_dataset`, as are the others.
    """

    name: str = ''
    bags: tuple[Path, ...] = ()
    scenes: Tabletop | None = None
    offline: bool = False
    pictures: Path | None = None
    truth: Path | None = None
    image: str = ''
    published_prompt: bool = False

    def open(self) -> Dataset:
        """Open the data set; raise DataError if that is not possible."""
        if self.scenes is not None:
            return self.scenes
        if self.bags:
            with require_bags():
                from segzero_ros.evaluation.bags_with_truth import BagsWithTruth
            assert self.truth is not None
            return BagsWithTruth(self.bags, self.truth, self.image)
        return open_dataset(
            self.name,
            offline=self.offline,
            pictures=self.pictures,
            truth=self.truth,
            image=self.image,
            published_prompt=self.published_prompt,
        )

    def absolute(self) -> Source:
        """Return it with absolute paths, for processes with another working directory."""
        return replace(
            self,
            name=absolute_if_path(self.name),
            bags=tuple(path.absolute() for path in self.bags),
            pictures=self.pictures and self.pictures.absolute(),
            truth=self.truth and self.truth.absolute(),
        )

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files and folders that it consists of."""
        named = (Path(self.name),) if self.name else ()
        given = (*self.bags, *named, self.pictures, self.truth)
        return tuple(path for path in given if path is not None and path.exists())


@dataclass(frozen=True)
class EvaluationTask:
    """A shard of an evaluation.

    Attributes:
        source: the data set.
        reasoner: options of the reasoner.
        segmenter: options of the segmenter.
        folder: of the run, after `RunFolder.begin`.
        shard: part of the data set.
        limit: use only this many indices of the data set; None for all.
        task: see `runner.run`.
        concurrency: queries in flight.
        agent: whether the models search in turns.
    """

    source: Source
    reasoner: ReasonerOptions
    segmenter: SegmenterOptions
    folder: Path
    shard: Shard
    limit: int | None = None
    task: str = ''
    concurrency: int = 1
    agent: bool = False


def evaluate_shard(
    evaluation: EvaluationTask, report: Report, dataset: Dataset | None = None
) -> None:
    """Answer the samples of a shard that have no answer in the folder yet.

    Args:
        evaluation: the shard.
        report: called after each answer, with a sentence if it failed.
        dataset: the open data set; None to open it.

    Raises:
        SegZeroError: data set or models cannot be used.
    """
    dataset = evaluation.source.open() if dataset is None else dataset
    total = len(indices_of(dataset, evaluation.shard, evaluation.limit))

    def on_row(done: int, row: SampleRecord) -> None:
        failed = row.item.failure is not Failure.NONE
        report(Progress(done, total, f'#{row.index}: {row.message}' if failed else ''))

    folder = RunFolder(evaluation.folder)
    models = evaluation.reasoner, evaluation.segmenter
    with load_pipelines(*models, evaluation.concurrency, agent=evaluation.agent) as pipelines:
        run(
            dataset,
            pipelines,
            folder,
            evaluation.shard,
            evaluation.limit,
            on_row,
            evaluation.task,
        )


def shards_of(evaluation: EvaluationTask, dataset: Dataset, workers: int) -> list[Shard]:
    """Return the shards to divide an evaluation into.

    Several bags are a shard each. Otherwise there are more shards than workers, except for models
    that take long to load.

    Args:
        evaluation: the whole.
        dataset: its data set.
        workers: number of shards that run at a time.
    """
    total = len(indices_of(dataset, limit=evaluation.limit))
    starts = recording_starts(dataset)
    if starts is not None:
        parts = sum(start < total for start in starts)
    else:
        backends = evaluation.reasoner.backend, evaluation.segmenter.backend
        parts = workers if heavy_models(*backends) else workers * _PARTS_PER_WORKER
        parts = min(parts, total // _MIN_SAMPLES)
    parts = max(parts, 1)
    return [Shard(number, parts) for number in range(1, parts + 1)]


def shard_task(evaluation: EvaluationTask, shard: Shard) -> ShardTask:
    """Return a shard of an evaluation for the executor."""
    source = evaluation.source.absolute()
    reasoner, segmenter = evaluation.reasoner, evaluation.segmenter
    reasoner = replace(reasoner, model=absolute_if_path(reasoner.model))
    segmenter = replace(segmenter, model=absolute_if_path(segmenter.model))
    part = replace(
        evaluation,
        source=source,
        reasoner=reasoner,
        segmenter=segmenter,
        folder=evaluation.folder.absolute(),
        shard=shard,
    )
    reads = (*source.paths, *local_models(reasoner, segmenter))
    name = f'shard {shard.number}/{shard.parts}'
    return ShardTask(name, f'{__name__}:{evaluate_shard.__name__}', part, reads)
