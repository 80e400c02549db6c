#!/usr/bin/env bash
# faster-whisper 1.2.1: its Silero detector, called with an array of samples whose length is a multiple of
# 512, sets the last 64 samples of that very array to zero (it shifts a view of the caller's memory as the
# model's context). get_speech_timestamps pads, and so copies, audio first; whoever calls the model itself on
# blocks of a stream and keeps them for the recogniser has 4 ms of silence cut into each block.
# Seen: 1024 samples of 0.25 in, the last 64 are 0.0 afterwards, the other 960 unchanged; the last block's
# own speech probability is of the shortened block too: it is another when one more block follows.
# Matters to: voice nodes that find the end of an utterance block by block and transcribe what they kept.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q faster-whisper==1.2.1 onnxruntime==1.23.2 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from faster_whisper.vad import get_vad_model

detector = get_vad_model()
audio = np.full(1024, 0.25, np.float32)
detector(audio)
changed = np.flatnonzero(audio != np.float32(0.25))
print('samples changed:', changed.size, 'from', changed.min(), 'to', changed.max())
assert changed.tolist() == list(range(960, 1024))
assert not audio[960:].any()

kept = (0.3 * np.random.default_rng(0).standard_normal(1024)).astype(np.float32)
alone = np.ravel(detector(kept.copy()))
followed = np.ravel(detector(np.concatenate([kept, np.zeros(512, np.float32)])))
print('the second block, last and followed by another:', alone[1], followed[1])
assert alone[0] == followed[0]
assert alone[1] != followed[1]
PYTHON
echo 'as seen'
