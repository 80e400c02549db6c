"""`segzero replay` as a person and as a test on a server use it: real processes, real bags."""

from __future__ import annotations

import json
import os
from pathlib import Path
import signal
import subprocess
import sys

import pytest
from recordings import Recording, scene_frame
from rosbags.highlevel import AnyReader
import yaml

from segzero_ros.cli.main import main
from segzero_ros.simulation import make_scene

ROOT = Path(__file__).resolve().parent.parent.parent
# These modules, wherever the process is started.
ENVIRONMENT = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), *sys.path])}
QUERY = ('--query', 'the largest object')
OFFLINE = ('--profile', 'offline')
BARE = ('--without', 'bag', '--without', 'video', '--without', 'report')


@pytest.fixture(scope='module')
def bag(tmp_path_factory) -> Path:
    frames = [scene_frame(3), scene_frame(4)]
    return Recording().camera(frames).write(tmp_path_factory.mktemp('bags') / 'table')


def segzero(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=120,
        env=ENVIRONMENT,
        **options,
    )


def command(*arguments: object) -> list[str]:
    code = 'import sys; from segzero_ros.cli.main import main; sys.exit(main())'
    return [sys.executable, '-c', code, 'replay', *map(str, arguments)]


@pytest.mark.slow
def test_a_replay_tells_what_it_wrote_and_is_accepted_and_expected(bag, tmp_path):
    golden = tmp_path / 'golden' / 'table.jsonl'
    first = segzero(bag, *QUERY, *OFFLINE, '--accept', golden, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert '2 answers (2 OK) in table_replay' in first.stdout
    for name in ('bag', 'results.jsonl', 'overlays', 'video.mp4', 'report.html'):
        assert (tmp_path / 'table_replay' / name).exists()
        assert name in first.stdout
    second = segzero(bag, *QUERY, *OFFLINE, *BARE, '--expect', golden, cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert f'All 2 answers match {golden}' in second.stdout


@pytest.mark.slow
def test_other_answers_than_expected_end_with_1_and_say_what_differs(bag, tmp_path, capsys):
    golden = tmp_path / 'golden.jsonl'
    where = ('-o', str(tmp_path / 'out'), *BARE)
    assert main(['replay', str(bag), *QUERY, *OFFLINE, *where, '--accept', str(golden)]) == 0
    lines = golden.read_text().splitlines()
    golden.write_text(lines[0].replace('"OK"', '"NOT_FOUND"') + '\n' + lines[1] + '\n')
    assert main(['replay', str(bag), *QUERY, *OFFLINE, *where, '--expect', str(golden)]) == 1
    out, err = capsys.readouterr()
    assert 'stamp 1700000000.000000000, “the largest object”: status is OK' in out
    assert 'was NOT_FOUND' in out
    assert f'1 of 2 answers differ from {golden}' in err


def test_tasks_are_asked_and_come_back_in_the_lines_and_in_the_bag(bag, tmp_path, capsys):
    queries = tmp_path / 'queries.yaml'
    queries.write_text(
        '- {at: 0, query: how many mugs are there, id: count, task: auto}\n'
        '- {at: 0, query: is there a banana, id: words, task: answer}\n'
        '- {at: 0, query: the mugs, id: boxes, task: detect}\n'
        '- {at: 0, query: the mugs, id: masks}\n'
    )
    where = ('-o', str(tmp_path / 'out'), '--without', 'video')
    assert main(['replay', str(bag), '--queries', str(queries), *OFFLINE, *where]) == 0
    lines = [
        json.loads(line) for line in (tmp_path / 'out/results.jsonl').read_text().splitlines()
    ]
    mugs = sum(item.kind == 'mug' for item in make_scene(3).objects)
    assert mugs == 2
    assert [(line['query_id'], line['task'], line['count']) for line in lines] == [
        ('count', 'COUNT', mugs),
        ('words', 'ANSWER', None),
        ('boxes', 'DETECT', None),
        ('masks', 'SEGMENT', None),
    ]
    assert lines[1]['answer'].startswith('No')
    assert [len(line['objects']) for line in lines] == [mugs, 0, mugs, mugs]
    with AnyReader([tmp_path / 'out/bag']) as reader:
        wanted = [one for one in reader.connections if one.topic == '/segzero/result']
        results = [reader.deserialize(raw, one.msgtype) for one, _, raw in reader.messages(wanted)]
    assert [(result.task, result.count, result.answer) for result in results] == [
        (2, mugs, ''),
        (3, -1, lines[1]['answer']),
        (1, -1, ''),
        (0, -1, ''),
    ]
    sizes = [[found.mask.data.size > 0 for found in result.objects] for result in results]
    assert sizes == [[False, False], [], [False, False], [True, True]]
    report = (tmp_path / 'out/report.html').read_text()
    assert 'Number: 2' in report
    assert lines[1]['answer'].split('"')[0] in report
    capsys.readouterr()


def test_a_task_without_a_query_is_refused(bag, capsys):
    assert main(['replay', str(bag), '--task', 'count', *OFFLINE]) == 2
    assert '--task needs --query TEXT' in capsys.readouterr().err


def test_a_file_of_queries_is_asked(bag, tmp_path):
    queries = tmp_path / 'q.yaml'
    queries.write_text(yaml.safe_dump([{'at': 0.15, 'query': 'the cup', 'id': 'late'}]))
    where = ('-o', str(tmp_path / 'out'), *BARE)
    assert main(['replay', str(bag), '--queries', str(queries), *OFFLINE, *where, '-q']) == 0
    (line,) = (tmp_path / 'out' / 'results.jsonl').read_text().splitlines()
    assert '"query_id": "late"' in line
    assert '"stamp_ns": 1700000000100000000' in line


@pytest.mark.slow
def test_an_interrupted_replay_ends_with_130_and_goes_on(tmp_path):
    path = Recording().camera([scene_frame(3)] * 3).write(tmp_path / 'long')
    arguments = (path, *QUERY, *OFFLINE, *BARE, '-o', tmp_path / 'out')
    # So slow that it is still at work after its first answer.
    with subprocess.Popen(
        command(*arguments, '--rate', '0.001'), stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        results = tmp_path / 'out' / 'results.jsonl'
        wait_for_line(results, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr is not None
        assert 'interrupted' in process.stderr.read()
    finished = segzero(*arguments)
    assert finished.returncode == 0, finished.stderr
    assert 'Resuming after 1 answers.' in finished.stderr
    assert len(results.read_text().splitlines()) == 3


def wait_for_line(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the file holds a whole line; its writer must be alive meanwhile."""
    for _ in range(600):
        if path.exists() and path.read_text().endswith('\n'):
            return
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f'it ended with {process.returncode}')
    raise AssertionError('there is no answer after a minute')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['missing', *QUERY], 'missing cannot be read as a bag'),
        (['{bag}', *OFFLINE], 'has no recorded queries: use --query TEXT'),
        (['{bag}', '--every', '2'], '--every needs --query'),
        (['{bag}', *QUERY, '--queries', 'q.yaml'], 'either --query or --queries'),
        (['{bag}', *QUERY, *OFFLINE, '-p', 'reasoner=x'], 'is not NAME:=VALUE'),
        (['{bag}', *QUERY, *OFFLINE, '-p', 'resoner:=x'], "the nearest is 'reasoner."),
        (
            ['{bag}', *QUERY, *OFFLINE, '-p', 'query.queue_size:=x'],
            'query.queue_size must be an integer',
        ),
        (['{bag}', *QUERY, *OFFLINE, '--image', '/no'], "no images on '/no'; it has images on"),
        (
            ['{bag}', *QUERY, *OFFLINE, '--expect', 'no'],
            'no does not exist: create it with --accept',
        ),
        (['{bag}', *QUERY, *OFFLINE, '--params-file', 'no'], 'no cannot be read'),
    ],
)
def test_what_cannot_be_done_ends_with_2_and_its_cause(bag, tmp_path, capsys, arguments, message):
    words = [word.replace('{bag}', str(bag)) for word in arguments]
    assert main(['replay', *words, '-o', str(tmp_path / 'out')]) == 2
    error = ' '.join(capsys.readouterr().err.split())
    assert message in error
    assert 'Traceback' not in error


@pytest.mark.slow
def test_a_cut_off_bag_is_replayed_as_far_as_it_goes(tmp_path, capsys):
    path = Recording().camera([scene_frame(3)] * 6).write(tmp_path / 'cut')
    file = path / 'cut.mcap'
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * 0.7)])
    assert main(['replay', str(path), *QUERY, *OFFLINE, '-o', str(tmp_path / 'out')]) == 0
    # The terminal breaks lines wherever the folder's name makes them long.
    assert 'is damaged' in ' '.join(capsys.readouterr().err.split())
    assert 1 <= len((tmp_path / 'out' / 'results.jsonl').read_text().splitlines()) < 6
    assert 'is damaged' in (tmp_path / 'out' / 'report.html').read_text()
