"""One way of answering in a process of its own, for `benchmarks.reasoner_peers`.

Started by its path, so that the package it measures is the first on PYTHONPATH: this checkout's,
or another build's. It answers the same question for each line on stdin, with a line of JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import json
from pathlib import Path
import sys
import time
from typing import Any

import numpy as np
import torch

Answer = Callable[[Callable[[int], None]], None]


def main() -> None:
    """Load the model and answer for each line on stdin."""
    parser = argparse.ArgumentParser()
    parser.add_argument('way', choices=('ours', 'published', 'static', 'flash'))
    parser.add_argument('folder', type=Path, help='of the checkpoint, with image.npy')
    parser.add_argument('--query', required=True)
    parser.add_argument('--prompt', required=True)
    parser.add_argument('--dtype', default='auto')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--max-tokens', type=int, required=True)
    parser.add_argument('--without', nargs='*', default=[])
    given = parser.parse_args()
    image = np.load(given.folder / 'image.npy')
    started = time.perf_counter()
    ask, dtype = _ours(given, image) if given.way == 'ours' else _generate(given, image)
    _reply({'loaded': time.perf_counter() - started, 'dtype': str(dtype).removeprefix('torch.')})
    for _ in sys.stdin:
        times: list[float] = []
        tokens: list[int] = []

        def take(token: int, tokens: list[int] = tokens, times: list[float] = times) -> None:
            tokens.append(token)
            times.append(time.perf_counter())

        started = time.perf_counter()
        ask(take)
        _reply({'first': times[0] - started, 'last': times[-1] - started, 'tokens': tokens})


def _reply(words: dict[str, Any]) -> None:
    print(json.dumps(words), flush=True)


def _ours(given: argparse.Namespace, image: Any) -> tuple[Answer, torch.dtype]:
    from segzero_ros.loading import load_reasoner, ReasonerOptions
    from segzero_ros.reasoning.partial_answer import PartialAnswer
    from segzero_ros.types import Frame, MalformedAnswer, Query

    # Beside this file; not there in the environment of another build.
    if given.without:
        from reasoner_parts import switch_off

        switch_off(given.without)
    reasoner: Any = load_reasoner(
        ReasonerOptions(
            'transformers',
            str(given.folder),
            device=given.device,
            dtype=given.dtype,
            time_limit=0,
            max_new_tokens=given.max_tokens,
            fast_decoding='fast_path' not in given.without,
        )
    )
    if reasoner._decoder is None and 'fast_path' not in given.without:
        raise SystemExit('the fast path is not used, so there is nothing to measure')
    takers: list[Callable[[int], None]] = []
    take = PartialAnswer.take

    def seen(answer: PartialAnswer, token: int, end_tokens: frozenset[int]) -> bool:
        takers[-1](token)
        return take(answer, token, end_tokens)

    PartialAnswer.take = seen  # type: ignore[method-assign]

    def ask(taker: Callable[[int], None]) -> None:
        takers.append(taker)
        # Prompt lookup would draft the whole answer from the last one, which is the same.
        speculator = getattr(reasoner._decoder, '_speculator', None)
        if speculator is not None:
            speculator._continuations.clear()
        # A new frame: nothing is known of it.
        try:
            reasoner.reason(Frame(image.copy()), Query(given.query))
        except MalformedAnswer as error:
            print(error, file=sys.stderr)

    return ask, reasoner._model.dtype


def _generate(given: argparse.Namespace, image: Any) -> tuple[Answer, torch.dtype]:
    """Answer with transformers' `generate`, as the published code does."""
    from PIL import Image
    import transformers

    processor: Any = transformers.AutoProcessor.from_pretrained(given.folder, padding_side='left')
    attention = 'flash_attention_2' if given.way == 'flash' else 'sdpa'
    dtype = torch.bfloat16 if given.dtype == 'auto' else getattr(torch, given.dtype)
    model: Any = transformers.AutoModelForImageTextToText.from_pretrained(
        given.folder, dtype=dtype, attn_implementation=attention
    ).to(given.device)
    model.eval()
    cache = {'cache_implementation': 'static'} if given.way == 'static' else {}
    picture = Image.fromarray(image)
    content = [{'type': 'image', 'image': picture}, {'type': 'text', 'text': given.prompt}]
    chat = processor.apply_chat_template(
        [{'role': 'user', 'content': content}], tokenize=False, add_generation_prompt=True
    )

    class Streamer:
        def __init__(self, take: Callable[[int], None]) -> None:
            self.take: Callable[[int], None] | None = None
            self.later = take

        def put(self, value: torch.Tensor) -> None:
            # The prompt comes first.
            if self.take is not None:
                self.take(int(value.flatten()[0]))
            self.take = self.later

        def end(self) -> None:
            pass

    def ask(take: Callable[[int], None]) -> None:
        inputs = processor(text=[chat], images=[picture], padding=True, return_tensors='pt')
        model.generate(
            **inputs.to(model.device),
            use_cache=True,
            max_new_tokens=given.max_tokens,
            do_sample=False,
            streamer=Streamer(take),
            **cache,
        )
        if model.device.type == 'cuda':
            torch.cuda.synchronize()

    return ask, model.dtype


if __name__ == '__main__':
    main()
