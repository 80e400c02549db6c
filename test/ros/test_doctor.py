"""`segzero doctor` finds what is amiss, names the cure, and finds nothing where all is well."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
import shutil
import threading

from lifecycle_msgs.srv import GetState
import numpy as np
import pytest
from scripted_server import MODEL, running
from sensor_msgs.msg import CameraInfo, Image

from segzero_ros.cli.main import main
from segzero_ros.doctor.shared_memory import abandoned, check_shared_memory
from segzero_ros.ros import graph_doctor
from segzero_ros.simulation import make_scene

ROOT = Path(__file__).resolve().parent.parent.parent
CAMERA = ROOT / 'scripts' / 'camera_sim'


@pytest.fixture
def doctor(capsys):
    """Return what runs the command; it gives the exit code and the findings by their name."""

    def run(*words):
        code = main(['doctor', '--json', *words])
        found = json.loads(capsys.readouterr().out)
        return code, {each['what']: each for each in found}

    return run


@pytest.fixture(scope='module')
def camera(node_process, new_client):
    """A camera with depth, and the node beside it."""
    node_process(
        {'source': 'scene', 'item': 'scene_3', 'rate': 10.0},
        script=CAMERA,
        arguments=['-r', '__ns:=/well'],
    )
    node_process(profile='offline', arguments=['-r', '__ns:=/well'])
    client = new_client('well')
    client.wait_for_server()
    client.wait_for_state('active')
    client.until(lambda: client.node.count_publishers('depth'), 'the camera')
    return client


def test_a_healthy_node_is_found_healthy(doctor, camera):
    code, found = doctor('--profile', 'offline', '--namespace', 'well')
    assert {each['level'] for each in found.values()} <= {'OK'}, found
    assert code == 0
    assert 'rgb8 640x480, reliable' in found['camera']['said']
    assert '640x480' in found['depth']['said']
    assert found['node']['said'] == '/well/perception is active'


def pretend_to_be_active(client):
    """Have a client answer for the node, so that the doctor does not wait for one."""

    def answer(_, response):
        response.current_state.label = 'active'
        return response

    client.node.create_service(GetState, 'perception/get_state', answer)


@pytest.mark.parametrize(
    ('lost', 'level', 'said'), [(1, 'OK', 'is active'), (3, 'FAIL', 'does not answer')]
)
def test_a_node_whose_reply_is_lost_is_asked_again(
    doctor, new_client, monkeypatch, lost, level, said
):
    monkeypatch.setattr(graph_doctor, '_SERVICE_TIMEOUT', 0.5)
    client = new_client(f'deaf{lost}')
    client.camera(make_scene(3, width=320, height=240, sentences=False).frame.image)
    asked, over = [], threading.Event()

    def answer(_, response):
        asked.append(1)
        if len(asked) <= lost:
            # Longer than it is waited for.
            over.wait(graph_doctor._SERVICE_TIMEOUT + 0.5)
        response.current_state.label = 'active'
        return response

    client.node.create_service(GetState, 'perception/get_state', answer)
    _, found = doctor('--profile', 'offline', '--namespace', f'deaf{lost}')
    over.set()
    assert (found['node']['level'], said in found['node']['said']) == (level, True), found
    assert len(asked) > 1


def test_a_camera_that_is_not_there_is_told_with_those_that_are(doctor, camera):
    code, found = doctor('--profile', 'offline', '--namespace', 'elsewhere')
    assert code == 1
    assert found['camera']['level'] == 'FAIL'
    assert '/well/image' in found['camera']['cure']
    assert found['node']['level'] == 'WARN'


def test_what_does_not_fit_the_image_is_told(doctor, new_client):
    client = new_client('odd')
    pretend_to_be_active(client)
    frame = make_scene(3, width=320, height=240, sentences=False).frame
    client.camera(frame.image)
    client.camera(Image(height=2, width=2, encoding='16UC1', step=4, data=bytes(8)), 'depth')
    info = CameraInfo(height=240, width=320, distortion_model='plumb_bob', d=[0.1] + [0.0] * 4)
    client.camera(info, 'camera_info')
    code, found = doctor('--profile', 'offline', '--namespace', 'odd')
    assert code == 1
    assert found['depth']['level'] == 'FAIL'
    assert '2x2, the image 320x240' in found['depth']['said']
    assert 'aligned' in found['depth']['cure']
    assert found['camera_info']['level'] == 'WARN'
    assert 'distortion' in found['camera_info']['said']


def test_a_topic_of_another_kind_and_an_unknown_encoding_are_told(doctor, new_client):
    client = new_client('strange')
    pretend_to_be_active(client)
    client.camera(CameraInfo(), 'image')
    assert doctor('--profile', 'offline', '--namespace', 'strange')[1]['camera']['level'] == 'FAIL'
    picture = Image(height=2, width=2, encoding='rainbow', step=4, data=bytes(8))
    client.camera(picture, 'other')
    words = ('--profile', 'offline', '--namespace', 'strange', '--image', '/strange/other')
    found = doctor(*words)[1]['camera']
    assert found['level'] == 'FAIL'
    assert 'rainbow' in found['said']


@pytest.fixture
def remote(doctor):
    def run(url, model=MODEL):
        words = ['-p', f'server.base_url:={url}', '-p', f'reasoner.model:={model}']
        return doctor(
            '--profile', 'remote', '--no-ros', '-p', 'segmenter.backend:=grabcut', *words
        )

    return run


def test_a_server_with_and_without_the_model_and_no_server_are_told(remote, monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', 'sk-nobody-may-read-this')
    with running() as server:
        code, found = remote(server.url)
        assert (code, found['server']['level']) == (0, 'OK')
        code, found = remote(server.url, 'another')
        assert (code, found['server']['level']) == (1, 'FAIL')
        assert MODEL in found['server']['said']
        url = server.url
    code, found = remote(url)
    assert (code, found['server']['level']) == (1, 'FAIL')
    assert 'Start it' in found['server']['cure']
    assert 'sk-nobody' not in str(found)
    assert remote('')[1]['server']['level'] == 'FAIL'


def test_the_robots_profile_without_gpu_and_weights_says_what_is_missing(doctor):
    torch = pytest.importorskip('torch')
    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    code, found = doctor('--no-ros')
    assert code == 1
    assert found['packages of transformers']['level'] == 'OK'
    assert found['GPU']['level'] == 'FAIL'
    assert 'hf download Ricky06662/VisionReasoner-7B' in found['weights of the reasoner']['said']
    assert found['weights of the segmenter']['level'] == 'FAIL'


def test_small_checkpoints_are_found_complete_and_cut_ones_not(
    doctor, tiny_qwen2_5_vl, tiny_sam2, tmp_path
):
    words = ['--no-ros', '-p', f'segmenter.model:={tiny_sam2}', '-p', 'device:=cpu']
    _, found = doctor(*words, '-p', f'reasoner.model:={tiny_qwen2_5_vl}')
    assert found['weights of the reasoner']['level'] == 'OK'
    assert found['weights of the segmenter']['level'] == 'OK'
    assert found['GPU']['level'] == 'OK', 'a CPU is enough'
    folder = tmp_path / 'cut'
    folder.mkdir()
    for path in tiny_qwen2_5_vl.iterdir():
        data = path.read_bytes()
        cut = path.suffix == '.safetensors'
        (folder / path.name).write_bytes(data[: len(data) // 2] if cut else data)
    code, found = doctor(*words, '-p', f'reasoner.model:={folder}')
    assert (code, found['weights of the reasoner']['level']) == (1, 'FAIL')


@pytest.mark.parametrize('device', ['cpu', 'auto'])
def test_the_small_reasoner_that_ships_needs_nothing_more(doctor, device):
    pytest.importorskip('torch')
    code, found = doctor('--no-ros', '--profile', 'mini', '-p', f'device:={device}')
    assert code == 0
    assert found['GPU']['level'] == 'OK'
    assert '3.9 M parameters, 7.' in found['weights of the reasoner']['said']


@pytest.mark.parametrize('dds', ['fastrtps', 'fastdds'])
def test_shared_memory_that_nobody_holds_is_told_and_what_is_held_is_not(tmp_path, dds):
    names = (f'{dds}_1f', f'{dds}_1f_el', f'{dds}_port7410', f'{dds}_port7410_sl')
    for name in (*names, f'sem.{dds}_port7410_mutex', f'{dds}_port7412', 'other'):
        (tmp_path / name).write_bytes(b'')
    assert abandoned(tmp_path) == [], 'their owners may not have locked them yet'
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    with (tmp_path / f'{dds}_port7410_sl').open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        left = abandoned(tmp_path)
        assert left == [tmp_path / f'{dds}_1f', tmp_path / f'{dds}_1f_el']
    (finding,) = check_shared_memory(tmp_path)
    assert finding.level.value == 'WARN'
    assert finding.message.startswith('5 files')
    assert 'fastdds shm clean' in finding.hint
    (finding,) = check_shared_memory(tmp_path / 'nowhere')
    assert finding.level.value == 'OK'


@pytest.mark.skipif(not shutil.which('fastdds'), reason='another middleware')
def test_what_a_killed_node_leaves_is_found_and_what_a_living_one_holds_is_not(
    node_process, new_client
):
    node = node_process(profile='offline', arguments=['-r', '__ns:=/killed'])
    client = new_client('killed')
    client.wait_for_state('active')
    before = set(abandoned())
    node.kill()
    client.until(lambda: set(abandoned()) - before, 'what the node left')


def test_the_table_is_for_people(capsys):
    assert main(['doctor', '--profile', 'offline', '--no-ros']) == 0
    said = capsys.readouterr().out
    assert 'packages of attributes' in said
    assert np.char.count(said, 'OK') >= 2
