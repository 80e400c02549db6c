"""`segzero ask` against a real node: what it prints and saves, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path
import signal
import subprocess
import sys
from typing import Any

import cv2
import numpy as np
import pytest

SEGZERO = [sys.executable, str(Path(__file__).resolve().parents[2] / 'scripts' / 'segzero')]
Start = Callable[..., Any]


@pytest.fixture(scope='module', autouse=True)
def node(scripted_node: Start, new_client: Start, red_and_blue: Any) -> Any:
    """A node in /told that sees, and one in /blind that does not."""
    node = scripted_node(arguments=['-r', '__ns:=/told'])
    scripted_node(arguments=['-r', '__ns:=/blind'])
    client = new_client('told')
    client.camera(red_and_blue, 'image', rate=10)
    client.wait_for_server()
    client.until(lambda: client.once('something').status == 0, 'the node sees')
    return node


def ask(*words: str, deadline: float = 60.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SEGZERO, 'ask', *words], capture_output=True, text=True, timeout=deadline
    )


def test_an_answer_is_told_as_it_comes_and_as_a_table_and_saved(tmp_path: Path) -> None:
    path = tmp_path / 'new folder' / 'answer.png'
    done = ask('count to 12', '--namespace', 'told', '--output', str(path))
    assert done.returncode == 0, done.stderr
    assert '0 1 2 3 4 5 6 7 8 9 10 11' in done.stdout, done.stdout
    (row,) = [line for line in done.stdout.splitlines() if '19200 px' in line]
    assert row.split()[:4] == ['1', 'count', 'to', '12']
    assert '80, 60, 160, 120' in row
    assert 'OK in' in done.stdout
    assert cv2.imread(str(path)).shape[1] == 640


def test_what_a_terminal_would_obey_is_shown_instead(node: Any) -> None:
    done = ask('provoke', '--namespace', 'told')
    assert done.returncode == 0, done.stderr
    assert not set('\x1b\x07\x9b') & set(done.stdout)
    assert '\ufffd]0;owned\ufffd\ufffd31m[bold]' in done.stdout
    assert '\ufffd[8mcup' in done.stdout
    assert '\x1b' not in node.output


def test_json_is_the_whole_answer_and_nothing_else() -> None:
    done = ask('eine Größe', '--namespace', '/told', '--json')
    answer = json.loads(done.stdout)
    assert answer['status'] == 'OK'
    assert answer['query'] == 'eine Größe'
    assert answer['image_size'] == [320, 240]
    assert answer['frame_id'] == 'camera_optical_frame'
    assert answer['seconds']['total'] > 0
    (found,) = answer['objects']
    assert (found['box'], found['mask_pixels']) == ([80, 60, 160, 120], 19200)
    assert (found['score'], found['position']) == (1.0, None)


def test_a_picture_file_is_asked_about_and_drawn_on(tmp_path: Path) -> None:
    picture = tmp_path / 'picture.png'
    cv2.imwrite(str(picture), np.full((500, 700, 3), (200, 10, 10), np.uint8))
    path = tmp_path / 'answer.jpg'
    done = ask(
        'this', '--namespace', 'blind', '--image', str(picture), '--output', str(path), '--json'
    )
    assert json.loads(done.stdout)['image_size'] == [700, 500]
    drawn = cv2.imread(str(path))
    assert drawn.shape[1] == 700
    assert drawn[490, 10, 0] > 100 > drawn[490, 10, 2]


def test_without_an_image_it_says_where_there_are_some() -> None:
    done = ask('anything', '--namespace', 'blind')
    assert done.returncode == 3
    assert 'NO_IMAGE' in done.stdout
    assert '/told/image' in ''.join(done.stdout.splitlines())


def test_a_camera_that_comes_later_is_waited_for(
    scripted_node: Start, new_client: Start, red_and_blue: Any
) -> None:
    node = scripted_node(arguments=['-r', '__ns:=/late'])
    words = [*SEGZERO, 'ask', 'this', '--namespace', 'late', '--wait', '60', '--json']
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as asking:
        node.wait_for_output('NO_IMAGE')
        new_client('late').camera(red_and_blue, 'image', rate=10)
        answer = json.loads(asking.communicate(timeout=60)[0])
    assert (asking.returncode, answer['status']) == (0, 'OK')


def test_without_a_node_it_says_where_there_is_one() -> None:
    done = ask('anything', '--wait', '3')
    assert (done.returncode, done.stdout) == (2, '')
    assert 'namespace /segzero' in done.stderr
    assert '/blind' in done.stderr
    assert '/told' in done.stderr
    assert 'Traceback' not in done.stderr


def test_another_status_has_its_own_exit_code_and_message() -> None:
    done = ask('babble', '--namespace', 'told')
    assert done.returncode == 3
    assert 'MALFORMED_ANSWER' in done.stdout
    assert 'no box in it' in ' '.join(done.stdout.split())


def test_no_answer_in_time_is_an_error() -> None:
    done = ask('count for ever', '--namespace', 'told', '--timeout', '0.5')
    assert done.returncode == 2
    assert 'within 0.5 s' in done.stderr


@pytest.mark.parametrize(
    ('option', 'name', 'complaint'),
    [
        ('--image', 'missing.png', 'missing.png cannot be read'),
        ('--image', 'text.png', 'text.png is not an image'),
        ('--output', 'answer.doc', 'no image file extension'),
        ('--output', 'text.png/answer.png', 'cannot be written'),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error(
    tmp_path: Path, option: str, name: str, complaint: str
) -> None:
    (tmp_path / 'text.png').write_text('no picture')
    done = ask('this', '--namespace', 'told', option, str(tmp_path / name))
    assert done.returncode == 2
    assert complaint in done.stderr
    assert 'Traceback' not in done.stderr


def test_ctrl_c_cancels_the_goal_and_ends(node: Any) -> None:
    process = subprocess.Popen(
        [*SEGZERO, 'ask', 'count for ever', '--namespace', 'told'],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.read(8) == '0 1 2 3 '
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=40)
    assert process.returncode == 130
    assert 'CANCELED' in output
    assert 'Traceback' not in errors
    node.wait_for_output(r'count for ever.*CANCELED')
