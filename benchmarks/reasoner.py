"""Latency from the query to the first word and to the mask, compared with the published procedure.

Run `python -m benchmarks.reasoner` on a CPU, `python -m benchmarks.reasoner --full-size 7b` on a
GPU with 80 GB. Both procedures use the same random weights (see `random_checkpoints`), generate
the same number of tokens, and are measured alternately; seconds are medians. SAM 2 has random
weights too: SAM 2 large with the published sizes, else the one of `scripts/make_tiny_sam2.py`,
whose fraction of the CPU time is about that of SAM 2 large with the 7B model. `--full-size small
--device cpu` tests a full-size run in seconds. CPU time is of all threads, and is more reliable
than seconds on a busy machine.

`--peer NAME` measures the reasoner alone beside other runtimes with the same weights
(`reasoner_peers`), `--without PART` with parts of its fast path switched off (`reasoner_parts`),
`--build NAME=FOLDER` beside another source tree; each can be repeated.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
import json
import os
from pathlib import Path
from random import Random
import re
import sys
import tempfile
import threading
import time
from typing import Any
from unittest.mock import patch

import numpy as np
from rich.console import Console
from rich.table import Table
import torch

from benchmarks import reasoner_peers
from benchmarks.machine import processor
from benchmarks.published import predictor_of, Published
from benchmarks.random_checkpoints import (
    make_random,
    make_random_sam2,
    script,
    ScriptedHead,
    SHAPES,
)
from benchmarks.reasoner_parts import PARTS
from benchmarks.reasoner_peers import PEERS
from scripts.make_tiny_sam2 import make_tiny_sam2
from segzero_ros.loading import load_reasoner, load_segmenter, ReasonerOptions, SegmenterOptions
from segzero_ros.pipeline import Listeners, Pipeline
from segzero_ros.reasoning.packed_linear import PackedLinear
from segzero_ros.reasoning.transformers_reasoner import TransformersReasoner
from segzero_ros.types import Cancelled, Frame, Query, Status

RESULTS = Path(__file__).parent / 'results'
# Memory bandwidth by device name, GB/s, from data sheets.
BANDWIDTH = {
    'H200': 4800.0,
    'H100 PCIe': 2000.0,
    'H100 NVL': 3900.0,
    'H100': 3350.0,
    'A100-SXM4-40GB': 1555.0,
    'A100': 2039.0,
    'L40S': 864.0,
    '4090': 1008.0,
    'Orin': 204.8,
}
QUERY = 'something to drink from'


# The SAM 2 configuration for a reasoner of this size.
SAM2 = {'3b': 'sam2/sam2_hiera_l.yaml', '7b': 'sam2/sam2_hiera_l.yaml'}


class Bench:
    """Both procedures on the same weights."""

    def __init__(self, size: str, device: str, folder: Path, in_all: bool = False) -> None:
        self._in_all = in_all
        checkpoint = make_random(folder / 'reasoner', size, device)
        if size in SAM2:
            sam = make_random_sam2(folder / 'sam2', SAM2[size], device)
        else:
            sam = make_tiny_sam2(folder / 'sam2')
        # Recorded below, with the heads that are timed: recording takes a minute.
        with patch.object(TransformersReasoner, '_warm_up'):
            reasoner = load_reasoner(
                ReasonerOptions('transformers', str(checkpoint), device=device, time_limit=0)
            )
        segmenter: Any = load_segmenter(SegmenterOptions('sam2', str(sam), device=device))
        self.reasoner: Any = reasoner
        self.pipeline = Pipeline(reasoner, segmenter)
        dtype = self.reasoner._model.dtype
        self.published = Published(checkpoint, predictor_of(sam, device), device, dtype)
        self._heads = []
        for model in (self.published.model, self.reasoner._model):
            self._heads.append(ScriptedHead(model, [0]))
        if device != 'cpu':
            # Before an encoder runs in parallel.
            self.say(1, 100)
            self.reasoner._warm_up()
        self._rng = np.random.default_rng(0)
        self._random = Random(0)
        # Packed ones are read as float16.
        packed = any(isinstance(each, PackedLinear) for each in self.reasoner._model.modules())
        self.weights = sum(
            weight.numel() * (2 if packed else weight.element_size())
            for part in (self.published.model.model.language_model.layers, self._heads[0])
            for weight in part.parameters()
        )
        text = self.reasoner._model.config.get_text_config()
        width = text.hidden_size // text.num_attention_heads
        heads = text.num_hidden_layers * text.num_key_value_heads
        # Keys and values of the prompt and, on average, half of the generated tokens.
        self.cache_per_token = 2 * heads * width * dtype.itemsize

    def frame(self) -> Frame:
        """Return a new random image of 1280 by 720 pixels."""
        return Frame(self._rng.integers(0, 256, (720, 1280, 3), np.uint8))

    def say(self, objects: int, tokens: int) -> int:
        """Set the output of both models; return the number of tokens."""
        tokenizer = self.published.processor.tokenizer
        ids = script(tokenizer, objects, tokens, self._random, in_all=self._in_all)
        for head in self._heads:
            head.say(ids)
        return len(ids)

    @property
    def steps(self) -> int:
        """Number of steps of the package's last answer; 0 if not counted."""
        return max(0, self._heads[1].steps - 1)

    def ours(self, frame: Frame) -> dict[str, float]:
        """Answer with the pipeline; return seconds to the first word and to the masks."""
        started = time.perf_counter()
        first: list[float] = []

        def on_text(_: str) -> None:
            if not first:
                first.append(time.perf_counter() - started)

        busy = time.process_time()
        answer = self.pipeline.answer(frame, Query(QUERY), Listeners(on_text=on_text))
        total, busy = time.perf_counter() - started, time.process_time() - busy
        if answer.status != Status.OK:
            raise SystemExit(answer.message)
        reasoning = answer.timing.reasoning
        return {
            'first_word': first[0],
            'mask': total,
            'decoding': reasoning - first[0],
            'processor': busy,
        }

    def theirs(self, frame: Frame) -> dict[str, float]:
        """Answer with the published procedure; return the same seconds, and those to the text."""
        busy = time.process_time()
        times, _ = self.published.answer(frame.image, QUERY)
        busy = time.process_time() - busy
        return {
            'first_word': times.first_word,
            'text': times.text,
            'mask': times.mask,
            'decoding': times.text - times.first_word,
            'processor': busy,
        }

    def cancel(self, delay: float) -> float:
        """Return seconds from cancellation, some time after the query, to idle."""
        self.say(1, 1000)
        stop = threading.Event()
        cancelled_at = [0.0]

        def cancel() -> None:
            cancelled_at[0] = time.perf_counter()
            stop.set()

        timer = threading.Timer(delay, cancel)
        timer.start()
        try:
            self.reasoner.reason(self.frame(), Query(QUERY), cancelled=stop.is_set)
        except Cancelled:
            return time.perf_counter() - cancelled_at[0]
        raise SystemExit('The answer finished before it was cancelled')


def in_turns(rounds: int, ways: dict[str, Callable[[], dict[str, float]]]) -> dict[str, Any]:
    """Measure the procedures alternately; return the median of each figure."""
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            figures = way()
            if number:
                seen[name].append(figures)
    return {
        name: {key: float(np.median([each[key] for each in runs])) for key in runs[0]}
        for name, runs in seen.items()
    }


def bandwidth(device: str, given: float) -> float:
    """Return the memory bandwidth in GB/s: given, from the data sheet, or measured on a CPU."""
    if given:
        return given
    if device != 'cpu':
        name = torch.cuda.get_device_name()
        return next((value for part, value in BANDWIDTH.items() if part in name), float('nan'))
    numbers = torch.ones(128 * 1024**2)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        numbers.sum()
        seconds.append(time.perf_counter() - started)
    return float(numbers.numel() * 4 / min(seconds) / 1e9)


def measure(
    size: str,
    device: str,
    rounds: int,
    tokens: list[int],
    given_bandwidth: float = 0.0,
    in_all: bool = False,
) -> dict[str, Any]:
    """Return all figures; see `main` for the arguments."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(size, device, Path(folder), in_all)
        results: dict[str, Any] = {'size': size, 'device': _device_name(device)}
        results |= {'cores': os.cpu_count(), 'threads': torch.get_num_threads()}
        results['load_average_before'] = os.getloadavg()[0]
        for wanted in tokens:
            for objects in (1, 8):
                written = bench.say(objects, wanted)

                def theirs(objects: int = objects, wanted: int = wanted) -> dict[str, float]:
                    bench.say(objects, wanted)
                    return bench.theirs(bench.frame())

                def ours(objects: int = objects, wanted: int = wanted) -> dict[str, float]:
                    bench.say(objects, wanted)
                    return bench.ours(bench.frame())

                figures = in_turns(rounds, {'published': theirs, 'here': ours})
                name = f'{objects} objects, {written} tokens'
                results[name] = figures
                print(name, {way: each['mask'] for way, each in figures.items()}, flush=True)
        frame = bench.frame()
        written = bench.say(1, tokens[0])
        bench.ours(frame)

        def again() -> dict[str, float]:
            bench.say(1, tokens[0])
            return bench.ours(frame)

        results['further question, same frame'] = in_turns(
            rounds, {'published': lambda: theirs(1, tokens[0]), 'here': again}
        )
        decoding = results['further question, same frame']['here']['decoding']
        results['tokens_per_second'] = written / decoding
        results['bandwidth_GB_s'] = bandwidth(device, given_bandwidth)
        cached = bench.reasoner._decoder.cached_tokens
        read = bench.weights + bench.cache_per_token * (cached - written / 2)
        floor = read / results['bandwidth_GB_s'] / 1e9
        # On a CPU a step may accept several tokens; on a GPU each step generates one.
        steps = bench.steps or written
        results['tokens_per_step'] = written / steps
        results['share_of_bandwidth_floor'] = floor * steps / decoding
        first_word = results['further question, same frame']['published']['first_word']
        moments = {'reading the image': 0.3, 'reading the prompt': 0.8, 'writing': 1.2}
        results['seconds from cancel to idle, while'] = {
            name: [bench.cancel(part * first_word) for _ in range(3)]
            for name, part in moments.items()
        }
        bench.pipeline.close()
    return results


def _device_name(device: str) -> str:
    if device == 'cpu':
        return processor()
    return torch.cuda.get_device_name()


def show(results: dict[str, Any]) -> None:
    """Print the figures."""
    table = Table(title=f'{results["size"]} on {results["device"]}, seconds')
    for column in ('', 'figure', 'published', 'here', 'times faster'):
        table.add_column(column, justify='left' if column in ('', 'figure') else 'right')
    for name, ways in results.items():
        if 'published' not in (ways if isinstance(ways, dict) else ()):
            continue
        theirs, ours = ways['published'], ways['here']
        rows = [
            ('first word to be seen', theirs['text'], ours['first_word']),
            ('first word written', theirs['first_word'], ours['first_word']),
            ('mask', theirs['mask'], ours['mask']),
            ('processor time', theirs['processor'], ours['processor']),
        ]
        for figure, their, our in rows:
            table.add_row(name, figure, f'{their:.2f}', f'{our:.2f}', f'{their / our:.2f}')
    console = Console(width=110)
    console.print(table)
    console.print({key: value for key, value in results.items() if 'published' not in str(value)})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark, print and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('--full-size', choices=sorted(SHAPES), help='150 and 300 tokens, on a GPU')
    parser.add_argument('--device', help='cpu or cuda; by default cuda with --full-size')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument(
        '--tokens',
        type=int,
        nargs='+',
        help='reasoning tokens per answer; with --full-size, tokens of an answer with one object',
    )
    parser.add_argument(
        '--bandwidth', type=float, default=0.0, help='GB/s, for devices without a known figure'
    )
    parser.add_argument('--output', type=Path, default=RESULTS, help='folder (%(default)s)')
    parser.add_argument('--peer', action='append', default=[], choices=list(PEERS))
    parser.add_argument(
        '--without',
        action='append',
        default=[],
        metavar='PART[+PART]',
        help=f'of {", ".join(PARTS)}',
    )
    parser.add_argument('--build', action='append', default=[], metavar='NAME=FOLDER')
    parser.add_argument('--dtype', default='auto', help='in process, with the three above')
    parser.add_argument('--objects', type=int, default=1, help='with the three above')
    options = parser.parse_args(arguments)
    if unknown := {part for each in options.without for part in each.split('+')} - set(PARTS):
        parser.error(f'there is no part {", ".join(sorted(unknown))}')
    device = options.device or ('cuda' if options.full_size else 'cpu')
    if device != 'cpu' and not torch.cuda.is_available():
        parser.error(f'torch sees no GPU for {device}; --device cpu tests it with small shapes')
    tokens = options.tokens or ([150, 300] if options.full_size else [100])
    size = options.full_size or 'mid'
    full = options.full_size is not None
    kind = 'reasoner'
    if options.peer or options.without or options.build:
        kind = 'reasoner_peers'
        results = reasoner_peers.compare(
            size,
            peers=options.peer,
            without=options.without,
            builds=options.build,
            device=device,
            dtype=options.dtype,
            rounds=options.rounds,
            reasoning_tokens=tokens[0],
            objects=options.objects,
        )
        results['command'] = reasoner_peers.command_of(sys.argv[1:])
        reasoner_peers.show(results)
    else:
        results = measure(size, device, options.rounds, tokens, options.bandwidth, full)
        show(results)
    options.output.mkdir(parents=True, exist_ok=True)
    name = results['device'] if device != 'cpu' else f'{results["device"]} {results["threads"]}'
    machine = re.sub(r'\W+', '_', name).strip('_').lower()
    path = options.output / f'{kind}_{size}_{machine}.json'
    path.write_text(json.dumps(results, indent=1) + '\n')


if __name__ == '__main__':
    main()
