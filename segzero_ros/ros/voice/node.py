"""The node `voice`: what is said to a microphone, on a topic or in a file goes to `query` as text.

    ros2 run segzero_ros voice_node --ros-args -r __ns:=/segzero -p wake_phrase:='hello robot'

Listening happens in a thread of its own; the executor's thread serves parameters, reports, and
takes the sound of a topic.
"""

from __future__ import annotations

from collections.abc import Sequence
import logging
from pathlib import Path
import sys
import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String

from segzero_ros.config import BY_NAME, ParameterError
from segzero_ros.extras import lacking
from segzero_ros.ros import log_bridge
from segzero_ros.ros.health.diagnostics import make_status
from segzero_ros.ros.message_factory import clean_text
from segzero_ros.ros.parameters import declare
from segzero_ros.ros.process import leave, spin, StopSignals
from segzero_ros.ros.voice.audio_topic import AudioTopic
from segzero_ros.ros.voice.parameters import SPECS, take_old_names
from segzero_ros.speech.base import Recogniser, Source, SpeechError
from segzero_ros.speech.recogniser_loop import RecogniserLoop, SpeechCallbacks, WakePhrase

# How long to wait before a device that is gone is tried again, in seconds.
RETRY = 2.0
# How long the speech of a file waits for somebody who hears the queries, in seconds.
PATIENCE = 20.0
_BURST = 100

_logger = logging.getLogger(__name__)


class VoiceNode(Node):
    """Listens, and publishes what was said.

    Raises:
        ParameterError: a parameter was given a value that it cannot have.
        SpeechError: the engine, a WAV file or the messages of a topic cannot be had.
    """

    def __init__(self) -> None:
        super().__init__('voice')
        self._log = log_bridge.connect(self.get_logger())
        for warning in declare(self, SPECS, others=BY_NAME, rename=take_old_names):
            _logger.warning(warning)
        # What is missing for a topic or a file stays so; a microphone may be plugged in later.
        self._audio = AudioTopic(self) if self._value('source') == 'topic' else None
        self._recogniser = self._load()
        self._recogniser_loop = RecogniserLoop(
            self._recogniser,
            WakePhrase(self._value('wake_phrase'), self._value('wake_time')),
            self._value('min_words'),
            self._value('max_utterance'),
        )
        self._source = self._open() if self._value('source') == 'wav' else None
        self._queries = self.create_publisher(String, 'query', QoSProfile(depth=_BURST))
        self._partial = self.create_publisher(String, 'speech', QoSProfile(depth=_BURST))
        self._health = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._said = ''
        self._error = ''
        self._absence = ''
        self._dropped = 0.0
        self._ended = False
        self._stop = threading.Event()
        self.create_timer(1.0, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))
        # A daemon: a device that does not let go must not keep the process.
        threading.Thread(target=self._listen, name='listening', daemon=True).start()

    def finish(self) -> None:
        """Let the source go and leave the graph."""
        self._stop.set()
        if self._source is not None:
            self._source.close()
        log_bridge.disconnect(self._log)
        self.destroy_node()

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _load(self) -> Recogniser:
        try:
            if self._value('engine') == 'faster_whisper':
                from segzero_ros.speech.whisper_recogniser import WhisperRecogniser

                return WhisperRecogniser(
                    self._value('whisper_model'),
                    self._value('whisper_device'),
                    self._value('language'),
                )
            from segzero_ros.speech.pocketsphinx_recogniser import PocketsphinxRecogniser
        except ImportError as error:
            raise SpeechError(f'{lacking("Hearing needs", error, "voice")}.') from error
        nouns = self._value('nouns').split(',')
        phrase = self._value('wake_phrase')
        made = PocketsphinxRecogniser(self._value('vocabulary'), nouns, phrase)
        if made.unpronounceable:
            _logger.warning(
                'Not heard, for want of a pronunciation: %s. Describe these by colour, shape or '
                'place.',
                ', '.join(made.unpronounceable),
            )
        return made

    def _open(self) -> Source:
        if self._audio is not None:
            return self._audio.open()
        if self._value('source') == 'wav':
            from segzero_ros.speech.wav_source import WavSource

            path = Path(self._value('path')).expanduser()
            return WavSource(path, real_time=self._value('real_time'))
        from segzero_ros.speech.microphone import Microphone

        return Microphone(self._value('microphone'))

    def _listen(self) -> None:
        """Listen until the sound or the node ends; open a device that is gone again and again."""
        callbacks = SpeechCallbacks(self._ask, self._say_so_far, self._ignore)
        while not self._stop.is_set():
            try:
                source = self._source = self._source or self._open()
                if self._value('source') == 'wav':
                    self._wait_for_listener()
                _logger.info('Listening with %s', self._recogniser.name)
                self._error = ''
                self._recogniser_loop.run(source, callbacks)
                self._ended = True
                _logger.info('The sound has ended')
                return
            except SpeechError as error:
                self._lose(str(error))
            except Exception as error:
                _logger.exception('Listening failed')
                self._lose(f'{type(error).__name__}: {error}')
            self._stop.wait(RETRY)

    def _lose(self, error: str) -> None:
        if error != self._error and not self._stop.is_set():
            _logger.error('%s Trying again every %g s', error, RETRY)
        self._error = error
        source, self._source = self._source, None
        if source is not None:
            source.close()

    def _wait_for_listener(self) -> None:
        """Wait until somebody hears the queries, for what a file says is said but once."""
        end = time.monotonic() + PATIENCE
        while not self._queries.get_subscription_count():
            if self._stop.wait(0.05):
                return
            if time.monotonic() > end:
                topic = self.resolve_topic_name('query')
                _logger.warning('Nobody listens to %s; the file is read all the same', topic)
                return

    def _ask(self, text: str) -> None:
        self._said = text
        _logger.info('Heard: %s', text)
        self._queries.publish(String(data=clean_text(text)))

    def _say_so_far(self, text: str) -> None:
        self._partial.publish(String(data=clean_text(text)))

    def _ignore(self, text: str, reason: str) -> None:
        _logger.info('Ignored %r: %s', text, reason)

    def _watch(self, audio: AudioTopic) -> None:
        """Say when nothing comes on the topic, or more than is heard."""
        absence, dropped = audio.absence(), audio.dropped()
        if absence and absence != self._absence:
            _logger.warning(absence)
        self._absence = absence
        if dropped > self._dropped:
            _logger.warning(
                '%.1f s of sound on %s were dropped: it comes faster than it is heard',
                dropped - self._dropped,
                audio.topic,
            )
        self._dropped = dropped

    def _report(self) -> None:
        """Publish how it is, once a second."""
        if self._audio is not None:
            self._watch(self._audio)
        level, message = DiagnosticStatus.OK, f'Listening with {self._recogniser.name}.'
        if self._error:
            level, message = DiagnosticStatus.ERROR, self._error
        elif self._ended:
            message = 'The sound has ended.'
        elif self._absence:
            level, message = DiagnosticStatus.WARN, self._absence
        values = {
            'engine': self._recogniser.name,
            'speaking': str(self._recogniser_loop.speaking),
            'utterances': str(self._recogniser_loop.utterances),
            'listened': f'{self._recogniser_loop.seconds:.0f} s',
            'last query': self._said or 'none',
        }
        name = f'{self.get_fully_qualified_name()}: hearing'
        report = DiagnosticArray(status=[make_status(name, level, message, values)])
        report.header.stamp = self.get_clock().now().to_msg()
        self._health.publish(report)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; return the process's exit code."""
    signals = StopSignals()
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        node = VoiceNode()
    except (ParameterError, SpeechError, InvalidParameterTypeException, RuntimeError) as error:
        sys.stderr.write(f'voice_node: {error}\n')
        rclpy.try_shutdown()
        return 2
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    signals.wake = executor.wake
    spin(executor, lambda: signals.received or not rclpy.ok())
    signals.close()
    node.finish()
    rclpy.try_shutdown()
    leave(0)
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
