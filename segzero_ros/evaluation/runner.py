"""Resumable evaluation runs: answer every sample of a data set, one JSON line each.

In a run's folder, `manifest.json` holds data set and models, `items….jsonl` the answers,
`pictures/` a small image of each. Metrics are computed from the lines only, so interrupted runs
and merged shards have the same metrics as an uninterrupted run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
import fcntl
import json
from pathlib import Path
from queue import SimpleQueue
import re
import shutil
import threading
from typing import Any, BinaryIO

from segzero_ros.evaluation.gallery import draw_comparison
from segzero_ros.evaluation.measurements import Failure, Prediction
from segzero_ros.evaluation.records import from_line, make_record, SampleRecord, to_line
from segzero_ros.evaluation.samples import Dataset, recording_starts, Sample
from segzero_ros.pipeline import Listeners, Pipeline
from segzero_ros.reasoning.base import IsCancelled, never
from segzero_ros.types import Answer, GroundedObject, Query, SegZeroError, Status, Task, task_named

# Increase it when the format of the lines changes, so that old runs are not resumed.
_FORMAT = 3
# After this many crashes in a row, the models are assumed to be broken.
MAX_CRASHES = 5
# Samples per pipeline to read ahead.
_READ_AHEAD = 2
_END = '{"end": true}'
_ITEMS = re.compile(r'items(?:-(\d+)-of-(\d+))?\.jsonl')
# The beginning of an answer's line, as `to_line` writes it.
_INDEX = re.compile(rb'\{"index": (\d+),')

OnRow = Callable[[int, SampleRecord], None]


class RunError(SegZeroError):
    """A run cannot be started, resumed or merged; the message has the reason and a hint."""


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of `parts` of a data set, contiguous."""

    number: int = 1
    parts: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard of a text such as `2/8`."""
        match = re.fullmatch(r'(\d+)/(\d+)', text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise RunError(f'{text!r} is not a shard: write I/N with I from 1 to N, such as 2/8.')
        return cls(int(match[1]), int(match[2]))

    def indices(self, total: int, starts: Sequence[int] | None = None) -> range:
        """Return the indices of this part.

        Args:
            total: number of indices of the data set.
            starts: the first index of each recording, see `recording_starts`; a part has whole
                recordings. None if any two samples may be separated.
        """
        edges: Sequence[int] = range(total + 1)
        if starts is not None:
            edges = [*(start for start in starts if start < total), total]
        pieces = len(edges) - 1
        first, last = (pieces * number // self.parts for number in (self.number - 1, self.number))
        return range(edges[first], edges[last])

    @property
    def file(self) -> str:
        """Return the name of the file with this shard's answers."""
        if self.parts == 1:
            return 'items.jsonl'
        return f'items-{self.number:03d}-of-{self.parts:03d}.jsonl'


class RunFolder:
    """The folder of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pictures = path / 'pictures'
        self._manifest = path / 'manifest.json'

    def begin(self, manifest: Mapping[str, Any], *, restart: bool = False) -> None:
        """Create the folder, or resume its run.

        Args:
            manifest: data set and models.
            restart: whether to remove an earlier run.

        Raises:
            RunError: it contains a run of another data set or other models.
        """
        if restart:
            for path in self._files():
                path.unlink()
            shutil.rmtree(self.pictures, ignore_errors=True)
            self._manifest.unlink(missing_ok=True)
        self.pictures.mkdir(parents=True, exist_ok=True)
        if not self._manifest.exists():
            text = json.dumps({'format': _FORMAT, **manifest}, indent=1)
            _replace(self._manifest, f'{text}\n')
            return
        if self.manifest() != {'format': _FORMAT, **manifest}:
            raise RunError(
                f'{self.path} contains a run of another data set or other models: choose another '
                'folder with --output, or replace it with --restart.'
            )

    def manifest(self) -> dict[str, Any]:
        """Return the manifest: data set and models."""
        try:
            content = json.loads(self._manifest.read_text(encoding='utf-8'))
        except (OSError, ValueError) as error:
            raise RunError(f'{self.path} contains no run: {error}') from error
        if not isinstance(content, dict):
            raise RunError(f'{self._manifest} is not a manifest.')
        return content

    def _files(self) -> list[Path]:
        paths = sorted(self.path.glob('items*.jsonl'))
        return [path for path in paths if _ITEMS.fullmatch(path.name)]

    def rows(self) -> tuple[list[SampleRecord], bool]:
        """Return all answers by index, and whether the run is complete."""
        rows: dict[int, SampleRecord] = {}
        complete: dict[int, set[int]] = {}
        for path in self._files():
            match = _ITEMS.fullmatch(path.name)
            assert match
            found, ended, _ = _read_lines(path)
            rows.update((row.index, row) for row in found)
            if ended:
                parts = int(match[2] or 1)
                complete.setdefault(parts, set()).add(int(match[1] or 1))
        whole = any(len(numbers) == parts for parts, numbers in complete.items())
        return [rows[index] for index in sorted(rows)], whole

    def has_finished(self, shard: Shard) -> bool:
        """Return whether all samples of a shard are answered."""
        path = self.path / shard.file
        return path.is_file() and path.read_bytes().endswith(f'{_END}\n'.encode('ascii'))

    def answered(self) -> set[int]:
        """Return the indices with an answer, whichever shard it is of."""
        found = set()
        for path in self._files():
            with path.open('rb') as lines:
                for line in lines:
                    match = _INDEX.match(line)
                    if match and line.endswith(b'\n'):
                        found.add(int(match[1]))
        return found

    def image_path(self, index: int) -> Path:
        """Return the path of a sample's image."""
        return self.pictures / f'{index:06d}.jpg'


def _replace(path: Path, text: str) -> None:
    """Write a file atomically."""
    new = path.with_name(f'{path.name}.new')
    new.write_text(text, encoding='utf-8')
    new.replace(path)


def _read_lines(path: Path) -> tuple[list[SampleRecord], bool, int]:
    """Return the records, whether the end is marked, and the number of valid bytes."""
    rows: list[SampleRecord] = []
    valid_bytes = 0
    with path.open('rb') as lines:
        for line in lines:
            if not line.endswith(b'\n'):
                break
            valid_bytes += len(line)
            text = line.decode('ascii')
            if text.strip() == _END:
                return rows, True, valid_bytes
            rows.append(from_line(text))
    return rows, False, valid_bytes


def run(
    dataset: Dataset,
    pipelines: Sequence[Pipeline],
    folder: RunFolder,
    shard: Shard = Shard(),
    limit: int | None = None,
    on_row: OnRow = lambda *_: None,
    task: str = '',
) -> None:
    """Answer the samples that have no answer in the folder yet.

    Args:
        dataset: the samples.
        pipelines: answer one query at a time each; they stay open.
        folder: of the run, after `begin`.
        shard: part of the data set.
        limit: use only this many indices of the data set; None for all.
        on_row: called for each new answer, with the number of finished indices of the shard.
        task: name of the task of all queries, one of types.TASK_NAMES; empty: what the data set
            asks for, and `segment` where the model cannot do that.

    Raises:
        RunError: the models failed several times in a row.
        DataError: the data set cannot be read.
    """
    indices = indices_of(dataset, shard, limit)
    path = folder.path / shard.file
    with _opened(path) as lines:
        rows, ended, valid_bytes = _read_lines(path)
        if ended:
            return
        begin = rows[-1].index + 1 if rows else indices.start
        lines.truncate(valid_bytes)
        lines.seek(valid_bytes)
        crashes: list[SampleRecord] = []
        # Runs in other numbers of shards may have answered some.
        answered = folder.answered()
        begin = next((i for i in range(begin, indices.stop) if i not in answered), indices.stop)
        samples = (
            (index, sample)
            for index, sample in dataset.read(range(begin, indices.stop))
            if index not in answered
        )
        with closing(answer_all(samples, pipelines, folder, task)) as rows_now:
            for row in rows_now:
                crashes = _write_or_hold(lines, row, crashes)
                on_row(row.index + 1 - indices.start, row)
        _write(lines, [*map(to_line, crashes), _END])


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open and lock a file of answers."""
    path.touch()
    with path.open('r+b') as lines:
        try:
            fcntl.flock(lines, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f'Another process is writing {path}.') from error
        yield lines


def indices_of(dataset: Dataset, shard: Shard = Shard(), limit: int | None = None) -> range:
    """Return the indices of a shard.

    Args:
        dataset: the samples.
        shard: part of the data set.
        limit: use only this many indices of the data set; None for all.
    """
    total = len(dataset) if limit is None else min(limit, len(dataset))
    return shard.indices(total, recording_starts(dataset))


def _write_or_hold(
    lines: BinaryIO, row: SampleRecord, crashes: list[SampleRecord]
) -> list[SampleRecord]:
    """Write a record and the crashes before it; hold back a crash until another answer follows."""
    crashes = [*crashes, row]
    if row.item.failure is not Failure.CRASH:
        _write(lines, map(to_line, crashes))
        return []
    if len(crashes) == MAX_CRASHES:
        raise RunError(
            f'The models failed {MAX_CRASHES} times in a row, the last time with: {row.message} '
            'Run the same command again to resume.'
        )
    return crashes


def _write(lines: BinaryIO, texts: Iterable[str]) -> None:
    lines.writelines(f'{text}\n'.encode('ascii') for text in texts)
    lines.flush()


def answer_all(
    samples: Iterator[tuple[int, Sample]],
    pipelines: Sequence[Pipeline],
    folder: RunFolder | None,
    task: str = '',
) -> Generator[SampleRecord, None, None]:
    """Yield the answers in the order of the samples, from all pipelines in parallel.

    Args:
        samples: with their indices; a few are read ahead.
        pipelines: answer one query at a time each.
        folder: for images of the answers; None for no images.
        task: of all queries, see `run`.
    """
    free: SimpleQueue[Pipeline] = SimpleQueue()
    for pipeline in pipelines:
        free.put(pipeline)
    stop = threading.Event()

    def work(index: int, sample: Sample) -> SampleRecord:
        pipeline = free.get()
        try:
            return answer_sample(pipeline, folder, index, sample, stop.is_set, task)
        finally:
            free.put(pipeline)

    waiting: deque[Future[SampleRecord]] = deque()
    with ThreadPoolExecutor(len(pipelines), 'evaluation') as pool:
        try:
            for index, sample in samples:
                waiting.append(pool.submit(work, index, sample))
                # Answers are yielded in order: read ahead while a slow one delays the others.
                while len(waiting) > _READ_AHEAD * len(pipelines):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # After an interruption, cancel the running queries.
            stop.set()
            for future in waiting:
                future.cancel()


def answer_sample(
    pipeline: Pipeline,
    folder: RunFolder | None,
    index: int,
    sample: Sample,
    cancelled: IsCancelled = never,
    task: str = '',
) -> SampleRecord:
    """Answer one sample, without cached data of the sample before.

    Args:
        pipeline: answers the query.
        folder: for an image of the answer; None for no image.
        index: of the sample.
        sample: the sample.
        cancelled: returns True to cancel the query.
        task: of the query, see `run`.
    """
    objects: list[GroundedObject] = []
    wanted = task_named(task) if task else sample.task

    def answered(as_task: Task | None) -> Answer:
        objects.clear()
        pipeline.forget_frame()
        query = Query(sample.text, str(index), as_task)
        listeners = Listeners(on_object=objects.append)
        return pipeline.answer(sample.frame, query, listeners, cancelled)

    answer = answered(wanted)
    if answer.status is Status.REJECTED and not task and wanted is not Task.SEGMENT:
        # A model that cannot do what the set asks for takes part with its masks and boxes.
        answer = answered(Task.SEGMENT)
    row, prediction = make_record(index, sample, answer, objects, routed=wanted is None)
    if folder is not None:
        _draw(folder, index, sample, prediction)
    return row


def _draw(folder: RunFolder, index: int, sample: Sample, prediction: Prediction) -> None:
    folder.image_path(index).write_bytes(draw_comparison(sample, prediction))


def merge(sources: Sequence[Path], folder: RunFolder) -> None:
    """Merge shards that ran in several folders into one.

    Args:
        sources: the folders of the shards.
        folder: the merged run.

    Raises:
        RunError: they belong to different runs, or shards are missing.
    """
    for source in map(RunFolder, sources):
        manifest = source.manifest()
        manifest.pop('format')
        folder.begin(manifest)
        for path in (*source._files(), *source.pictures.glob('*.jpg')):
            target = folder.path / path.relative_to(source.path)
            if path.resolve() != target.resolve():
                shutil.copyfile(path, target)
    rows, whole = folder.rows()
    if not whole:
        raise RunError(
            f'{len(rows)} answers are merged, but shards are missing or unfinished: run them, '
            'then merge again.'
        )
