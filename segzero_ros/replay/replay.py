"""Replay a bag: answer its queries and write the outputs of `segzero replay`.

An interrupted replay is resumed after its last answer. All outputs are made from the lines of the
answers, so they have the same bytes as without an interruption. Bag and video are written while
queries are answered, the report at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
import hashlib
import json
from pathlib import Path
import threading
from typing import Any

from segzero_ros.config import load_pipeline, reasoner_options, segmenter_options
from segzero_ros.loading import described
from segzero_ros.replay.answer_log import AnswerLog
from segzero_ros.replay.bag import BagMessage, BagReader
from segzero_ros.replay.bag_frames import BagFrames
from segzero_ros.replay.cloud_files import CloudFiles
from segzero_ros.replay.output import ReplayOutput
from segzero_ros.replay.overlay_files import OverlayFiles
from segzero_ros.replay.query_file import QueryPlan, TimedQuery
from segzero_ros.replay.records import from_line
from segzero_ros.replay.report import write_report
from segzero_ros.replay.results_bag import write_bag
from segzero_ros.replay.runner import OnAnswer, ReplayRunner
from segzero_ros.replay.schedule import QuerySchedule, ScheduleLimits
from segzero_ros.replay.topics import find_topics, Topics
from segzero_ros.replay.video import write_video
from segzero_ros.replay.workers import AnswerFiles, count_workers, WorkerPool
from segzero_ros.types import S_TO_NS, SegZeroError

# Increase it when the same bag and models give other bytes, so that old replays are not resumed.
_FORMAT = 4
# Overlays that are cached for the video; others are read from their files.
_RECENT = 4
OUTPUTS = ('bag', 'originals', 'overlays', 'video', 'report')


class NothingToAsk(SegZeroError):
    """There are no queries; the message says how to give some."""


@dataclass(frozen=True)
class ReplayOptions:
    """Options of a replay.

    Attributes:
        plan: the queries; None for the recorded ones.
        image: topic of the colour images; empty to detect it, as for the other topics.
        depth: topic of the depth images.
        camera_info: topic of the intrinsics.
        query_topic: topic of the recorded queries.
        rate: playback rate, 1 for real time; 0 for as fast as possible.
        namespace: of the result topics.
        overlay_topic: whether to write the overlays to the bag.
        clouds: whether to write the clouds to the bag.
        without: outputs of OUTPUTS to omit.
        restart: whether to replace an interrupted replay.
        workers: number of processes that answer; 0 to choose it for the models.
        keep_finished: whether to keep a finished replay with the same outputs, instead of
            replacing it.
    """

    plan: QueryPlan | None = None
    image: str = ''
    depth: str = ''
    camera_info: str = ''
    query_topic: str = ''
    rate: float = 0.0
    namespace: str = '/segzero'
    overlay_topic: bool = False
    clouds: bool = False
    without: frozenset[str] = field(default=frozenset())
    restart: bool = False
    workers: int = 1
    keep_finished: bool = False

    @property
    def outputs(self) -> dict[str, Any]:
        """What is written, and how; for the manifest of a finished replay."""
        return {
            'without': sorted(self.without),
            'namespace': self.namespace,
            'overlay_topic': self.overlay_topic,
        }


@dataclass(frozen=True)
class ReplayListener:
    """Callbacks for the progress of a replay.

    Attributes:
        on_warning: called with a sentence.
        on_begin: called with the number of existing answers, and of all answers (0: unknown).
        on_answer: called after each answer.
        on_write: called with the name of the output that is being written.
    """

    on_warning: Callable[[str], None] = lambda _: None
    on_begin: Callable[[int, int], None] = lambda *_: None
    on_answer: OnAnswer = lambda *_: None
    on_write: Callable[[str], None] = lambda _: None


def replay(
    path: Path,
    output: Path,
    parameters: Mapping[str, Any],
    replay_options: ReplayOptions = ReplayOptions(),
    listener: ReplayListener = ReplayListener(),
) -> ReplayOutput:
    """Replay a bag into a folder.

    Args:
        path: the bag.
        output: the folder; an interrupted replay of the same bag is resumed.
        parameters: of the node, as from `config.read_profile`.
        replay_options: queries, topics and outputs.
        listener: callbacks for the progress.

    Returns:
        The output folder.

    Raises:
        SegZeroError: the replay failed; the message has the reason and a hint.
    """
    with BagReader(path, salvage=True) as bag:
        topics = find_topics(
            bag,
            replay_options.image,
            replay_options.depth,
            replay_options.camera_info,
            replay_options.query_topic,
        )
        plan = replay_options.plan or _recorded(bag, topics)
        folder = ReplayOutput(output)
        manifest = _manifest(bag, topics, plan, parameters)
        with_clouds = replay_options.clouds and 'bag' not in replay_options.without
        if with_clouds:
            manifest['clouds'] = True
        if (
            replay_options.keep_finished
            and not replay_options.restart
            and folder.has_finished(manifest, replay_options.outputs)
        ):
            return folder
        done = folder.begin(manifest, restart=replay_options.restart, clouds=with_clouds)
        schedule = QuerySchedule(
            topics, plan, _limits(parameters), bag.span_ns[0], partial(_recorded_query, bag)
        )
        expected = _expected(bag, topics, plan)
        wanted = 1 if replay_options.rate else replay_options.workers
        count = count_workers(parameters, wanted, expected - done)
        overlays = OverlayFiles(folder, 0 if 'video' in replay_options.without else _RECENT)
        files = AnswerFiles(overlays, CloudFiles(folder) if with_clouds else None)
        stopped = threading.Event()
        warnings: list[str] = []
        with ThreadPoolExecutor(2, 'writers') as writers, ExitStack() as stack:
            stack.callback(stopped.set)
            with AnswerLog(folder, done) as log, closing(load_pipeline(parameters)) as pipeline:
                writing: list[tuple[Path, Future[list[str]] | Future[None]]] = []
                if 'bag' not in replay_options.without:
                    new_bag = writers.submit(_write_bag, path, folder, replay_options, log)
                    writing.append((folder.bag, new_bag))
                if 'video' not in replay_options.without:
                    video = writers.submit(
                        write_video,
                        folder,
                        overlays,
                        log.follow(),
                        _rate(bag, expected),
                        partial(_rate, bag),
                        stopped.is_set,
                    )
                    writing.append((folder.video, video))
                pool = WorkerPool(count - 1, parameters, folder, clouds=with_clouds)
                with closing(pool) as workers:
                    listener.on_begin(done, expected)
                    frames = BagFrames(bag, topics, parameters['advanced.max_pixels'])
                    runner = ReplayRunner(
                        bag, frames, pipeline, files, log, workers, replay_options.rate
                    )
                    runner.run(schedule, done, listener.on_answer)
                    warnings += filter(None, [workers.start_error])
            warnings += [*filter(None, [bag.damage]), *topics.warnings]
            if schedule.restarts:
                warnings.append(
                    f'The stamps of {topics.image} restart {_times(schedule.restarts)}.'
                )
            for output_path, future in writing:
                listener.on_write(output_path.name)
                warnings += future.result() or ()
        # Both readers of the bag report the same warnings.
        warnings = list(dict.fromkeys(warnings))
        if 'report' not in replay_options.without:
            listener.on_write(folder.report.name)
            write_report(folder, manifest, warnings)
        if 'overlays' in replay_options.without:
            folder.remove_overlays()
        for warning in warnings:
            listener.on_warning(warning)
        folder.finish(manifest, replay_options.outputs)
    return folder


def _rate(bag: BagReader, count: int) -> float:
    """Return the number of answers per second of the bag."""
    start_ns, end_ns = bag.span_ns
    return count * S_TO_NS / max(end_ns - start_ns, 1)


def _write_bag(
    path: Path, folder: ReplayOutput, replay_options: ReplayOptions, log: AnswerLog
) -> list[str]:
    """Write the bag with the results, using a separate reader; return warnings."""
    with BagReader(path, salvage=True) as source:
        warnings = write_bag(
            source,
            folder,
            map(from_line, log.follow()),
            replay_options.namespace,
            originals='originals' not in replay_options.without,
            overlays=replay_options.overlay_topic,
            clouds=replay_options.clouds,
        )
        return [*filter(None, [source.damage]), *warnings]


def _times(count: int) -> str:
    return 'once' if count == 1 else f'{count} times'


def _recorded(bag: BagReader, topics: Topics) -> QueryPlan:
    if not topics.queries:
        raise NothingToAsk(
            f'{bag.path} has no recorded queries: use --query TEXT or --queries FILE.'
        )
    return QueryPlan(recorded=True)


def _recorded_query(bag: BagReader, message: BagMessage) -> TimedQuery:
    """Return a query recorded on `query` or `typed_query`."""
    parsed = bag.parse(message)
    if hasattr(parsed, 'data'):
        return TimedQuery(str(parsed.data))
    return TimedQuery(str(parsed.text), str(parsed.id), task=str(parsed.task))


def _limits(parameters: Mapping[str, Any]) -> ScheduleLimits:
    return ScheduleLimits(
        round(parameters['camera.max_depth_offset'] * S_TO_NS),
        round(parameters['camera.max_image_age'] * S_TO_NS),
        max_pixels=parameters['advanced.max_pixels'],
    )


def _manifest(
    bag: BagReader, topics: Topics, plan: QueryPlan, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """Return everything that the answers depend on, without machine-specific data."""
    path = bag.path
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    reasoner = reasoner_options(parameters.__getitem__)
    segmenter = segmenter_options(parameters.__getitem__)
    return {
        'format': _FORMAT,
        'bag': {'name': path.name, 'files': [[file.name, file.stat().st_size] for file in files]},
        'topics': {
            'image': topics.image,
            'depth': topics.depth,
            'camera_info': topics.camera_info,
            'query': topics.queries if plan.recorded else '',
        },
        'queries': hashlib.sha256(json.dumps(asdict(plan)).encode()).hexdigest(),
        'models': {'reasoner': described(reasoner), 'segmenter': described(segmenter)},
        'limits': asdict(_limits(parameters)),
    }


def _expected(bag: BagReader, topics: Topics, plan: QueryPlan) -> int:
    """Return the expected number of answers."""
    if plan.recorded:
        return bag.counts[topics.queries]
    frames = bag.counts[topics.image]
    if plan.every_ns:
        start_ns, end_ns = bag.span_ns
        frames = min(frames, (end_ns - start_ns) // plan.every_ns + 1)
    return frames * len(plan.texts) + len(plan.asks)
