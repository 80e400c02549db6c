"""The output folder of a replay, and the state of an interrupted one."""

from __future__ import annotations

from collections.abc import Iterator
import json
from pathlib import Path
import shutil
from typing import Any

from segzero_ros.replay.bag_folder import REPLAY
from segzero_ros.replay.records import from_line, Record
from segzero_ros.types import SegZeroError

_COMPLETE, _OUTPUTS = 'complete', 'outputs'


class OutputError(SegZeroError):
    """The folder cannot be written to; the message has the reason and a hint."""


class ReplayOutput:
    """The files of a replay.

    Attributes:
        path: the folder.
        bag: the bag with the results.
        overlays: one image for each answer.
        clouds: the points of each answer's frame until the bag is written; see `CloudFiles`.
        video: of the overlays.
        results: one line for each answer, see `records`.
        timings: one line for each answer, in seconds.
        report: HTML report.
        work: unfinished files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bag = path / 'bag'
        self.overlays = path / 'overlays'
        self.clouds = path / 'clouds'
        self.video = path / 'video.mp4'
        self.results = path / 'results.jsonl'
        self.timings = path / 'timings.jsonl'
        self.report = path / 'report.html'
        self.work = path / '.work'
        self._manifest = path / REPLAY

    def begin(self, manifest: dict[str, Any], *, restart: bool, clouds: bool = False) -> int:
        """Prepare the folder; return the number of answers of an interrupted replay.

        A finished replay is replaced; an interrupted one of the same bag, queries and models is
        resumed.

        Args:
            manifest: bag, topics, queries and models.
            restart: whether to replace an interrupted replay.
            clouds: whether there will be clouds.

        Raises:
            OutputError: the folder contains something else.
        """
        before = self._read_manifest()
        if before is None or restart or before.pop(_COMPLETE, False) or not self._answered():
            self._clear(known=before is not None)
            done = 0
        elif before != manifest:
            raise OutputError(
                f'{self.path} contains an interrupted replay with '
                f'{_difference(before, manifest)}: choose another --output, or use --restart.'
            )
        else:
            done = self._cut_half_lines()
        self._write_manifest(manifest, complete=False)
        shutil.rmtree(self.work, ignore_errors=True)
        self.overlays.mkdir(exist_ok=True)
        if clouds:
            self.clouds.mkdir(exist_ok=True)
        self.work.mkdir()
        return done

    def has_finished(self, manifest: dict[str, Any], outputs: dict[str, Any]) -> bool:
        """Return whether the folder has this replay, finished, with these outputs."""
        return self._read_manifest() == {**manifest, _OUTPUTS: outputs, _COMPLETE: True}

    def finish(self, manifest: dict[str, Any], outputs: dict[str, Any]) -> None:
        """Mark the replay as complete.

        Args:
            manifest: bag, topics, queries and models.
            outputs: what was written, and how.
        """
        for folder in (self.work, self.clouds):
            shutil.rmtree(folder, ignore_errors=True)
        self._write_manifest({**manifest, _OUTPUTS: outputs}, complete=True)

    def overlay(self, number: int) -> Path:
        """Return the path of an answer's overlay, by its number from 0."""
        return self.overlays / f'{number + 1:06d}.png'

    def cloud(self, number: int) -> Path:
        """Return the path of the points of an answer's frame, by its number from 0."""
        return self.clouds / f'{number + 1:06d}.npy'

    def move_bag(self, finished: Path) -> None:
        """Move the finished bag to its final path, and replace one of an interrupted replay."""
        shutil.rmtree(self.bag, ignore_errors=True)
        finished.replace(self.bag)

    def remove_overlays(self) -> None:
        """Remove the overlays after the video and the report were made from them."""
        shutil.rmtree(self.overlays)

    def records(self) -> Iterator[Record]:
        """Yield the answers in the order of the queries."""
        with self.results.open(encoding='ascii') as lines:
            for line in lines:
                yield from_line(line)

    def _answered(self) -> bool:
        """Return whether there is an answer to resume after."""
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
        """Remove an earlier replay, and only that."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f'{self.path} cannot be created: {error.strerror}.') from error
        if not known and any(self.path.iterdir()):
            raise OutputError(
                f'{self.path} is not empty, and not a replay: choose another --output.'
            )
        for folder in (self.bag, self.overlays, self.clouds, self.work):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.results, self.timings, self.report, self.video):
            file.unlink(missing_ok=True)

    def _cut_half_lines(self) -> int:
        """Remove incomplete last lines; return the number of complete lines in both files."""
        complete = []
        for file in (self.results, self.timings):
            lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
            complete.append([line for line in lines if line.endswith(b'\n')])
        done = min(map(len, complete))
        for file, lines in zip((self.results, self.timings), complete, strict=True):
            file.write_bytes(b''.join(lines[:done]))
        return done


def _difference(before: dict[str, Any], after: dict[str, Any]) -> str:
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return f'another {", ".join(names)}'
