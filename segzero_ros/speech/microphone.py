"""Sound from a microphone."""

from __future__ import annotations

from collections.abc import Iterator
import queue
from typing import Any

from segzero_ros.extras import install_command
from segzero_ros.speech.base import RATE, SpeechError

_BLOCK = 0.1
# Sound that nobody has taken is kept for so many seconds; then the oldest goes.
_KEPT = 10.0
# A device that sends nothing for so many seconds is gone.
_PATIENCE = 3.0


class Microphone:
    """A recording device, by number or by a part of its name; empty: the system's default.

    Raises:
        SpeechError: there is none, or it cannot be opened.
    """

    def __init__(self, device: str = '') -> None:
        try:
            import sounddevice
        except (ImportError, OSError) as error:
            raise SpeechError(
                f'The microphone needs PortAudio ({error}): apt-get install libportaudio2, and '
                f'{install_command("voice")}.'
            ) from error
        self._blocks: queue.Queue[bytes | None] = queue.Queue(round(_KEPT / _BLOCK))
        wanted = int(device) if device.isdigit() else device or None
        try:
            self._stream = sounddevice.RawInputStream(
                samplerate=RATE,
                blocksize=round(RATE * _BLOCK),
                device=wanted,
                channels=1,
                dtype='int16',
                callback=self._take,
            )
            self._stream.start()
        except (sounddevice.PortAudioError, ValueError) as error:
            names = [each['name'] for each in sounddevice.query_devices() if _records(each)]
            raise SpeechError(
                f'The microphone {device or "by default"} cannot be opened: {error}. There are: '
                f'{", ".join(names) or "none"}. On Linux, "arecord -l" lists them too.'
            ) from error

    def blocks(self) -> Iterator[bytes]:
        """Give the sound as it is recorded."""
        while True:
            try:
                block = self._blocks.get(timeout=_PATIENCE)
            except queue.Empty:
                raise SpeechError('The microphone sends nothing any more.') from None
            if block is None:
                return
            yield block

    def close(self) -> None:
        """Let the device go."""
        self._stream.close()
        self._put(None)

    def _take(self, data: Any, *_: Any) -> None:
        self._put(bytes(data))

    def _put(self, block: bytes | None) -> None:
        if self._blocks.full():
            self._blocks.get_nowait()
        self._blocks.put_nowait(block)


def _records(device: Any) -> bool:
    return bool(device['max_input_channels'])
