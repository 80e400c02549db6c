"""The node `voice`: recognises speech of a microphone, topic or file and publishes it on `query`.

    ros2 run segzero_ros voice_node --ros-args -r __ns:=/segzero -p wake_phrase:='hello robot'

Recognition runs in its own thread; the executor's thread serves parameters, diagnostics and the
audio topic.
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

from segzero_ros.extras import lacking
from segzero_ros.parameter_table import BY_NAME, ParameterError
from segzero_ros.ros import log_bridge
from segzero_ros.ros.health.diagnostics import make_status
from segzero_ros.ros.message_factory import clean_text
from segzero_ros.ros.parameters import declare
from segzero_ros.ros.process import exit_now, spin, StopSignals
from segzero_ros.ros.voice.audio_topic import AudioTopic
from segzero_ros.ros.voice.parameters import SPECS, take_old_names
from segzero_ros.speech.base import Recogniser, Source, SpeechError
from segzero_ros.speech.recogniser_loop import RecogniserLoop, SpeechCallbacks, WakePhrase

# Seconds between two attempts to open an audio device.
RETRY_PERIOD = 2.0
# Seconds that a file is held back until `query` has a subscriber.
SUBSCRIBER_TIMEOUT = 20.0
_DEPTH = 100

_logger = logging.getLogger(__name__)


class VoiceNode(Node):
    """Recognises speech and publishes it as queries.

    Raises:
        ParameterError: a parameter has an invalid value.
        SpeechError: the engine, a WAV file or the messages of a topic are not available.
    """

    def __init__(self) -> None:
        super().__init__('voice')
        self._log_handler = log_bridge.connect(self.get_logger())
        for warning in declare(self, SPECS, others=BY_NAME, rename=take_old_names):
            _logger.warning(warning)
        # A topic or file is opened here, so that errors stop the node; a microphone may be plugged
        # in later.
        self._audio = AudioTopic(self) if self._value('source') == 'topic' else None
        self._recogniser = self._load_recogniser()
        self._recogniser_loop = RecogniserLoop(
            self._recogniser,
            WakePhrase(self._value('wake_phrase'), self._value('wake_time')),
            self._value('min_words'),
            self._value('max_utterance'),
        )
        self._source = self._open_source() if self._value('source') == 'wav' else None
        self._queries = self.create_publisher(String, 'query', QoSProfile(depth=_DEPTH))
        self._partial = self.create_publisher(String, 'speech', QoSProfile(depth=_DEPTH))
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._last_query = ''
        self._error = ''
        self._no_audio_reason = ''
        self._dropped = 0.0
        self._ended = False
        self._stop = threading.Event()
        self.create_timer(1.0, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))
        # A daemon, so that a blocked device does not keep the process from exiting.
        threading.Thread(target=self._recognise, name='speech', daemon=True).start()

    def finish(self) -> None:
        """Close the source and leave the graph."""
        self._stop.set()
        if self._source is not None:
            self._source.close()
        log_bridge.disconnect(self._log_handler)
        self.destroy_node()

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _load_recogniser(self) -> Recogniser:
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
            raise SpeechError(f'{lacking("Speech recognition needs", error, "voice")}.') from error
        nouns = self._value('nouns').split(',')
        phrase = self._value('wake_phrase')
        recogniser = PocketsphinxRecogniser(self._value('vocabulary'), nouns, phrase)
        if recogniser.unpronounceable:
            _logger.warning(
                'Not recognised, because their pronunciation is unknown: %s. Describe these by '
                'colour, shape or position.',
                ', '.join(recogniser.unpronounceable),
            )
        return recogniser

    def _open_source(self) -> Source:
        if self._audio is not None:
            return self._audio.open()
        if self._value('source') == 'wav':
            from segzero_ros.speech.wav_source import WavSource

            path = Path(self._value('path')).expanduser()
            return WavSource(path, real_time=self._value('real_time'))
        from segzero_ros.speech.microphone import Microphone

        return Microphone(self._value('microphone'))

    def _recognise(self) -> None:
        """Recognise until the audio or the node ends; reopen a source that failed."""
        callbacks = SpeechCallbacks(self._on_query, self._on_partial, self._on_ignored)
        while not self._stop.is_set():
            try:
                source = self._source = self._source or self._open_source()
                if self._value('source') == 'wav':
                    self._wait_for_subscriber()
                _logger.info('Listening with %s', self._recogniser.name)
                self._error = ''
                self._recogniser_loop.run(source, callbacks)
                self._ended = True
                _logger.info('The audio has ended')
                return
            except SpeechError as error:
                self._close_source(str(error))
            except Exception as error:
                _logger.exception('Speech recognition failed')
                self._close_source(f'{type(error).__name__}: {error}')
            self._stop.wait(RETRY_PERIOD)

    def _close_source(self, error: str) -> None:
        if error != self._error and not self._stop.is_set():
            _logger.error('%s Retrying every %g s', error, RETRY_PERIOD)
        self._error = error
        source, self._source = self._source, None
        if source is not None:
            source.close()

    def _wait_for_subscriber(self) -> None:
        """Wait until `query` has a subscriber, because a file is played only once."""
        deadline = time.monotonic() + SUBSCRIBER_TIMEOUT
        while not self._queries.get_subscription_count():
            if self._stop.wait(0.05):
                return
            if time.monotonic() > deadline:
                topic = self.resolve_topic_name('query')
                _logger.warning('%s has no subscriber; the file is played nevertheless', topic)
                return

    def _on_query(self, text: str) -> None:
        self._last_query = text
        _logger.info('Recognised: %s', text)
        self._queries.publish(String(data=clean_text(text)))

    def _on_partial(self, text: str) -> None:
        self._partial.publish(String(data=clean_text(text)))

    def _on_ignored(self, text: str, reason: str) -> None:
        _logger.info('Ignored %r: %s', text, reason)

    def _check_audio(self, audio: AudioTopic) -> None:
        """Warn if no audio arrives, or more than can be recognised."""
        reason, dropped = audio.no_audio_reason(), audio.dropped()
        if reason and reason != self._no_audio_reason:
            _logger.warning(reason)
        self._no_audio_reason = reason
        if dropped > self._dropped:
            _logger.warning(
                '%.1f s of audio on %s were dropped: it arrives faster than it can be recognised',
                dropped - self._dropped,
                audio.topic,
            )
        self._dropped = dropped

    def _report(self) -> None:
        """Publish diagnostics, once a second."""
        if self._audio is not None:
            self._check_audio(self._audio)
        level, message = DiagnosticStatus.OK, f'Listening with {self._recogniser.name}.'
        if self._error:
            level, message = DiagnosticStatus.ERROR, self._error
        elif self._ended:
            message = 'The audio has ended.'
        elif self._no_audio_reason:
            level, message = DiagnosticStatus.WARN, self._no_audio_reason
        values = {
            'engine': self._recogniser.name,
            'speaking': str(self._recogniser_loop.speaking),
            'utterances': str(self._recogniser_loop.utterances),
            'processed audio': f'{self._recogniser_loop.seconds:.0f} s',
            'last query': self._last_query or 'none',
        }
        name = f'{self.get_fully_qualified_name()}: speech'
        report = DiagnosticArray(status=[make_status(name, level, message, values)])
        report.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(report)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; return the exit code."""
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
    exit_now(0)
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
