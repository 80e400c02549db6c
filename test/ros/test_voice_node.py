"""Spoken commands reach the right object: speech, voice node, perception node, mask."""

from __future__ import annotations

from pathlib import Path
import re

from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
import pytest
from std_msgs.msg import String
import yaml

pytest.importorskip('pocketsphinx', reason='needs pocketsphinx')

from speaking import speech_of, write_wav

from segzero_ros.msg import SegmentationResult as Result
from segzero_ros.ros.message_factory import segments_from
from segzero_ros.ros.parameters import BY_NAME
from segzero_ros.ros.parameters import SPECS as PERCEPTION_SPECS
from segzero_ros.ros.voice.parameters import SPECS
from segzero_ros.simulation import make_scene

ROOT = Path(__file__).resolve().parent.parent.parent
VOICE, CAMERA = ROOT / 'scripts' / 'voice_node', ROOT / 'scripts' / 'camera_sim'
SCENE = 3
COUNT, ENOUGH = 10, 8
DEADLINE = 40.0


@pytest.fixture(scope='module')
def scene():
    return make_scene(SCENE)


@pytest.fixture(scope='module')
def client(node_process, new_client):
    camera = {'source': 'scene', 'item': f'scene_{SCENE}', 'rate': 5.0}
    node_process(camera, script=CAMERA)
    node_process({'query.queue_size': 50}, profile='offline')
    client = new_client()
    client.wait_for_server()
    client.wait_for_state('active')
    client.until(lambda: client.once('ready').status != Result.NO_IMAGE, 'a frame')
    return client


@pytest.fixture
def voice(node_process, tmp_path):
    """Return what starts the node on spoken sentences."""

    def start(texts, **parameters):
        path = write_wav(tmp_path / 'said.wav', *speech_of(texts))
        values = {'source': 'wav', 'path': str(path), 'real_time': False, **parameters}
        return node_process(values, script=VOICE)

    return start


def is_right(result, scene, sentence):
    """Return whether the masks cover what the sentence means, by half or more."""
    found = np.zeros(scene.labels.shape, bool)
    for segment in segments_from(result):
        found |= segment.full_mask(*found.shape)
    true = np.any([scene.mask(index) for index in sentence.targets], axis=0)
    return (found & true).sum() / (found | true).sum() >= 0.5


def test_of_ten_spoken_commands_eight_reach_the_right_object(client, voice, scene):
    commands = [sentence for sentence in scene.sentences if sentence.targets][:COUNT]
    client.results.forget()
    node = voice([sentence.text for sentence in commands])
    # Half a minute of speech takes a busy machine longer than that.
    node.wait_for_output('The audio has ended', 4 * DEADLINE)
    heard = re.findall(r'Recognised: (.*)|(Ignored)', node.output)
    assert len(heard) == COUNT, node.output
    queries = [text for text, _ in heard if text]
    results = client.results.wait_for_count(len(queries))
    assert [result.query for result in results] == queries
    answers = iter(results)
    right = [
        bool(text) and is_right(next(answers), scene, sentence)
        for sentence, (text, _) in zip(commands, heard, strict=True)
    ]
    assert sum(right) >= ENOUGH, list(zip(heard, right, strict=True))
    code, seconds = node.stop()
    assert (code, 'Traceback' in node.output) == (0, False)
    assert seconds < 2


def test_words_come_while_they_are_said_and_the_node_tells_how_it_is(client, voice):
    partial = client.listen(String, 'speech', 100)
    health = client.listen(DiagnosticArray, '/diagnostics', 100)
    node = voice(['both yellow plates'], real_time=True)
    # Whether pocketsphinx hears the last s depends on espeak-ng's sound.
    node.wait_for_output('Recognised: both yellow plate')
    partial.wait_for(lambda message: message.data.startswith('both'))
    report = health.wait_for(
        lambda message: (
            message.status[0].name == '/voice: speech'
            and 'ended' in message.status[0].message
            and any(each.value.startswith('both yellow') for each in message.status[0].values)
        )
    )
    assert report.status[0].level == b'\0'


def test_without_the_wake_phrase_nothing_is_asked(client, voice):
    client.results.forget()
    node = voice(['both mugs', 'hello robot both mugs'], wake_phrase='hello robot')
    node.wait_for_output('The audio has ended')
    assert re.findall(r'Recognised: (.*)', node.output) == ['both mugs']
    client.results.wait_for_count(1)
    assert client.once('ready')
    assert [result.query for result in client.results] == ['both mugs', 'ready']


@pytest.mark.parametrize(
    ('parameters', 'complaint'),
    [
        ({'source': 'wav', 'path': '/nowhere.wav'}, r'/nowhere\.wav is not a PCM WAV file'),
        ({'source': 'radio'}, 'source'),
        ({'use_sim_time': 'perhaps'}, 'use_sim_time'),
        ({'source': 'wav', 'wake_phrase': 'hey xyzzy'}, 'no pronunciation of xyzzy'),
        ({'engine': 'faster_whisper', 'whisper_model': '/nowhere'}, r'faster_whisper|Whisper'),
    ],
)
def test_what_cannot_be_heard_ends_it_with_one_line(node_process, parameters, complaint):
    node = node_process(parameters, script=VOICE)
    assert node.wait() == 2
    assert re.search(complaint, node.output)
    assert 'Traceback' not in node.output


def test_a_microphone_that_is_not_there_is_tried_again_and_again(node_process):
    node = node_process({'source': 'microphone', 'microphone': 'no such device'}, script=VOICE)
    line = node.wait_for_output(r'Retrying every')
    assert 'PortAudio' in line or 'cannot be opened' in line
    code, seconds = node.stop()
    assert (code, 'Traceback' in node.output) == (0, False)
    assert seconds < 2


def test_a_file_for_all_nodes_gives_neither_what_is_the_others(node_process, new_client):
    own = {spec.name: spec.default for spec in SPECS}
    others = {spec.name: spec.default for spec in PERCEPTION_SPECS}
    assert not set(own) & set(others), 'one name, two nodes'
    both = {**own, **others, 'device': 'cuda:0', 'autostart': False}
    both['qos_overrides./result.publisher.depth'] = 5
    voice = node_process(both, script=VOICE, arguments=['-r', '__ns:=/both'])
    perception = node_process(both, arguments=['-r', '__ns:=/both'])
    hearing, seeing = new_client('both', 'voice'), new_client('both')
    assert hearing.get_parameter('microphone') == ''
    assert seeing.get_parameter('device') == 'cuda:0'
    voice.wait_for_output('Retrying|Listening')
    for node in (voice, perception):
        assert 'There is no parameter' not in node.output
        assert 'is called' not in node.output


@pytest.mark.parametrize(
    ('given', 'taken', 'warned'),
    [
        ({'device': 'USB Audio'}, 'USB Audio', True),
        ({'device': 3}, '3', True),
        ({'device': 'USB Audio', 'microphone': 'Jabra'}, 'Jabra', False),
        ({'device': 'cpu', 'microphone': 2}, '2', False),
        ({'device': ''}, '', False),
    ],
)
def test_a_microphone_may_be_a_number_and_its_old_name_is_taken_with_a_warning(
    node_process, new_client, given, taken, warned
):
    space = f'old{len(str(given))}'
    node = node_process(given, script=VOICE, arguments=['-r', f'__ns:=/{space}'])
    assert new_client(space, 'voice').get_parameter('microphone') == taken
    node.wait_for_output('Retrying|Listening')
    warnings = [line for line in node.output.splitlines() if 'device is called microphone' in line]
    assert len(warnings) == warned
    assert 'There is no parameter' not in node.output


def test_a_name_that_no_node_knows_is_warned_about_with_the_nearest_of_all(node_process):
    node = node_process({'micropone': 'USB', 'camera.max_image_agee': 3.0}, script=VOICE)
    node.wait_for_output("no parameter 'micropone'; the nearest is 'microphone'. It is ignored")
    node.wait_for_output(
        "'camera.max_image_agee'; the nearest is 'camera.max_image_age'. It is ignored"
    )
    assert BY_NAME['camera.max_image_age'].default == 5.0


def test_the_file_of_parameters_is_complete():
    content = yaml.safe_load((ROOT / 'config' / 'voice.yaml').read_text())
    values = content['/**']['ros__parameters']
    assert set(values) == {spec.name for spec in SPECS}
    for spec in SPECS:
        assert spec.read(values[spec.name]) == values[spec.name]
        if spec.name != 'nouns':
            assert values[spec.name] == spec.default
