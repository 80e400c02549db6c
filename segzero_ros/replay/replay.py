"""Replay a bag: ask, and write what comes of it. What `segzero replay` runs.

Asking can be interrupted and goes on where it was; everything else is written from the lines of
the answers, so an interrupted replay ends with the same bytes as one that was not. Bag and video
are written while queries are answered; the report needs all answers.
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
from segzero_ros.replay.bag import BagReader
from segzero_ros.replay.bag_frames import BagFrames
from segzero_ros.replay.output import ReplayOutput
from segzero_ros.replay.overlay_files import OverlayFiles
from segzero_ros.replay.query_file import QueryPlan
from segzero_ros.replay.records import from_line
from segzero_ros.replay.report import write_report
from segzero_ros.replay.results_bag import write_bag
from segzero_ros.replay.runner import OnAnswer, ReplayRunner
from segzero_ros.replay.schedule import QuerySchedule, ScheduleLimits
from segzero_ros.replay.topics import find_topics, Topics
from segzero_ros.replay.video import write_video
from segzero_ros.replay.workers import count_workers, WorkerPool
from segzero_ros.types import S_TO_NS, SegZeroError

# Raise it when the same bag and models give other bytes, so that no old half is continued.
_FORMAT = 3
# Overlays that wait for the video in memory; more are read from their files.
_RECENT = 4
OUTPUTS = ('bag', 'originals', 'overlays', 'video', 'report')


class NothingToAsk(SegZeroError):
    """No query was given; the text says how to give one."""


@dataclass(frozen=True)
class ReplayOptions:
    """How a bag is replayed.

    Attributes:
        plan: what is asked; None for the queries that were recorded.
        image: the topic of the colour images; empty to find it. The same for the others.
        depth: the depth images' topic.
        camera_info: the intrinsics' topic.
        query_topic: the recorded queries' topic.
        rate: seconds of the bag that may pass in one; 0 for as many as can be done.
        namespace: of the results' topics.
        overlay_topic: whether the pictures of the answers are in the bag too.
        without: which of OUTPUTS are not made.
        restart: whether an interrupted replay is begun anew.
        workers: how many processes answer; 0 for as many as pay with these models.
    """

    plan: QueryPlan | None = None
    image: str = ''
    depth: str = ''
    camera_info: str = ''
    query_topic: str = ''
    rate: float = 0.0
    namespace: str = '/segzero'
    overlay_topic: bool = False
    without: frozenset[str] = field(default=frozenset())
    restart: bool = False
    workers: int = 1


@dataclass(frozen=True)
class ReplayListener:
    """Who wants to hear how a replay goes.

    Attributes:
        on_remark: a sentence for a person.
        on_begin: how many answers are there already, and how many there will be; 0: not known.
        on_answer: after each answer.
        on_write: what is written now.
    """

    on_remark: Callable[[str], None] = lambda _: None
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
        output: the folder; one with an interrupted replay of the same is continued.
        parameters: the node's, as `config.read_profile` gives them.
        replay_options: what is asked, and what is made of it.
        listener: hears how it goes.

    Returns:
        The folder with everything in it.

    Raises:
        SegZeroError: it cannot be done; the text names the cause and the cure.
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
        done = folder.begin(manifest, restart=replay_options.restart)
        jobs = QuerySchedule(
            topics, plan, _limits(parameters), bag.span_ns[0], lambda m: str(bag.parse(m).data)
        )
        expected = _expected(bag, topics, plan)
        wanted = 1 if replay_options.rate else replay_options.workers
        count = count_workers(parameters, wanted, expected - done)
        overlays = OverlayFiles(folder, 0 if 'video' in replay_options.without else _RECENT)
        stopped = threading.Event()
        remarks: list[str] = []
        with ThreadPoolExecutor(2, 'beside') as beside, ExitStack() as stack:
            stack.callback(stopped.set)
            with AnswerLog(folder, done) as log, closing(load_pipeline(parameters)) as pipeline:
                writing: list[tuple[Path, Future[list[str]] | Future[None]]] = []
                if 'bag' not in replay_options.without:
                    made = beside.submit(_write_bag, path, folder, replay_options, log)
                    writing.append((folder.bag, made))
                if 'video' not in replay_options.without:
                    film = beside.submit(
                        write_video,
                        folder,
                        overlays,
                        log.follow(),
                        _rate(bag, expected),
                        partial(_rate, bag),
                        stopped.is_set,
                    )
                    writing.append((folder.video, film))
                with closing(WorkerPool(count - 1, parameters, folder)) as workers:
                    listener.on_begin(done, expected)
                    frames = BagFrames(bag, topics, parameters['camera.max_pixels'])
                    runner = ReplayRunner(
                        bag, frames, pipeline, overlays, log, workers, replay_options.rate
                    )
                    runner.run(jobs, done, listener.on_answer)
                    remarks += filter(None, [workers.start_error])
            remarks += [*filter(None, [bag.damage]), *topics.remarks]
            if jobs.restarts:
                remarks.append(f'The stamps of {topics.image} start anew {_often(jobs.restarts)}.')
            for output_path, future in writing:
                listener.on_write(output_path.name)
                remarks += future.result() or ()
        # One sentence for what both readers of the bag found.
        remarks = list(dict.fromkeys(remarks))
        if 'report' not in replay_options.without:
            listener.on_write(folder.report.name)
            write_report(folder, manifest, remarks)
        if 'overlays' in replay_options.without:
            folder.remove_overlays()
        for remark in remarks:
            listener.on_remark(remark)
        folder.finish(manifest)
    return folder


def _rate(bag: BagReader, count: int) -> float:
    """Return answers per second of the bag."""
    start_ns, end_ns = bag.span_ns
    return count * S_TO_NS / max(end_ns - start_ns, 1)


def _write_bag(
    path: Path, folder: ReplayOutput, replay_options: ReplayOptions, log: AnswerLog
) -> list[str]:
    """Write the bag with the results, with a reader of its own; return remarks."""
    with BagReader(path, salvage=True) as source:
        remarks = write_bag(
            source,
            folder,
            map(from_line, log.follow()),
            replay_options.namespace,
            originals='originals' not in replay_options.without,
            overlays=replay_options.overlay_topic,
        )
        return [*filter(None, [source.damage]), *remarks]


def _often(count: int) -> str:
    return 'once' if count == 1 else f'{count} times'


def _recorded(bag: BagReader, topics: Topics) -> QueryPlan:
    if not topics.queries:
        raise NothingToAsk(
            f'{bag.path} holds no recorded queries: ask with --query TEXT, or --queries FILE.'
        )
    return QueryPlan(recorded=True)


def _limits(parameters: Mapping[str, Any]) -> ScheduleLimits:
    return ScheduleLimits(
        round(parameters['camera.max_depth_offset'] * S_TO_NS),
        round(parameters['camera.max_image_age'] * S_TO_NS),
        max_pixels=parameters['camera.max_pixels'],
    )


def _manifest(
    bag: BagReader, topics: Topics, plan: QueryPlan, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the answers depend on; nothing in it depends on the machine."""
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
    """Return how many answers there will be, as far as the bag tells."""
    if plan.recorded:
        return bag.counts[topics.queries]
    frames = bag.counts[topics.image]
    if plan.every_ns:
        start_ns, end_ns = bag.span_ns
        frames = min(frames, (end_ns - start_ns) // plan.every_ns + 1)
    return frames * len(plan.texts) + len(plan.asks)
