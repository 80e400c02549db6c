"""Several workers, and several bags, end with the lines and figures of one run alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
import shutil
import signal

from own_network import INSIDE
import pytest
from recordings import Recording, scene_frame

from segzero_ros.cli.main import main
from segzero_ros.config import read_profile, reasoner_options, segmenter_options
from segzero_ros.evaluation.runner import RunFolder, Shard
from segzero_ros.evaluation.shard_task import EvaluationTask, shard_task, Source
from segzero_ros.evaluation.tabletop import Tabletop
from segzero_ros.sharding.executor import run_shards
from segzero_ros.sharding.local import LocalProcesses

TABLETOP = ('tabletop', '--scenes', '3', '--seed', '600')
QUERIES = ('--query', 'the largest thing', '--query', 'the purple banana')
pytestmark = pytest.mark.slow


def evaluate(output: Path, *words: object) -> int:
    command = ['evaluate', *words, '-o', output, '--profile', 'offline', '-q']
    return main(list(map(str, command)))


def outcome(folder: Path) -> tuple[list[dict], dict, dict[str, bytes]]:
    """Return all that does not depend on the machine: lines, summary and pictures."""
    rows, whole = RunFolder(folder).rows()
    assert whole
    lines = [{**vars(row), 'seconds': None} for row in rows]
    summary = json.loads((folder / 'summary.json').read_text())
    del summary['timing']
    pictures = {path.name: path.read_bytes() for path in (folder / 'pictures').iterdir()}
    return lines, summary, pictures


@pytest.fixture(scope='module')
def alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('alone')
    assert evaluate(folder, *TABLETOP) == 0
    return folder


@pytest.fixture(scope='module')
def bags(tmp_path_factory) -> Path:
    """A fleet's recordings: two robots with a bag of the same name, and one more."""
    folder = tmp_path_factory.mktemp('fleet')
    for name, seeds in (('one/table', (3, 4)), ('two/table', (5,)), ('two/late', (4, 3))):
        frames = [scene_frame(seed) for seed in seeds]
        Recording().camera(frames).write(folder / name)
    return folder


@pytest.fixture(scope='module')
def truth(bags, tmp_path_factory) -> Path:
    """What the offline profile answers about each of them, accepted."""
    folder = tmp_path_factory.mktemp('truth')
    out = ('-o', str(folder / 'out'), '--profile', 'offline', '-q')
    bare = ('--without', 'bag', '--without', 'video', '--without', 'report')
    accept = ('--accept', str(folder / 'accepted'))
    assert main(['replay', str(bags), *QUERIES, *out, *bare, *accept]) == 0
    return folder / 'accepted'


@pytest.fixture(params=['processes', *(['ray'] if INSIDE else [])])
def workers(request) -> tuple[str, ...]:
    """Options for two workers."""
    if request.param == 'processes':
        return '--workers', '2'
    return '--ray', request.getfixturevalue('cluster').address


def test_workers_give_the_lines_figures_and_pictures_of_one(alone, workers, tmp_path):
    assert evaluate(tmp_path / 'run', *TABLETOP, *workers) == 0
    assert outcome(tmp_path / 'run') == outcome(alone)
    assert len(list((tmp_path / 'run').glob('items-*'))) > 1


def test_what_is_answered_is_not_asked_again_by_another_number_of_workers(alone, tmp_path):
    folder = tmp_path / 'run'
    shutil.copytree(alone, folder)
    lines = (folder / 'items.jsonl').read_bytes().splitlines(keepends=True)
    kept = b''.join(lines[:11])
    workers = ('--workers', '2')
    (folder / 'items.jsonl').write_bytes(kept + lines[11][:40])
    assert evaluate(folder, *TABLETOP, *workers) == 0
    assert (folder / 'items.jsonl').read_bytes().startswith(kept)
    more = [len(path.read_text().splitlines()) - 1 for path in folder.glob('items-*')]
    assert sum(more) == len(lines) - 1 - 11
    assert outcome(folder) == outcome(alone)
    before = {path: path.read_bytes() for path in folder.glob('items*')}
    # All is there: nothing is asked, whoever asks.
    assert evaluate(folder, *TABLETOP) == 0
    after = {path: path.read_bytes() for path in folder.glob('items-*')}
    assert after.items() <= before.items()
    assert outcome(folder) == outcome(alone)


def test_a_killed_workers_shard_goes_on_after_its_last_answer(alone, tmp_path):
    folder = RunFolder(tmp_path / 'run')
    manifest = RunFolder(alone).manifest()
    manifest.pop('format')
    folder.begin(manifest)
    value = read_profile('offline').__getitem__
    models = reasoner_options(value), segmenter_options(value)
    source = Source(scenes=Tabletop(3, 600))
    whole = EvaluationTask(source, *models, folder.path, Shard())
    tasks = [shard_task(whole, Shard(number, 2)) for number in (1, 2)]
    processes = LocalProcesses(2)
    notes = []
    first: list[bytes] = []

    def kill(number, now):
        if now.note:
            notes.append(now.note)
        if number == 1 and not first:
            first.append((folder.path / Shard(2, 2).file).read_bytes())
            os.kill(processes.process_ids[1], signal.SIGKILL)

    outcomes = run_shards(tasks, processes, kill)
    assert [one.error for one in outcomes] == ['', '']
    assert notes == ['The worker was killed by signal 9; its work is done again.']
    assert (folder.path / Shard(2, 2).file).read_bytes().startswith(first[0])
    assert evaluate(folder.path, *TABLETOP) == 0
    assert outcome(folder.path) == outcome(alone)


def test_several_bags_are_one_data_set_with_a_shard_each(bags, truth, tmp_path):
    words = (bags, '--truth', truth)
    assert evaluate(tmp_path / 'alone', *words) == 0
    assert evaluate(tmp_path / 'run', *words, '--workers', 2) == 0
    assert outcome(tmp_path / 'run') == outcome(tmp_path / 'alone')
    assert sorted(path.name for path in (tmp_path / 'run').glob('items-*')) == [
        f'items-00{number}-of-003.jsonl' for number in (1, 2, 3)
    ]
    lines, summary, _ = outcome(tmp_path / 'run')
    assert [line['group'] for line in lines] == [
        (f'bag: {name}',) for name in ('one/table',) * 4 + ('two/late',) * 4 + ('two/table',) * 2
    ]
    assert summary['conventions']['lisa']['figures']['giou'] == pytest.approx(1.0)
    assert summary['bags']['two/late']['answers'] == 4
    report = (tmp_path / 'run' / 'report.md').read_text()
    assert '| two/table | 2 | 2 |' in report.replace('  ', ' ')


def test_a_bag_that_cannot_be_read_does_not_lose_the_others(
    bags, truth, workers, tmp_path, capsys
):
    fleet = tmp_path / 'fleet'
    shutil.copytree(bags, fleet)
    (file,) = (fleet / 'two' / 'late').glob('*.mcap')
    whole = file.read_bytes()
    file.write_bytes(b'no bag')
    words = (fleet, '--truth', truth, *workers)
    assert evaluate(tmp_path / 'run', *words) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and 'shard 2/3' in error and 'late' in error
    rows, complete = RunFolder(tmp_path / 'run').rows()
    assert len(rows) == 6 and not complete
    assert '**Unfinished**' in (tmp_path / 'run' / 'report.md').read_text()
    file.write_bytes(whole)
    kept = (tmp_path / 'run' / 'items-001-of-003.jsonl').read_bytes()
    assert evaluate(tmp_path / 'run', *words) == 0
    assert (tmp_path / 'run' / 'items-001-of-003.jsonl').read_bytes() == kept
    assert len(outcome(tmp_path / 'run')[0]) == 10


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (('--workers', '-1'), 'must not be negative'),
        (('--workers', '2', '--shard', '1/2'), 'either --shard'),
        (('--workers', '2', '-p', 'segmenter.backend:=sam2'), "segmenter 'sam2' cannot be loaded"),
        (('--ray', '127.0.0.1:1'), 'no Ray cluster at 127.0.0.1:1'),
    ],
)
def test_what_cannot_be_divided_is_one_sentence(words, said, tmp_path, capsys):
    assert evaluate(tmp_path, *TABLETOP, *words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count('\n') == 1


def test_a_bag_without_accepted_answers_is_named(bags, truth, tmp_path, capsys):
    some = tmp_path / 'truth'
    shutil.copytree(truth, some)
    (some / 'two' / 'late.jsonl').unlink()
    assert evaluate(tmp_path / 'run', bags, '--truth', some) == 2
    assert f'{some / "two" / "late.jsonl"} are missing' in capsys.readouterr().err
