"""`ros2 launch segzero_ros perception.launch.py` starts the node that its arguments ask for.

Needs the real launch packages and the `ros2` command of a ROS 2 installation; skipped without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
import importlib.util
import os
from pathlib import Path
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from types import ModuleType
from typing import Any
import urllib.request

import pytest
import yaml

# Not `launch` itself: the repository's folder of that name would do.
pytest.importorskip('launch.actions', reason='needs the packages launch and launch_ros')
pytest.importorskip('launch_ros.actions', reason='needs the packages launch and launch_ros')
ROS2 = shutil.which('ros2')
if ROS2 is None:
    pytest.skip('needs the command ros2', allow_module_level=True)

from sensor_msgs.msg import CompressedImage

from segzero_ros.config import read_profile
from segzero_ros.parameter_table import BY_NAME
from segzero_ros.ros.camera_sim.node import SPECS as CAMERA_SPECS

ROOT = Path(__file__).resolve().parent.parent.parent
FILE = ROOT / 'launch' / 'perception.launch.py'
STAND_IN = ROOT / 'test' / 'llama_server_stand_in.py'
PROFILES = ('robot', 'remote', 'offline', 'mini')
CHOICES = {
    'profile': ['robot', 'remote', 'offline', 'mini'],
    'image_transport': ['', 'raw', 'compressed'],
    'log_level': ['debug', 'info', 'warn', 'error', 'fatal'],
    'fast_lane': ['', 'true', 'false', 'True', 'False'],
    'track': ['', 'true', 'false', 'True', 'False'],
    'broadcast_tf': ['', 'true', 'false', 'True', 'False'],
    'autostart': ['', 'true', 'false', 'True', 'False'],
    'use_sim_time': ['', 'true', 'false', 'True', 'False'],
    'serve': ['', 'llama_cpp', 'vllm'],
    'rviz': ['true', 'false', 'True', 'False'],
    'voice': ['true', 'false', 'True', 'False', 'topic'],
    'respawn': ['true', 'false', 'True', 'False'],
}
DEFAULTS = {
    'profile': 'robot',
    'namespace': 'segzero',
    'log_level': 'info',
    'rviz': 'false',
    'voice': 'false',
    'fixed_frame': 'camera_link',
    'respawn': 'false',
}
ARGUMENTS = [
    'profile',
    'image',
    'depth',
    'camera_info',
    'image_transport',
    'reasoner_model',
    'segmenter_model',
    'fast_lane',
    'device',
    'base_url',
    'serve',
    'serve_args',
    'params_file',
    'namespace',
    'track',
    'target_frame',
    'broadcast_tf',
    'autostart',
    'log_level',
    'rviz',
    'voice',
    'audio',
    'fixed_frame',
    'respawn',
    'use_sim_time',
]


class Launch:
    """A running `ros2 launch` and what it prints."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self._log = log
        command = [str(ROS2), 'launch', 'segzero_ros', 'perception.launch.py', *arguments]
        with log.open('w') as stream:
            self.process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)

    @property
    def output(self) -> str:
        return self._log.read_text(errors='replace')

    def stop(self) -> float:
        """Press Ctrl-C; return the seconds that the end took."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)
        return time.monotonic() - started

    def close(self) -> None:
        if self.process.poll() is None:
            self.stop()


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launch]]:
    """Give a function that launches with arguments such as `profile:=offline`."""
    with ExitStack() as stack:

        def start(*arguments: str) -> Launch:
            running = Launch(list(arguments), tmp_path / 'launch.log')
            stack.callback(running.close)
            return running

        yield start


@pytest.fixture(scope='module')
def launch_file() -> ModuleType:
    """Give the launch file as a module."""
    spec = importlib.util.spec_from_file_location('perception_launch', FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_argument_is_there_with_default_choices_and_description(
    launch_file: ModuleType,
) -> None:
    description = launch_file.generate_launch_description()
    declared = {argument.name: argument for argument in description.get_launch_arguments()}
    assert list(declared) == ARGUMENTS
    for name, argument in declared.items():
        default = ''.join(part.text for part in argument.default_value)
        assert default == DEFAULTS.get(name, '')
        assert argument.choices == CHOICES.get(name)
        assert len(argument.description) > 20


def given(**arguments: str) -> dict[str, str]:
    return {**dict.fromkeys(ARGUMENTS, ''), **DEFAULTS, **arguments}


@pytest.mark.parametrize(
    ('arguments', 'topics'),
    [
        ({}, {}),
        (
            {'image': '/cam/image_raw'},
            {'image': '/cam/image_raw', 'camera_info': '/cam/camera_info'},
        ),
        ({'image': 'image_raw'}, {'image': 'image_raw', 'camera_info': 'camera_info'}),
        (
            {'image': '/image/image', 'camera_info': '/info', 'depth': '/depth'},
            {'image': '/image/image', 'camera_info': '/info', 'depth': '/depth'},
        ),
        (
            {'image': '/cam/image_raw', 'image_transport': 'compressed'},
            {'image': '/cam/image_raw/compressed', 'camera_info': '/cam/camera_info'},
        ),
        (
            {'image': '/cam/image_raw/compressed'},
            {'image': '/cam/image_raw/compressed', 'camera_info': '/cam/camera_info'},
        ),
        (
            {'image': '/cam/compressed_image', 'image_transport': 'compressed'},
            {'image': '/cam/compressed_image', 'camera_info': '/cam/camera_info'},
        ),
        ({'image_transport': 'compressed'}, {}),
        ({'depth': '/depth'}, {'depth': '/depth'}),
    ],
)
def test_topics_are_remapped_where_they_are_given(
    launch_file: ModuleType, arguments: dict[str, str], topics: dict[str, str]
) -> None:
    assert launch_file.remappings(given(**arguments)) == topics


def test_the_voice_hears_the_topic_that_is_given(launch_file: ModuleType) -> None:
    assert launch_file.voice_remappings('') == {}
    for audio, info in (
        ('/audio/audio', '/audio/audio_info'),
        ('/microphone', '/audio_info'),
        ('sound', 'audio_info'),
    ):
        assert launch_file.voice_remappings(audio) == {'audio': audio, 'audio_info': info}
    for voice in ('true', 'topic'):
        node = launch_file.voice(given(voice=voice, audio='/audio/audio'), ROOT)
        assert (node.node_package, node.node_executable) == ('segzero_ros', 'voice_node')


def test_arguments_set_the_parameters_of_the_node(launch_file: ModuleType) -> None:
    assert launch_file.parameters(given(image='/cam/image_raw/compressed')) == {}
    arguments = given(reasoner_model='a/b', base_url='http://x/v1', device='cpu', track='True')
    values = launch_file.parameters(arguments)
    assert values == {
        'reasoner.model': 'a/b',
        'server.base_url': 'http://x/v1',
        'device': 'cpu',
        'track': True,
    }
    frames = launch_file.parameters(given(target_frame='base_link', broadcast_tf='true'))
    assert frames == {'target_frame': 'base_link', 'broadcast_tf': True}
    lane = launch_file.parameters(given(fast_lane='true', segmenter_model='facebook/sam3'))
    assert lane == {
        'segmenter.backend': 'sam3_fast_lane',
        'segmenter.model': 'facebook/sam3',
    }
    assert launch_file.parameters(given(fast_lane='false')) == {}
    assert set(launch_file.TEXT_PARAMETERS.values()) < set(BY_NAME)


def test_rviz_is_started_when_asked_for_and_looks_into_the_namespace(
    launch_file: ModuleType,
) -> None:
    def looks(**arguments: str) -> list[tuple[str, str]]:
        node = launch_file.rviz(given(**arguments), ROOT)
        assert (node.node_package, node.node_executable) == ('rviz2', 'rviz2')
        return launch_file.rviz_remappings(arguments['namespace'])

    assert looks(namespace='segzero') == looks(namespace='/segzero') == []
    assert looks(namespace='robot1/eyes') == [
        (f'/segzero/{topic}', f'/robot1/eyes/{topic}') for topic in launch_file.RVIZ_TOPICS
    ]
    assert ('/segzero/markers', '/markers') in looks(namespace='')


def test_the_displays_of_rviz_listen_to_what_is_remapped(launch_file: ModuleType) -> None:
    config = yaml.safe_load((ROOT / 'rviz' / 'perception.rviz').read_text())
    displays = config['Visualization Manager']['Displays']
    topics = {display['Topic']['Value'] for display in displays if 'Topic' in display}
    assert topics == {f'/segzero/{topic}' for topic in launch_file.RVIZ_TOPICS}


def test_rviz_shows_everything_in_the_fixed_frame(launch_file: ModuleType) -> None:
    displays = ['-d', str(ROOT / 'rviz' / 'perception.rviz')]
    assert launch_file.rviz_arguments(given(), ROOT) == [*displays, '-f', 'camera_link']
    own = given(fixed_frame='base_link')
    assert launch_file.rviz_arguments(own, ROOT) == [*displays, '-f', 'base_link']
    assert launch_file.rviz_arguments(given(fixed_frame=''), ROOT) == displays
    config = yaml.safe_load((ROOT / 'rviz' / 'perception.rviz').read_text())
    fixed = config['Visualization Manager']['Global Options']['Fixed Frame']
    camera = {spec.name: spec.default for spec in CAMERA_SPECS}
    assert fixed == camera['parent_frame'] == 'camera_link'


def test_a_node_that_dies_is_started_again_where_that_is_asked_for(
    launch: Callable[..., Launch], new_client: Callable[..., Any]
) -> None:
    running = launch('profile:=offline', 'respawn:=true', 'namespace:=again')
    client = new_client('again')
    client.wait_for_state('active')
    first = processes(running)
    for pid in first:
        os.kill(pid, signal.SIGKILL)
    client.until(lambda: len(processes(running)) == 2, 'launch started it again')
    client.until(lambda: 'Active' in running.output.split('process has died')[-1], 'active again')
    assert running.stop() < 2 + 1, "launch's own second"
    assert running.process.returncode == 0
    assert len(processes(running)) == 2, 'Ctrl-C ended it for good'


def test_a_node_that_dies_stays_dead_by_default(
    launch: Callable[..., Launch], new_client: Callable[..., Any]
) -> None:
    running = launch('profile:=offline', 'autostart:=false', 'namespace:=once')
    new_client('once').wait_for_state('unconfigured')
    (pid,) = processes(running)
    os.kill(pid, signal.SIGKILL)
    assert running.process.wait(30) == 0, 'nothing is left to wait for'
    assert processes(running) == [pid]


def processes(running: Launch) -> list[int]:
    """Return the processes of the node that launch has started so far."""
    return [int(pid) for pid in re.findall(r'started with pid \[(\d+)\]', running.output)]


def test_one_file_of_parameters_serves_perception_and_voice(
    launch: Callable[..., Launch], new_client: Callable[..., Any], tmp_path: Path
) -> None:
    pytest.importorskip('pocketsphinx', reason='needs pocketsphinx')
    own = tmp_path / 'own.yaml'
    parameters = {
        'device': 'cuda:7',
        'camera.max_image_age': 9.5,
        'wake_time': 4.0,
        'microphone': 3,
    }
    own.write_text(yaml.safe_dump({'/**': {'ros__parameters': parameters}}))
    running = launch(
        'profile:=offline',
        'voice:=true',
        f'params_file:={own}',
        'namespace:=two',
        'autostart:=false',
        'use_sim_time:=true',
    )
    perception, voice = new_client('two'), new_client('two', 'voice')
    assert perception.get_parameter('device') == 'cuda:7'
    assert perception.get_parameter('camera.max_image_age') == 9.5
    assert voice.get_parameter('microphone') == '3'
    assert voice.get_parameter('wake_time') == 4.0
    for client in (perception, voice):
        assert client.get_parameter('use_sim_time') is True
    assert 'There is no parameter' not in running.output
    assert 'is called' not in running.output


def of_profile(profile: str) -> dict[str, Any]:
    return read_profile(profile)


@pytest.mark.parametrize('profile', PROFILES)
def test_a_profile_gives_the_node_its_parameters(
    launch: Callable[..., Launch], new_client: Callable[..., Any], profile: str
) -> None:
    running = launch(f'profile:={profile}', 'autostart:=false')
    client = new_client('segzero')
    expected = {**of_profile(profile), 'autostart': False, 'use_sim_time': False}
    assert {name: client.get_parameter(name) for name in expected} == expected
    assert client.state() == 'unconfigured'
    assert running.stop() < 2 + 1, "launch's own second"
    assert running.process.returncode == 0
    assert 'process has finished cleanly' in running.output
    assert 'There is no parameter' not in running.output


def test_arguments_go_before_the_users_file_and_that_before_the_profile(
    launch: Callable[..., Launch], new_client: Callable[..., Any], tmp_path: Path
) -> None:
    own = tmp_path / 'own.yaml'
    parameters = {
        'device': 'cuda:7',
        'camera.max_image_age': 9.5,
        'server.base_url': 'http://own:1/v1',
    }
    own.write_text(yaml.safe_dump({'/**': {'ros__parameters': parameters}}))
    launch(
        'profile:=remote',
        f'params_file:={own}',
        'namespace:=robot1/eyes',
        'base_url:=http://argument:2/v1',
        'reasoner_model:=7',
        'autostart:=False',
        'use_sim_time:=True',
        'log_level:=debug',
    )
    client = new_client('robot1/eyes')
    expected = {
        **of_profile('remote'),
        'device': 'cuda:7',
        'camera.max_image_age': 9.5,
        'server.base_url': 'http://argument:2/v1',
        'reasoner.model': '7',
        'autostart': False,
        'use_sim_time': True,
    }
    assert {name: client.get_parameter(name) for name in expected} == expected


def test_the_node_listens_where_the_arguments_say(
    launch: Callable[..., Launch], new_client: Callable[..., Any]
) -> None:
    launch(
        'profile:=offline', 'image:=/cam/image_raw/compressed', 'depth:=/cam/depth/compressedDepth'
    )
    client = new_client('segzero')
    client.wait_for_state('active')
    # A subscription follows its publisher's type.
    for topic in ('/cam/image_raw/compressed', '/cam/depth/compressedDepth'):
        client.node.create_publisher(CompressedImage, topic, 1)
    for topic, kind in (
        ('/cam/image_raw/compressed', 'CompressedImage'),
        ('/cam/depth/compressedDepth', 'CompressedImage'),
        ('/cam/camera_info', 'CameraInfo'),
    ):
        # An endpoint can be discovered before the node that it belongs to.
        (listener,) = client.until(
            lambda topic=topic, kind=kind: [
                found
                for found in client.node.get_subscriptions_info_by_topic(topic)
                if 'UNKNOWN' not in found.node_name
                and found.topic_type == f'sensor_msgs/msg/{kind}'
            ],
            f'a node listens to {topic}',
        )
        assert listener.topic_type == f'sensor_msgs/msg/{kind}'
        assert (listener.node_name, listener.node_namespace) == ('perception', '/segzero')


@pytest.fixture
def llama_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Give a function that puts a stand-in for llama-server on the PATH, beside a model."""

    def make(name: str) -> Path:
        folder = tmp_path / 'bin'
        folder.mkdir()
        file = folder / 'llama-server'
        server = shlex.join([sys.executable, str(STAND_IN), name])
        file.write_text(f'#!/bin/sh\nexec {server} "$@"\n')
        file.chmod(0o755)
        monkeypatch.setenv('PATH', f'{folder}{os.pathsep}{os.environ["PATH"]}')
        for model in ('tiny.gguf', 'mmproj-tiny.gguf'):
            (tmp_path / model).touch()
        return tmp_path / 'tiny.gguf'

    return make


def test_a_server_is_started_on_a_free_port_before_the_node_and_ends_with_it(
    launch: Callable[..., Launch], new_client: Callable[..., Any], llama_server: Any
) -> None:
    model = llama_server('serves')
    running = launch(
        'profile:=remote',
        'serve:=llama_cpp',
        f'reasoner_model:={model}',
        'serve_args:=--device none',
    )
    client = new_client('segzero')
    url = client.get_parameter('server.base_url')
    assert re.fullmatch(r'http://127\.0\.0\.1:\d+/v1', url)
    assert client.get_parameter('reasoner.model') == str(model)
    assert f'serving {model} at {url}, asked for --device none' in running.output
    with urllib.request.urlopen(f'{url}/models') as listing:
        assert listing.status == 200
    running.stop()
    assert running.process.returncode == 0, running.output
    with pytest.raises(OSError, match='refused'):
        urllib.request.urlopen(f'{url}/models')


def test_a_server_that_dies_is_told_and_started_again_with_its_node(
    launch: Callable[..., Launch],
    new_client: Callable[..., Any],
    llama_server: Any,
    tmp_path: Path,
) -> None:
    own = tmp_path / 'own.yaml'
    own.write_text(yaml.dump({'/**': {'ros__parameters': {'segmenter.backend': 'grabcut'}}}))
    model = llama_server('serves')
    running = launch(
        'profile:=remote',
        'serve:=llama_cpp',
        f'reasoner_model:={model}',
        f'params_file:={own}',
        'respawn:=true',
        'namespace:=served',
    )
    client = new_client('served')
    client.wait_for_state('active')
    (server,) = servers(running)
    os.kill(server, signal.SIGKILL)
    client.until(lambda: 'process has died' in running.output, 'launch saw it end')
    before = running.output.partition('process has died')[0]
    assert 'llama-server ended by signal 9 while it was in use' in before
    client.until(lambda: len(servers(running)) == 2, 'the server was started again')
    client.until(
        lambda: 'Active' in running.output.partition('process has died')[2], 'active again'
    )
    running.stop()
    assert running.process.returncode == 0, running.output
    assert len(servers(running)) == 2, 'Ctrl-C ended it for good'


def servers(running: Launch) -> list[int]:
    """Return the processes of the server that were started so far."""
    return [int(pid) for pid in re.findall(r'process (\d+): serving', running.output)]


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        ('dies', 'llama-server ended with exit code 1 before it was ready: no such architecture'),
        (None, 'llama-server is not on the PATH: install llama.cpp'),
    ],
)
def test_a_server_that_cannot_be_started_is_one_sentence(
    launch: Callable[..., Launch], llama_server: Any, name: str | None, said: str, tmp_path: Path
) -> None:
    model = llama_server(name or 'serves')
    if name is None:
        (tmp_path / 'bin' / 'llama-server').unlink()
    running = launch('profile:=remote', 'serve:=llama_cpp', f'reasoner_model:={model}')
    running.process.wait(60)
    assert said in running.output and 'Traceback' not in running.output


@pytest.mark.parametrize(
    ('argument', 'complaint'),
    [
        (
            'profile:=robto',
            "\"profile\" .*\"robto\" is not valid.*'robot', 'remote', 'offline', 'mini'",
        ),
        ('log_level:=loud', '"log_level" .*"loud" is not valid'),
        ('params_file:=/nowhere/own.yaml', 'params_file: there is no file /nowhere/own.yaml'),
        ('serve:=ollama', '"serve" .*"ollama" is not valid'),
        ('serve:=vllm', 'serve:=vllm goes with profile:=remote only'),
        ('profile:=remote serve:=vllm', 'serve:=vllm needs the checkpoint to serve'),
        (
            'profile:=remote serve:=vllm base_url:=http://x:1/v1 reasoner_model:=m',
            'give one of the two',
        ),
        ('serve_args:=--seed=1', 'serve_args are for a server that serve:='),
    ],
)
def test_what_cannot_be_is_said_at_once(
    launch: Callable[..., Launch], argument: str, complaint: str
) -> None:
    running = launch(*argument.split())
    assert running.process.wait(30) != 0
    assert re.search(complaint, running.output.replace('\n', ' '))
    assert 'process started' not in running.output
