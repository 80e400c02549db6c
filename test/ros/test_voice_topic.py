"""What is said on an audio topic becomes queries, whichever audio_common says it."""

from __future__ import annotations

from pathlib import Path
import shutil

from diagnostic_msgs.msg import DiagnosticArray
import pytest
from std_msgs.msg import String

pytest.importorskip('pocketsphinx', reason='needs pocketsphinx')
if shutil.which('cmake') is None:
    pytest.skip('needs cmake, to build the messages', allow_module_level=True)

from audio_messages import build, MGONZS13, ROS_DRIVERS
from speaking import speech, write_wav

VOICE = Path(__file__).resolve().parent.parent.parent / 'scripts' / 'voice_node'
SPEAKER = Path(__file__).resolve().parent / 'speaker.py'
COMMAND = 'both yellow plates'
# Which article it hears depends on the last bit of what the machine computes.
# Whether pocketsphinx hears the last s depends on espeak-ng's sound.
HEARD = 'yellow plate'


@pytest.fixture(scope='module')
def ros_drivers():
    return build(ROS_DRIVERS)


@pytest.fixture(scope='module')
def mgonzs13():
    return build(MGONZS13)


@pytest.fixture(scope='module')
def client(new_client):
    return new_client()


@pytest.fixture
def said(tmp_path):
    """Give the path of a recorded command, stereo, that ends with the last word."""
    samples, rate = speech(COMMAND)
    return str(write_wav(tmp_path / 'said.wav', samples[: -int(1.1 * rate)], rate, channels=2))


def messages(inbox):
    """Return what waits until the node reports what is wanted about itself."""

    def wait(wanted):
        return inbox.wait_for(
            lambda report: (
                report.status[0].name == '/voice: speech' and wanted in report.status[0].message
            )
        ).status[0]

    return wait


@pytest.mark.parametrize('kind', ['ros_drivers', 'mgonzs13'])
def test_a_command_that_is_said_on_a_topic_becomes_a_query(
    node_process, client, said, kind, request
):
    environment = request.getfixturevalue(kind)
    queries = client.listen(String, 'query', 100)
    report = messages(client.listen(DiagnosticArray, '/diagnostics', 100))
    node = node_process({'source': 'topic'}, script=VOICE, environment=environment)
    assert report('it has no publisher').level == b'\1'
    speaker = node_process({'path': said}, script=SPEAKER, environment=environment)
    # The publisher falls silent right after the last word.
    assert HEARD in queries.wait_for().data, node.output
    assert report('Listening').level == b'\0'
    speaker.stop()
    report('No audio any more on /audio')
    code, seconds = node.stop()
    assert (code, 'Traceback' in node.output, 'dropped' in node.output) == (0, False, False)
    assert seconds < 2


@pytest.mark.parametrize('latched', [True, False])
def test_how_it_is_written_is_heard_also_when_it_was_said_before(
    node_process, client, said, ros_drivers, latched
):
    """audio_capture says it once at its start, latched; others say it again and again."""
    queries = client.listen(String, 'query', 100)
    options = {'path': said, 'latched': latched}
    speaker = node_process(options, script=SPEAKER, environment=ros_drivers)
    client.until(lambda: client.node.count_publishers('audio_info') == 1, 'it has been said')
    node = node_process({'source': 'topic'}, script=VOICE, environment=ros_drivers)
    assert HEARD in queries.wait_for().data, node.output
    assert 'incompatible QoS' not in node.output
    speaker.stop()
    node.stop()


def test_compressed_sound_is_refused_until_its_publisher_is_another(
    node_process, client, said, ros_drivers
):
    queries = client.listen(String, 'query', 100)
    report = messages(client.listen(DiagnosticArray, '/diagnostics', 100))
    node = node_process({'source': 'topic'}, script=VOICE, environment=ros_drivers)
    speaker = node_process(
        {'path': said, 'coding': 'mp3'}, script=SPEAKER, environment=ros_drivers
    )
    node.wait_for_output(r'/audio cannot be used: it is compressed \(mp3\).*format:=wave')
    assert report('compressed').level == b'\2'
    speaker.stop()
    speaker = node_process({'path': said}, script=SPEAKER, environment=ros_drivers)
    assert HEARD in queries.wait_for().data, node.output
    assert node.output.count('compressed') == 1
    speaker.stop()
    node.stop()


def test_another_audio_common_than_the_publishers_is_told(
    node_process, client, said, ros_drivers, mgonzs13
):
    report = messages(client.listen(DiagnosticArray, '/diagnostics', 100))
    node = node_process({'source': 'topic'}, script=VOICE, environment=ros_drivers)
    speaker = node_process({'path': said}, script=SPEAKER, environment=mgonzs13)
    found = report('AudioStamped').message
    assert 'the installed audio_common_msgs has' in found
    assert 'AudioData' in found
    speaker.stop()
    node.stop()


def test_without_the_messages_it_ends_and_says_what_to_install(node_process):
    node = node_process({'source': 'topic'}, script=VOICE)
    assert node.wait() == 2
    (line,) = [line for line in node.output.splitlines() if 'voice_node:' in line]
    assert 'apt-get install ros-jazzy-audio-common-msgs' in line
    assert 'Traceback' not in node.output
