"""Audio from a microphone."""

from __future__ import annotations

from collections.abc import Iterator
import queue
from typing import Any

from segzero_ros.extras import install_command
from segzero_ros.speech.base import RATE, SpeechError

_BLOCK = 0.1
# Maximum seconds of buffered audio; then the oldest is dropped.
_MAX_BUFFERED = 10.0
# Seconds without audio after which the device is considered lost.
_TIMEOUT = 3.0


class Microphone:
    """A recording device, by number or by a part of its name; empty for the system's default.

    Raises:
        SpeechError: it does not exist, or cannot be opened.
    """

    def __init__(self, device: str = '') -> None:
        try:
            import sounddevice
        except (ImportError, OSError) as error:
            raise SpeechError(
                f'The microphone needs PortAudio ({error}): apt-get install libportaudio2, and '
                f'{install_command("voice")}.'
            ) from error
        self._blocks: queue.Queue[bytes | None] = queue.Queue(round(_MAX_BUFFERED / _BLOCK))
        selected = int(device) if device.isdigit() else device or None
        try:
            self._stream = sounddevice.RawInputStream(
                samplerate=RATE,
                blocksize=round(RATE * _BLOCK),
                device=selected,
                channels=1,
                dtype='int16',
                callback=self._on_audio,
            )
            self._stream.start()
        except (sounddevice.PortAudioError, ValueError) as error:
            names = [each['name'] for each in sounddevice.query_devices() if _records(each)]
            raise SpeechError(
                f'The microphone {device or "(default)"} cannot be opened: {error}. Available '
                f'devices: {", ".join(names) or "none"}. On Linux, "arecord -l" lists them too.'
            ) from error

    def blocks(self) -> Iterator[bytes]:
        """Yield the audio while it is recorded."""
        while True:
            try:
                block = self._blocks.get(timeout=_TIMEOUT)
            except queue.Empty:
                raise SpeechError('The microphone does not send audio any more.') from None
            if block is None:
                return
            yield block

    def close(self) -> None:
        """Release the device."""
        self._stream.close()
        self._put(None)

    def _on_audio(self, data: Any, *_: Any) -> None:
        self._put(bytes(data))

    def _put(self, block: bytes | None) -> None:
        if self._blocks.full():
            self._blocks.get_nowait()
        self._blocks.put_nowait(block)


def _records(device: Any) -> bool:
    return bool(device['max_input_channels'])
