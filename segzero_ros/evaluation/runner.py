"""Ask every sample of a data set, write what came of it line by line, go on where it stopped.

A run lives in a folder: `manifest.json` says what is asked by what, `items….jsonl` holds the
answers, `pictures/` a small picture of each. Figures are computed from the lines alone, so a run
that was interrupted, or split into shards and joined, has the figures of one that was not.
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
from segzero_ros.evaluation.samples import Dataset, Sample
from segzero_ros.pipeline import Listeners, Pipeline
from segzero_ros.reasoning.base import IsCancelled, never
from segzero_ros.types import GroundedObject, Query, SegZeroError

# Raise it when the same answers give other lines, so that no old half is continued.
_FORMAT = 2
# So many crashes in a row mean that the models are gone, not that samples are hard.
MOST_CRASHES = 5
# So many samples per pipeline are read before the first of them is answered.
_AHEAD = 2
_END = '{"end": true}'
_ITEMS = re.compile(r'items(?:-(\d+)-of-(\d+))?\.jsonl')

OnRow = Callable[[int, SampleRecord], None]


class RunError(SegZeroError):
    """A run cannot be made, continued or joined; the text names the cause and the cure."""


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of `parts` of a data set, contiguous."""

    number: int = 1
    parts: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard that `2/8` means."""
        match = re.fullmatch(r'(\d+)/(\d+)', text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise RunError(f'A shard is i/n with i from 1 to n, such as 2/8; {text!r} is none.')
        return cls(int(match[1]), int(match[2]))

    def indices(self, total: int) -> range:
        """Return the indices of this part."""
        return range(total * (self.number - 1) // self.parts, total * self.number // self.parts)

    @property
    def file(self) -> str:
        """Return the name of the lines' file."""
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
        """Make the folder, or take one of a run of the same.

        Raises:
            RunError: it holds a run of something else.
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
                f'{self.path} holds a run of another data set or other models: name another '
                'folder with --output, or begin anew with --restart.'
            )

    def manifest(self) -> dict[str, Any]:
        """Return what is asked by what."""
        try:
            content = json.loads(self._manifest.read_text(encoding='utf-8'))
        except (OSError, ValueError) as error:
            raise RunError(f'{self.path} holds no run: {error}') from error
        if not isinstance(content, dict):
            raise RunError(f'{self._manifest} holds no manifest.')
        return content

    def _files(self) -> list[Path]:
        paths = sorted(self.path.glob('items*.jsonl'))
        return [path for path in paths if _ITEMS.fullmatch(path.name)]

    def rows(self) -> tuple[list[SampleRecord], bool]:
        """Return all answers by index, and whether they are all there."""
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

    def picture(self, index: int) -> Path:
        """Return where the picture of a sample is."""
        return self.pictures / f'{index:06d}.jpg'


def _replace(path: Path, text: str) -> None:
    """Write a file so that it is never there in part."""
    new = path.with_name(f'{path.name}.new')
    new.write_text(text, encoding='utf-8')
    new.replace(path)


def _read_lines(path: Path) -> tuple[list[SampleRecord], bool, int]:
    """Return the rows, whether the end is marked, and how many bytes are good."""
    rows: list[SampleRecord] = []
    good = 0
    with path.open('rb') as lines:
        for line in lines:
            if not line.endswith(b'\n'):
                break
            good += len(line)
            text = line.decode('ascii')
            if text.strip() == _END:
                return rows, True, good
            rows.append(from_line(text))
    return rows, False, good


def run(
    dataset: Dataset,
    pipelines: Sequence[Pipeline],
    folder: RunFolder,
    shard: Shard = Shard(),
    limit: int | None = None,
    on_row: OnRow = lambda *_: None,
) -> None:
    """Ask the samples that have no answer in the folder yet.

    Args:
        dataset: what is asked.
        pipelines: answer, each one question at a time; their models stay loaded.
        folder: of the run, begun.
        shard: which part of the data set.
        limit: how many indices of the data set count; None for all.
        on_row: hears each new answer, with how many indices of this shard are done.

    Raises:
        RunError: the models crash on one sample after the other.
        DataError: the data set cannot be read.
    """
    indices = shard.indices(_total(dataset, limit))
    path = folder.path / shard.file
    with _opened(path) as lines:
        rows, ended, good = _read_lines(path)
        if ended:
            return
        begin = rows[-1].index + 1 if rows else indices.start
        lines.truncate(good)
        lines.seek(good)
        crashes: list[SampleRecord] = []
        samples = dataset.read(range(begin, indices.stop))
        with closing(ask_all(samples, pipelines, folder)) as answered:
            for row in answered:
                crashes = _keep(lines, row, crashes)
                on_row(row.index + 1 - indices.start, row)
        _write(lines, [*map(to_line, crashes), _END])


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file of lines for this process alone."""
    path.touch()
    with path.open('r+b') as lines:
        try:
            fcntl.flock(lines, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f'Another process is writing {path}.') from error
        yield lines


def _total(dataset: Dataset, limit: int | None) -> int:
    return len(dataset) if limit is None else min(limit, len(dataset))


def _keep(lines: BinaryIO, row: SampleRecord, crashes: list[SampleRecord]) -> list[SampleRecord]:
    """Write a row and the crashes before it, or keep it until it is known to be the exception."""
    crashes = [*crashes, row]
    if row.item.failure is not Failure.CRASH:
        _write(lines, map(to_line, crashes))
        return []
    if len(crashes) == MOST_CRASHES:
        raise RunError(
            f'The models failed {MOST_CRASHES} times in a row, at last with: {row.message} '
            'Run the same command again to go on from there.'
        )
    return crashes


def _write(lines: BinaryIO, texts: Iterable[str]) -> None:
    lines.writelines(f'{text}\n'.encode('ascii') for text in texts)
    lines.flush()


def ask_all(
    samples: Iterator[tuple[int, Sample]], pipelines: Sequence[Pipeline], folder: RunFolder | None
) -> Generator[SampleRecord, None, None]:
    """Yield the answers in the samples' order; all pipelines work at the same time.

    Args:
        samples: with their indices; a few are read ahead.
        pipelines: answer, each one question at a time.
        folder: where pictures of the answers go; None for none.
    """
    free: SimpleQueue[Pipeline] = SimpleQueue()
    for pipeline in pipelines:
        free.put(pipeline)
    stop = threading.Event()

    def work(index: int, sample: Sample) -> SampleRecord:
        pipeline = free.get()
        try:
            return ask(pipeline, folder, index, sample, stop.is_set)
        finally:
            free.put(pipeline)

    waiting: deque[Future[SampleRecord]] = deque()
    with ThreadPoolExecutor(len(pipelines), 'asking') as pool:
        try:
            for index, sample in samples:
                waiting.append(pool.submit(work, index, sample))
                # Answers are written in order, so one that takes long would hold up the others.
                while len(waiting) > _AHEAD * len(pipelines):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # After an interruption the models stop in the middle of what nobody waits for.
            stop.set()
            for future in waiting:
                future.cancel()


def ask(
    pipeline: Pipeline,
    folder: RunFolder | None,
    index: int,
    sample: Sample,
    cancelled: IsCancelled = never,
) -> SampleRecord:
    """Ask one sample, with nothing remembered of the sample before."""
    objects: list[GroundedObject] = []
    pipeline.forget_frame()
    query = Query(sample.text, str(index))
    listeners = Listeners(on_object=objects.append)
    answer = pipeline.answer(sample.frame, query, listeners, cancelled)
    row, prediction = make_record(index, sample, answer, objects)
    if folder is not None:
        _draw(folder, index, sample, prediction)
    return row


def _draw(folder: RunFolder, index: int, sample: Sample, prediction: Prediction) -> None:
    folder.picture(index).write_bytes(draw_comparison(sample, prediction))


def merge(sources: Sequence[Path], folder: RunFolder) -> None:
    """Join the shards of several folders, run apart, into one.

    Raises:
        RunError: they are not of the same run.
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
            f'{len(rows)} answers are joined, but shards are missing or not finished: run them, '
            'then merge again.'
        )
