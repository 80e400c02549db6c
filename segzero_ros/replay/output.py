"""The folder that a replay writes: what is in it, and how far an interrupted one came."""

from __future__ import annotations

from collections.abc import Iterator
import json
from pathlib import Path
import shutil
from typing import Any

from segzero_ros.replay.records import from_line, Record
from segzero_ros.types import SegZeroError

_COMPLETE = 'complete'


class OutputError(SegZeroError):
    """The folder cannot be written to; the text names the cause and the cure."""


class ReplayOutput:
    """What a replay writes.

    Attributes:
        path: the folder.
        bag: the bag with the results.
        overlays: one picture for each answer, by its number.
        video: the pictures one after another.
        results: one line for each answer, see `records`.
        timings: one line for each answer: what it took on this machine, in seconds.
        report: for people.
        work: what is not finished.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bag = path / 'bag'
        self.overlays = path / 'overlays'
        self.video = path / 'video.mp4'
        self.results = path / 'results.jsonl'
        self.timings = path / 'timings.jsonl'
        self.report = path / 'report.html'
        self.work = path / '.work'
        self._manifest = path / 'replay.json'

    def begin(self, manifest: dict[str, Any], *, restart: bool) -> int:
        """Make the folder ready; return how many answers of an interrupted replay it holds.

        A finished replay is replaced; an interrupted one of the same bag, queries and models is
        continued.

        Args:
            manifest: what is replayed, and how.
            restart: replace an interrupted one too.

        Raises:
            OutputError: it holds something else.
        """
        before = self._read_manifest()
        if before is None or restart or before.pop(_COMPLETE, False) or not self._answered():
            self._clear(known=before is not None)
            done = 0
        elif before != manifest:
            raise OutputError(
                f'{self.path} holds an interrupted replay of something else '
                f'({_difference(before, manifest)}): choose another --output, or --restart.'
            )
        else:
            done = self._cut_half_lines()
        self._write_manifest(manifest, complete=False)
        shutil.rmtree(self.work, ignore_errors=True)
        self.overlays.mkdir(exist_ok=True)
        self.work.mkdir()
        return done

    def finish(self, manifest: dict[str, Any]) -> None:
        """Say that all is there."""
        shutil.rmtree(self.work, ignore_errors=True)
        self._write_manifest(manifest, complete=True)

    def overlay(self, number: int) -> Path:
        """Return where the picture of an answer is, by its number from 0."""
        return self.overlays / f'{number + 1:06d}.png'

    def place_bag(self, made: Path) -> None:
        """Give the finished bag its name, in place of one from before an interruption."""
        shutil.rmtree(self.bag, ignore_errors=True)
        made.replace(self.bag)

    def remove_overlays(self) -> None:
        """Take away the pictures, when all that is made of them is there."""
        shutil.rmtree(self.overlays)

    def records(self) -> Iterator[Record]:
        """Give the answers, in the order in which they were asked."""
        with self.results.open(encoding='ascii') as lines:
            for line in lines:
                yield from_line(line)

    def _answered(self) -> bool:
        """Return whether there is anything to go on after."""
        return self.results.exists() and self.results.stat().st_size > 0

    def _read_manifest(self) -> dict[str, Any] | None:
        try:
            manifest: dict[str, Any] = json.loads(self._manifest.read_text(encoding='utf-8'))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise OutputError(f'{self._manifest} cannot be read: {error}') from error
        return manifest

    def _write_manifest(self, manifest: dict[str, Any], *, complete: bool) -> None:
        text = json.dumps({**manifest, _COMPLETE: complete}, indent=2) + '\n'
        beside = self._manifest.with_suffix('.tmp')
        beside.write_text(text, encoding='utf-8')
        beside.replace(self._manifest)

    def _clear(self, *, known: bool) -> None:
        """Take away an earlier replay, and nothing that is none."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f'{self.path} cannot be made: {error.strerror}.') from error
        if not known and any(self.path.iterdir()):
            raise OutputError(f'{self.path} is not empty, and no replay: choose another --output.')
        for folder in (self.bag, self.overlays, self.work):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.results, self.timings, self.report, self.video):
            file.unlink(missing_ok=True)

    def _cut_half_lines(self) -> int:
        """Drop what an interruption left of a last line; return how many are whole in both."""
        kept = []
        for file in (self.results, self.timings):
            lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
            kept.append([line for line in lines if line.endswith(b'\n')])
        done = min(map(len, kept))
        for file, lines in zip((self.results, self.timings), kept, strict=True):
            file.write_bytes(b''.join(lines[:done]))
        return done


def _difference(before: dict[str, Any], after: dict[str, Any]) -> str:
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return f'other {", ".join(names)}'
