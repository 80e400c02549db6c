"""`segzero evaluate`: measure models on a data set; write metrics, tables and a gallery."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
import sys
from typing import Any, TYPE_CHECKING

from segzero_ros.cli.answer_progress import answer_progress, OnAnswer
from segzero_ros.cli.model_arguments import add_model_arguments, BadArgument, read_parameters
from segzero_ros.cli.worker_arguments import add_worker_arguments, failures, open_backend
from segzero_ros.config import reasoner_options, segmenter_options
from segzero_ros.conversions.text import printable
from segzero_ros.loading import described, ReasonerOptions, SegmenterOptions
from segzero_ros.types import TASK_NAMES

if TYPE_CHECKING:
    from segzero_ros.evaluation.runner import RunFolder, Shard
    from segzero_ros.evaluation.samples import Dataset
    from segzero_ros.evaluation.shard_task import EvaluationTask, Source

UNFINISHED, FAILED = 1, 2

EPILOG = """\
sources:
  reasonseg_test, refcoco_testA ...  a published set, from the Hugging Face Hub or its cache
  owner/name                         another set on the Hub in the same layout
  FOLDER, FILE.parquet               the same layout on this machine
  FOLDER                             ReasonSeg as first published, or labelme: images and .json;
                                     RefSpatial-Bench, Where2Place, ConverSeg, HalluSegBench
  FILE.json                          your own data in COCO layout, with one text per annotation
  BAG --truth FILE                   a bag, and accepted answers about it
  BAG BAG ... --truth FOLDER         several bags, or folders of bags, as one data set
  tabletop                           generated scenes with published seeds; needs no data
  merge FOLDER FOLDER ...            merge shards that ran separately; needs --output

examples:
  segzero evaluate --list
  segzero evaluate tabletop --profile offline
  segzero evaluate reasonseg_test --profile robot --strict
  segzero evaluate reasonseg_test --profile remote --concurrency 16
  segzero evaluate refspatial_placement --profile remote
  segzero evaluate mine.json --task detect --profile robot
  segzero evaluate reasonseg_test --agent --profile remote -p reasoner.dialect:=qwen3_vl \
      -p segmenter.backend:=sam3 -p segmenter.model:=facebook/sam3
  segzero evaluate reasonseg_test --shard 2/8 -o run_2
  segzero evaluate kitchen_bag --truth accepted.jsonl --profile robot
  segzero evaluate fleet/*/*.mcap --truth accepted/ --ray 10.0.0.5:6379 -o /shared/night
  segzero evaluate merge run_1 run_2 -o run

exit codes: 0 finished, 1 finished a shard but others are missing, 2 an error, also in one of
several workers, 130 Ctrl-C (run the same command again to resume)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    parser.add_argument('source', nargs='?', default='', help='the data set; see below')
    parser.add_argument('folders', nargs='*', type=Path, help=argparse.SUPPRESS)
    parser.add_argument(
        '-o', '--output', type=Path, help='output folder; default: evaluation/<source>'
    )
    add_model_arguments(parser)
    add_worker_arguments(
        parser, 0, 'processes that answer, with --profile offline; default: this one alone'
    )
    parser.add_argument(
        '--concurrency',
        type=int,
        default=1,
        metavar='N',
        help='parallel queries, for models behind a server; default: %(default)s',
    )
    parser.add_argument(
        '--task',
        choices=TASK_NAMES,
        default='',
        help='what is asked of the model; default: what the set asks for',
    )
    parser.add_argument(
        '--agent',
        action='store_true',
        help='search in turns: the reasoner proposes phrases, SAM 3 marks what they name, the '
        'reasoner looks at the masks',
    )
    parser.add_argument(
        '--list',
        action='store_true',
        help='list the published sets, what they measure and their licences',
    )
    parser.add_argument(
        '--strict',
        action='store_true',
        help='parse answers strictly, as the published code; default: repair small errors',
    )
    data = parser.add_argument_group('data')
    data.add_argument('--limit', type=int, metavar='N', help='only the first N samples')
    data.add_argument('--shard', default='1/1', metavar='I/N', help='only shard I of N, I from 1')
    data.add_argument('--offline', action='store_true', help='use only cached data')
    data.add_argument(
        '--published-prompt',
        action='store_true',
        help="of points sets, the paper's whole prompt for models that point; default: the bare "
        'question',
    )
    data.add_argument(
        '--pictures', type=Path, help='folder that the file names in a JSON file are relative to'
    )
    data.add_argument(
        '--truth',
        type=Path,
        help='accepted answers about a bag, from segzero replay --accept; of several bags: the '
        'folder with those of each',
    )
    data.add_argument('--image', default='', help='image topic of a bag; default: detected')
    scenes = parser.add_argument_group('tabletop')
    scenes.add_argument('--scenes', type=int, help='number of scenes; default: as published')
    scenes.add_argument('--seed', type=int, help='of the first scene; default: as published')
    scenes.add_argument('--per-kind', type=int, default=1, help='queries of each kind per scene')
    scenes.add_argument('--without-depth', action='store_true', help='use colour images only')
    outputs = parser.add_argument_group('output')
    outputs.add_argument(
        '--gallery', type=int, metavar='N', help='answers in the gallery, worst first'
    )
    outputs.add_argument('--restart', action='store_true', help='do not resume an interrupted run')
    outputs.add_argument('-q', '--quiet', action='store_true', help='no progress, no tables')


def run(options: argparse.Namespace) -> int:
    """Evaluate; return 1 if other shards are missing."""
    from segzero_ros.evaluation.runner import merge, RunFolder, Shard

    if options.list:
        _list_sets()
        return 0
    if not options.source:
        raise BadArgument('Give a data set; segzero evaluate --list names the published ones.')
    if options.source == 'merge':
        if not options.folders or options.output is None:
            raise BadArgument('merge needs the folders of the shards and --output.')
        folder = RunFolder(options.output)
        merge(options.folders, folder)
        return _finish(folder, options)
    if options.folders and options.truth is None:
        raise BadArgument('Give one source; only merge, and bags with --truth, are several.')
    if options.limit is not None and options.limit < 1:
        raise BadArgument('--limit must be 1 or more.')
    shard = Shard.parse(options.shard)
    if options.restart and shard.parts > 1:
        raise BadArgument(
            '--restart does not work with --shard: remove the folder of the shards instead.'
        )
    if options.workers < 0:
        raise BadArgument('--workers must not be negative.')
    if shard.parts > 1 and (options.workers > 1 or options.ray):
        raise BadArgument('Use either --shard, or --workers or --ray, which make shards.')
    name = 'bags' if _several_bags(options) else Path(options.source).stem
    folder = RunFolder(options.output or Path('evaluation') / name)
    errors = _evaluate(options, folder, shard)
    code = _finish(folder, options)
    for error in errors:
        print(printable(f'segzero evaluate: {error}'), file=sys.stderr)
    return FAILED if errors else code


def _list_sets() -> None:
    """Print the published sets as a table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from segzero_ros.evaluation.hub import PUBLISHED

    table = Table('set', 'task', 'samples', 'measures', 'licence', 'on the Hub', box=box.SIMPLE)
    for name, one in PUBLISHED.items():
        licence = one.licence or 'see the Hub'
        samples = str(one.samples or '')
        table.add_row(name, one.task.name.lower(), samples, one.measures, licence, one.repository)
    console = Console()
    # A file or a pipe has no width: lines are not broken there.
    console.width = console.width if console.is_terminal else 200
    console.print(table)


def _evaluate(options: argparse.Namespace, folder: RunFolder, shard: Shard) -> list[str]:
    """Answer the samples; return an error for each shard that failed."""
    from segzero_ros.evaluation.agent import check_models
    from segzero_ros.evaluation.runner import indices_of
    from segzero_ros.evaluation.shard_task import evaluate_shard, EvaluationTask

    value = read_parameters(options).__getitem__
    reasoner, segmenter = reasoner_options(value), segmenter_options(value)
    if options.strict:
        reasoner = replace(reasoner, answer_parser='strict')
    if options.agent:
        check_models(reasoner, segmenter, options.task)
    source = _source(options)
    dataset = source.open()
    evaluation = EvaluationTask(
        source,
        reasoner,
        segmenter,
        folder.path,
        shard,
        options.limit,
        options.task,
        options.concurrency,
        options.agent,
    )
    folder.begin(_manifest(options, dataset, reasoner, segmenter), restart=options.restart)
    total = len(indices_of(dataset, shard, options.limit))
    with answer_progress(total, quiet=options.quiet) as on_answer:
        if options.workers > 1 or options.ray:
            return _in_shards(options, evaluation, dataset, on_answer)
        evaluate_shard(evaluation, lambda now: on_answer(now.done, now.note), dataset)
    return []


def _in_shards(
    options: argparse.Namespace,
    evaluation: EvaluationTask,
    dataset: Dataset,
    on_answer: OnAnswer,
) -> list[str]:
    """Answer the samples in several workers; return an error for each shard that failed."""
    from segzero_ros.evaluation.runner import indices_of, RunFolder
    from segzero_ros.evaluation.shard_task import shard_task, shards_of
    from segzero_ros.sharding.base import Outcome, Progress
    from segzero_ros.sharding.executor import run_shards

    models = evaluation.reasoner, evaluation.segmenter
    backend, places = open_backend(options, *models, evaluation.folder, options.workers)
    folder = RunFolder(evaluation.folder)
    shards = shards_of(evaluation, dataset, places)
    left = [shard for shard in shards if not folder.has_finished(shard)]
    indices = [indices_of(dataset, shard, evaluation.limit) for shard in left]
    answered = folder.answered()
    finished = len(indices_of(dataset, limit=evaluation.limit)) - sum(map(len, indices))
    done = [sum(index in answered for index in part) for part in indices]

    def on_progress(number: int, now: Progress) -> None:
        done[number] = max(done[number], now.done)
        on_answer(finished + sum(done), now.note)

    def on_outcome(number: int, outcome: Outcome) -> None:
        if not outcome.error:
            on_progress(number, Progress(len(indices[number])))

    tasks = [shard_task(evaluation, shard) for shard in left]
    outcomes = run_shards(tasks, backend, on_progress, on_outcome)
    return failures(outcomes)


def _several_bags(options: argparse.Namespace) -> bool:
    """Return whether the source is several bags with a folder of truths."""
    return options.truth is not None and bool(options.folders or options.truth.is_dir())


def _source(options: argparse.Namespace) -> Source:
    from segzero_ros.evaluation.shard_task import Source
    from segzero_ros.evaluation.tabletop import SCENES, SEED, Tabletop

    if options.source == 'tabletop':
        scenes = SCENES if options.scenes is None else options.scenes
        seed = SEED if options.seed is None else options.seed
        if scenes < 1 or seed < 0 or options.per_kind < 1:
            raise BadArgument('--scenes and --per-kind must be 1 or more, --seed 0 or more.')
        return Source(scenes=Tabletop(scenes, seed, options.per_kind, not options.without_depth))
    if _several_bags(options):
        if not options.truth.is_dir():
            raise BadArgument(
                f'{options.truth} is one file: several bags need a folder with one for each.'
            )
        bags = (Path(options.source), *options.folders)
        return Source(bags=bags, truth=options.truth, image=options.image)
    return Source(
        options.source,
        offline=options.offline,
        pictures=options.pictures,
        truth=options.truth,
        image=options.image,
        published_prompt=options.published_prompt,
    )


def _manifest(
    options: argparse.Namespace,
    dataset: Dataset,
    reasoner: ReasonerOptions,
    segmenter: SegmenterOptions,
) -> dict[str, Any]:
    from segzero_ros.evaluation.agent import MAX_ROUNDS
    from segzero_ros.evaluation.datasets import published_name

    # Runs without an agent go on from before there was one.
    agent = {'agent': {'rounds': MAX_ROUNDS}} if options.agent else {}
    return {
        'dataset': {
            'name': dataset.name,
            'published': published_name(options.source),
            'indices': len(dataset),
            'limit': options.limit,
            'task': options.task,
            'published_prompt': options.published_prompt,
        },
        'models': {
            'reasoner': described(reasoner),
            'segmenter': described(segmenter),
            **agent,
        },
    }


def _finish(folder: RunFolder, options: argparse.Namespace) -> int:
    from segzero_ros.evaluation.gallery import MAX_ENTRIES
    from segzero_ros.evaluation.report import write_report

    summary = write_report(folder, MAX_ENTRIES if options.gallery is None else options.gallery)
    if not options.quiet:
        from rich.console import Console
        from rich.markdown import Markdown

        text = (folder.path / 'report.md').read_text(encoding='utf-8')
        console = Console()
        if console.is_terminal:
            console.print(Markdown(text))
        else:
            print(text)
        print(f'{folder.path}: report.md, summary.json, gallery.html')
    return 0 if summary['complete'] else UNFINISHED
