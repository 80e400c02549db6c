"""Answer by OpenVINO, in its own environment (`test/servers/environments.py`).

Talks as `reasoner_worker` does. The environment has neither this package nor ROS.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import time
from typing import Any

import numpy as np
from optimum.intel import OVModelForVisualCausalLM
from PIL import Image
from transformers import AutoProcessor


class Streamer:
    """Records the time of each token."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.times: list[float] = []
        self._prompt = True

    def put(self, value: Any) -> None:
        """Receive the prompt, then token by token."""
        if not self._prompt:
            self.tokens.append(int(value.flatten()[0]))
            self.times.append(time.perf_counter())
        self._prompt = False

    def end(self) -> None:
        """Receive the end."""


def main() -> None:
    """Load the model and answer for each line on stdin."""
    parser = argparse.ArgumentParser()
    parser.add_argument('folder', type=Path)
    parser.add_argument('--prompt', required=True)
    parser.add_argument('--weights', required=True)
    parser.add_argument('--max-tokens', type=int, required=True)
    given = parser.parse_args()
    processor = AutoProcessor.from_pretrained(given.folder)
    model = OVModelForVisualCausalLM.from_pretrained(
        given.folder, device='CPU', ov_config={'PERFORMANCE_HINT': 'LATENCY'}
    )
    image = Image.fromarray(np.load(given.folder / 'image.npy'))
    content = [{'type': 'image', 'image': image}, {'type': 'text', 'text': given.prompt}]
    chat = processor.apply_chat_template(
        [{'role': 'user', 'content': content}], tokenize=False, add_generation_prompt=True
    )
    print(json.dumps({'dtype': given.weights}), flush=True)
    while True:
        try:
            input()
        except EOFError:
            return
        streamer, started = Streamer(), time.perf_counter()
        inputs = processor(text=[chat], images=[image], return_tensors='pt')
        model.generate(
            **inputs, max_new_tokens=given.max_tokens, do_sample=False, streamer=streamer
        )
        first, last = streamer.times[0] - started, streamer.times[-1] - started
        print(json.dumps({'first': first, 'last': last, 'tokens': streamer.tokens}), flush=True)


main()
