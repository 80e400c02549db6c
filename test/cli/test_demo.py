"""`segzero demo` runs the real graph, measures what it says, and leaves nothing running."""

from __future__ import annotations

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import cv2
import pytest
from rosbags.highlevel import AnyReader

from segzero_ros.cli.demo import ask_one, clear_output
from segzero_ros.cli.demo_questions import QUESTIONS
from segzero_ros.cli.demo_report import failures_of, FLOORS, Outcome
from segzero_ros.types import Status

pytest.importorskip('rclpy', reason='needs ROS 2')
pytest.importorskip('skimage', reason='the photographs come with scikit-image')
pytest.importorskip('transformers', reason='the small reasoner is shown too')
# A fixture's time is its first test's.
pytestmark = pytest.mark.timeout(480)
COMMAND = [
    sys.executable,
    str(Path(__file__).resolve().parents[2] / 'scripts' / 'segzero'),
    'demo',
]
# The demo chooses its own domain where it is told none.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != 'ROS_DOMAIN_ID'}


def running(folder: Path) -> list[str]:
    """Return the command lines of processes that write their logs into this folder."""
    found = []
    for process in Path('/proc').iterdir():
        if process.name.isdigit():
            try:
                target = (process / 'fd' / '1').readlink()
                if target.parent == folder:
                    found.append((process / 'cmdline').read_bytes().decode())
            except OSError:
                continue
    return found


@pytest.fixture(scope='module')
def demo(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A finished demo: its folder and what it said."""
    folder = tmp_path_factory.mktemp('demo')
    done = subprocess.run(
        [*COMMAND, '--output', str(folder)],
        capture_output=True,
        text=True,
        timeout=400,
        env=ENVIRONMENT,
    )
    return folder, done


Demo = tuple[Path, 'subprocess.CompletedProcess[str]']


def summary_of(demo: Demo) -> dict:
    return json.loads((demo[0] / 'summary.json').read_text())


def test_every_question_ends_as_it_should_and_the_figures_are_above_their_floors(
    demo: Demo,
) -> None:
    done = demo[1]
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'Traceback' not in done.stderr
    for name in ('node', 'mini', 'camera'):
        assert 'Traceback' not in (demo[0] / f'{name}.log').read_text()
    summary = summary_of(demo)
    assert summary['ok'] is True
    assert [entry['answer']['query'] for entry in summary['questions']] == [
        question.text for question in QUESTIONS
    ]
    for entry, question in zip(summary['questions'], QUESTIONS, strict=True):
        assert entry['answer']['status'] == entry['expected'] == question.status.name
        assert (entry['iou'] is not None) == question.has_truth
        assert entry['answer']['reasoner'] == 'attributes'
    assert set(summary['figures']) == set(FLOORS)
    for name, floor in FLOORS.items():
        assert floor <= summary['figures'][name]['mean_iou'] <= 1
    assert summary['machine']['cores'] == os.cpu_count()


def test_the_screen_shows_each_question_with_its_reasoning_and_a_table(demo: Demo) -> None:
    text = ' '.join(demo[1].stdout.split())
    for entry in summary_of(demo)['questions']:
        assert f'“{entry["answer"]["query"]}” by {entry["way"]} {entry["expected"]}' in text
        assert ' '.join(entry['answer']['reasoning'].split()) in text
    assert 'mean IoU' in text


def test_the_small_reasoner_answers_about_the_scenes_beside_the_default(demo: Demo) -> None:
    summary = summary_of(demo)
    scenes = [question.text for question in QUESTIONS if question.source == 'scene']
    assert [entry['answer']['query'] for entry in summary['mini']] == scenes
    for entry in summary['mini']:
        assert entry['answer']['reasoner'] == 'mini'
        assert ': ' in entry['answer']['reasoning'], 'it thinks first'
    assert 'query to profile:=mini' in demo[1].stdout
    assert cv2.imread(str(demo[0] / 'mini.jpg')).shape[1] > 900


def test_each_answer_has_its_picture_and_the_overview_is_small(demo: Demo) -> None:
    folder = demo[0]
    for entry in summary_of(demo)['questions']:
        picture = cv2.imread(str(folder / entry['file']))
        width, height = entry['answer']['image_size']
        assert picture.shape[1] % width == 0
        assert picture.shape[0] > height
    assert (folder / 'overview.jpg').stat().st_size < 400_000
    assert cv2.imread(str(folder / 'overview.jpg')).shape[1] > 1000


def test_the_bag_holds_what_went_over_the_graph(demo: Demo) -> None:
    summary = summary_of(demo)
    with AnyReader([demo[0] / 'bag']) as reader:
        counts = {connection.topic: connection.msgcount for connection in reader.connections}
        wanted = [c for c in reader.connections if c.topic in ('/segzero/result', '/camera/image')]
        results, stamps = [], set()
        for connection, _, raw in reader.messages(wanted):
            message = reader.deserialize(raw, connection.msgtype)
            stamp = (message.header.stamp.sec, message.header.stamp.nanosec)
            if connection.topic == '/camera/image':
                stamps.add(stamp)
            else:
                results.append((message.query, Status(message.status).name, stamp))
    asked = [
        (entry['answer']['query'], entry['answer']['status']) for entry in summary['questions']
    ]
    # A question is asked again where the node had not got the new picture yet.
    assert set(asked) <= {result[:2] for result in results}
    assert len(results) >= len(QUESTIONS)
    seen = sum(stamp in stamps for _, _, stamp in results)
    assert seen >= 0.9 * len(results), 'the pictures that were asked about are in the bag'
    by_topic = sum(question.way == 'topic' for question in QUESTIONS)
    assert counts['/segzero/query'] >= by_topic
    for topic in ('camera/depth', 'camera/camera_info', 'segzero/overlay', 'segzero/reasoning'):
        assert counts[f'/{topic}'] > 0
    assert counts == summary['recorded_messages']


def test_nothing_is_left_running(demo: Demo) -> None:
    folder = demo[0]
    assert 'Active' in (folder / 'node.log').read_text()
    assert running(folder) == []


def test_ctrl_c_ends_the_demo_and_its_processes(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, '--output', str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, 'PYTHONUNBUFFERED': '1'},
    )
    assert process.stdout is not None
    assert any('1. coffee' in line for line in process.stdout)
    assert len(running(tmp_path)) == 2
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert 'interrupted' in errors
    assert 'Traceback' not in errors
    assert running(tmp_path) == []
    assert not (tmp_path / 'summary.json').exists()
    assert not (tmp_path / 'bag' / 'metadata.yaml').exists()


def test_ctrl_c_that_cancelled_a_question_ends_the_demo_too() -> None:
    question = next(each for each in QUESTIONS if each.way == 'action')
    canceled = SimpleNamespace(stamp_ns=1, answer=SimpleNamespace(status=Status.CANCELED))
    client: Any = SimpleNamespace(ask=lambda *_, **__: canceled)
    camera: Any = SimpleNamespace()
    with pytest.raises(KeyboardInterrupt):
        ask_one(client, camera, question, 0, print)


def test_a_graph_that_cannot_be_run_is_one_error_with_the_last_words(tmp_path: Path) -> None:
    prefix = tmp_path / 'prefix'
    script = prefix / 'lib' / 'segzero_ros' / 'perception_node'
    script.parent.mkdir(parents=True)
    script.write_text('print("no model anywhere"); raise SystemExit(1)')
    done = subprocess.run(
        [*COMMAND, '--output', str(tmp_path / 'out')],
        capture_output=True,
        text=True,
        timeout=120,
        env={**ENVIRONMENT, 'AMENT_PREFIX_PATH': f'{prefix}:{os.environ["AMENT_PREFIX_PATH"]}'},
    )
    assert done.returncode == 2
    assert 'The process node exited with code 1' in done.stderr
    assert 'no model anywhere' in done.stderr
    assert 'Traceback' not in done.stderr


def test_a_small_reasoner_that_does_not_start_costs_only_its_own_part(tmp_path: Path) -> None:
    prefix = tmp_path / 'prefix'
    broken = prefix / 'share' / 'segzero_ros' / 'config' / 'mini.yaml'
    broken.parent.mkdir(parents=True)
    broken.write_text('/**: {ros__parameters: {reasoner.backend: sorcery}}')
    done = subprocess.run(
        [*COMMAND, '--output', str(tmp_path / 'out')],
        capture_output=True,
        text=True,
        timeout=400,
        env={**ENVIRONMENT, 'AMENT_PREFIX_PATH': f'{prefix}:{os.environ["AMENT_PREFIX_PATH"]}'},
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert 'The mini reasoner could not be queried.' in done.stdout
    assert 'sorcery' in done.stdout
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert len(summary['questions']) == len(QUESTIONS)
    assert summary['mini'] == []


def test_only_what_an_earlier_demo_wrote_is_removed(tmp_path: Path) -> None:
    for name in ('01_coffee_x.png', 'summary.json', 'mini.log', 'mine.png', 'notes.log'):
        (tmp_path / name).touch()
    (tmp_path / 'bag').mkdir()
    (tmp_path / 'bag' / 'bag.mcap').touch()
    clear_output(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['mine.png', 'notes.log']
    (tmp_path / 'bag').mkdir()
    (tmp_path / 'bag' / 'precious.mcap').touch()
    clear_output(tmp_path)
    assert (tmp_path / 'bag' / 'precious.mcap').exists()


def outcome(status: Status, iou: float, index: int = 0) -> Outcome:
    from segzero_ros.ros.client import Reply
    from segzero_ros.types import Answer, Query

    question = [q for q in QUESTIONS if q.has_truth and q.source == 'scene'][index]
    answer = Answer(Query(question.text), status, 'Why not.')
    return Outcome(question, Reply(answer, 0, '', 0, 0), None, iou, 0.0)  # type: ignore[arg-type]


def test_a_wrong_status_and_a_low_figure_are_failures_with_a_reason() -> None:
    assert failures_of([outcome(Status.OK, 0.9), outcome(Status.OK, 0.6, 1)], []) == []
    (failure,) = failures_of([outcome(Status.NOT_FOUND, 0.9)], [])
    assert 'status NOT_FOUND, expected OK: Why not.' in failure
    (failure,) = failures_of([outcome(Status.OK, 0.9), outcome(Status.OK, 0.3, 1)], [])
    assert '0.60' in failure
    assert f'below the minimum of {FLOORS["scene"]}' in failure
    assert failures_of([], [outcome(Status.NOT_FOUND, 0.9)]) == [], 'the small one errs'
    (failure,) = failures_of([], [outcome(Status.OK, 0.5)])
    assert 'to the mini reasoner is 0.50' in failure
