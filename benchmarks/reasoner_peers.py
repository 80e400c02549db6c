"""The in-process reasoner beside its peers: same weights, same prompt, same answer, in turns.

Each way of answering is a process of its own, so that its memory is its own too, and all but the
one that answers are idle. The checkpoint writes a known answer by itself (`fitted_checkpoint`), so
every way generates the same tokens, and another token is an error of its arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
import json
import os
from pathlib import Path
import re
import shlex
import subprocess
import sys
import tempfile
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.table import Table
import torch

from benchmarks.fitted_checkpoint import Fitted, make_fitted, QUERY
from benchmarks.machine import processor
from benchmarks.model_servers import environment, Failed, LlamaCpp, Reply, tree_memory, Vllm

HERE = Path(__file__).resolve().parent
_OPENVINO_WORKER = HERE / 'openvino_worker.py'
_BOX = re.compile(r'"bbox_2d": \[(\d+), (\d+), (\d+), (\d+)\]')


class Way(Protocol):
    """A way of answering the question, as a running process."""

    precision: str
    pid: int

    def ask(self) -> Reply:
        """Answer the question."""
        ...


class Worker:
    """A program that answers for each line on its stdin."""

    def __init__(
        self, stack: ExitStack, command: Sequence[str], log: Path, path: str = ''
    ) -> None:
        environment = {**os.environ, 'HF_HUB_OFFLINE': '1', 'TRANSFORMERS_VERBOSITY': 'error'}
        if path:
            environment['PYTHONPATH'] = path
        self._log = log
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stack.enter_context(log.open('w')),
            text=True,
            env=environment,
        )
        stack.callback(self._end)
        self.pid = self._process.pid
        self.precision = str(self._read()['dtype'])

    def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith('{'):
            lines = [line, *self._log.read_text().splitlines()]
            words = [each.strip() for each in lines if each.strip()]
            raise Failed(words[-1] if words else 'it ended without a word')
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self) -> Reply:
        """Answer the question."""
        assert self._process.stdin is not None
        self._process.stdin.write('\n')
        self._process.stdin.flush()
        found = self._read()
        return Reply(found['first'], found['last'], found['tokens'])


@dataclass(frozen=True)
class Bench:
    """What every way is given.

    Attributes:
        stack: ends the processes.
        fitted: the checkpoint.
        folder: for files.
        device: `cpu` or `cuda`.
        dtype: of the ways in process; `auto` for what the reasoner chooses.
    """

    stack: ExitStack
    fitted: Fitted
    folder: Path
    device: str
    dtype: str

    def worker(
        self, way: str, name: str, without: Sequence[str] = (), tree: Path | None = None
    ) -> Way:
        """Start `reasoner_worker`, with the package of another source tree if one is given."""
        words = [
            *(sys.executable, str(HERE / 'reasoner_worker.py'), way, str(self.fitted.folder)),
            *('--query', QUERY, '--prompt', self.fitted.prompt, '--dtype', self.dtype),
            *('--device', self.device, '--max-tokens', str(len(self.fitted.answer))),
            *('--without', *without),
        ]
        log = self.folder / f'{re.sub("[^a-z_]", "_", name)}.log'
        return Worker(self.stack, words, log, str(tree or HERE.parent))


def _flash(bench: Bench) -> Way:
    if bench.device == 'cpu':
        raise Failed('flash-attention needs a GPU')
    return bench.worker('flash', 'flash')


def _openvino(bench: Bench, weights: str) -> Way:
    folder = environment('openvino')
    exported = bench.folder / f'openvino_{weights}'
    words = ['export', 'openvino', '--model', str(bench.fitted.folder), '--weight-format', weights]
    words += ['--task', 'image-text-to-text', str(exported)]
    log = bench.folder / f'openvino_{weights}.log'
    with log.open('w') as output:
        done = subprocess.run(
            [str(folder / 'bin' / 'optimum-cli'), *words], stdout=output, stderr=output
        )
    if done.returncode:
        raise Failed(f'the export failed: {log.read_text().splitlines()[-1]}')
    np.save(exported / 'image.npy', bench.fitted.image)
    python = str(folder / 'bin' / 'python')
    words = [str(exported), '--prompt', bench.fitted.prompt, '--weights', weights]
    words += ['--max-tokens', str(len(bench.fitted.answer))]
    return Worker(bench.stack, [python, str(_OPENVINO_WORKER), *words], log)


def _llama_cpp(bench: Bench, weights: str) -> Way:
    return LlamaCpp(bench.stack, bench.fitted, bench.folder, weights)


def _vllm(bench: Bench, *extra: str) -> Way:
    return Vllm(bench.stack, bench.fitted, bench.folder, extra)


_NGRAM = '{"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4}'
PEERS: dict[str, Callable[[Bench], Way]] = {
    'published': lambda bench: bench.worker('published', 'published'),
    'static': lambda bench: bench.worker('static', 'static'),
    'flash': _flash,
    'llama_cpp': lambda bench: _llama_cpp(bench, 'bf16'),
    'llama_cpp_f16': lambda bench: _llama_cpp(bench, 'f16'),
    'llama_cpp_f32': lambda bench: _llama_cpp(bench, 'f32'),
    'llama_cpp_q8': lambda bench: _llama_cpp(bench, 'q8_0'),
    'openvino': lambda bench: _openvino(bench, 'fp16'),
    'openvino_int8': lambda bench: _openvino(bench, 'int8'),
    'vllm': lambda bench: _vllm(bench),
    'vllm_ngram': lambda bench: _vllm(bench, '--speculative-config', _NGRAM),
}


def compare(
    size: str,
    *,
    peers: Sequence[str],
    without: Sequence[str] = (),
    builds: Sequence[str] = (),
    device: str = 'cpu',
    dtype: str = 'auto',
    rounds: int = 3,
    reasoning_tokens: int = 100,
    objects: int = 1,
) -> dict[str, Any]:
    """Measure all ways in turns; return the figures of each by its name.

    Args:
        size: of the checkpoint.
        peers: of `PEERS`.
        without: parts of the fast path to switch off, each alone; several joined by `+` together.
        builds: NAME=FOLDER, other source trees of this package.
        device: `cpu` or `cuda`.
        dtype: of the in-process ways.
        rounds: that are counted, after one that is not.
        reasoning_tokens: of the answer.
        objects: in the answer.
    """
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        fitted = make_fitted(folder / 'checkpoint', size, reasoning_tokens, objects)
        np.save(fitted.folder / 'image.npy', fitted.image)
        bench = Bench(stack, fitted, folder, device, dtype)
        starts: dict[str, Callable[[Bench], Way]] = {}
        starts['ours'] = lambda bench: bench.worker('ours', 'ours')
        for each in builds:
            label, _, tree = each.partition('=')
            starts[label] = lambda bench, label=label, tree=tree: bench.worker(
                'ours', label, tree=Path(tree).resolve()
            )
        for part in without:
            label = f'without {part}'
            starts[label] = lambda bench, label=label, part=part: bench.worker(
                'ours', label, part.split('+')
            )
        starts |= {peer: PEERS[peer] for peer in peers}
        ways: dict[str, Way] = {}
        missing: dict[str, str] = {}
        for label, start in starts.items():
            try:
                ways[label] = start(bench)
                if label == 'ours':
                    # The published procedure's bfloat16 takes a minute on many a CPU.
                    bench = replace(bench, dtype=ways[label].precision)
                # Compiles, fills caches, and shows whether it answers at all.
                ways[label].ask()
            except Failed as error:
                ways.pop(label, None)
                missing[label] = str(error)
                print(f'{label}: {error}', file=sys.stderr, flush=True)
        replies: dict[str, list[Reply]] = {label: [] for label in ways}
        for _ in range(rounds):
            for label, way in ways.items():
                replies[label].append(way.ask())
        return {
            'size': size,
            'device': processor() if device == 'cpu' else torch.cuda.get_device_name(),
            'cores': len(os.sched_getaffinity(0)),
            'threads': torch.get_num_threads(),
            'rounds': rounds,
            'prompt_tokens': fitted.prompt_tokens,
            'answer_tokens': len(fitted.answer),
            'load_average': os.getloadavg()[0],
            'ways': {label: _figures(way, replies[label], fitted) for label, way in ways.items()},
            'missing': missing,
        }


def _figures(way: Way, replies: Sequence[Reply], fitted: Fitted) -> dict[str, Any]:
    token = [1e3 * (each.last - each.first) / (each.count - 1) for each in replies]
    resident, peak = tree_memory(way.pid)
    return {
        'precision': way.precision,
        'first_token_s': _spread([each.first for each in replies]),
        'ms_per_token': _spread(token),
        'answer_s': _spread([each.last for each in replies]),
        'resident_MB': resident,
        'peak_MB': peak,
        'tokens_right': min(_right(each, fitted) for each in replies),
        'box_shift_px': max(_shift(each, fitted) for each in replies),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        'median': float(np.median(values)),
        'least': min(values),
        'most': max(values),
    }


def _right(reply: Reply, fitted: Fitted) -> float:
    """Return the share of the answer's tokens that are those of the float32 model."""
    # Not all of them report the end token.
    expected = fitted.answer[:-1]
    if reply.tokens:
        pairs = zip(reply.tokens, expected, strict=False)
        return sum(one == other for one, other in pairs) / len(expected)
    # A server's text: its characters up to the first difference.
    pairs = enumerate(zip(reply.text, fitted.text, strict=False))
    agreed = min(len(reply.text), len(fitted.text))
    return next((at for at, (one, other) in pairs if one != other), agreed) / len(fitted.text)


def _shift(reply: Reply, fitted: Fitted) -> float:
    """Return the largest shift of a box's side, pixels of 840; NaN without the same boxes."""
    text = fitted.tokenizer.decode(reply.tokens) if reply.tokens else reply.text
    found, expected = _BOX.findall(text), _BOX.findall(fitted.text)
    if len(found) != len(expected):
        return float('nan')
    boxes = np.array([found, expected], float)
    return float(np.abs(boxes[0] - boxes[1]).max())


def show(results: dict[str, Any]) -> None:
    """Print the table."""
    title = (
        f'{results["size"]} on {results["cores"]} cores of {results["device"]}, '
        f'{results["prompt_tokens"]} prompt and {results["answer_tokens"]} answer tokens'
    )
    table = Table(title=title)
    columns = ('', 'precision', 'first token, s', 'x ours', 'ms per token', 'x ours', 'answer, s')
    for column in (*columns, 'MB (peak)', 'tokens right', 'box shift'):
        table.add_column(column, justify='left' if column in ('', 'precision') else 'right')
    ours = results['ways'].get('ours')
    for label, way in results['ways'].items():
        cells = [label, way['precision']]
        for key, digits in (('first_token_s', 2), ('ms_per_token', 1)):
            figure = way[key]
            low, middle, high = (figure[name] for name in ('least', 'median', 'most'))
            cells.append(f'{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})')
            cells.append(f'{middle / ours[key]["median"]:.2f}' if ours else '')
        cells.append(f'{way["answer_s"]["median"]:.2f}')
        cells.append(f'{way["resident_MB"]:.0f} ({way["peak_MB"]:.0f})')
        cells += [f'{way["tokens_right"]:.1%}', f'{way["box_shift_px"]:.0f}']
        table.add_row(*cells)
    console = Console(width=150)
    console.print(table)
    for label, why in results['missing'].items():
        console.print(f'{label}: not measured: {why}')


def command_of(arguments: Sequence[str]) -> str:
    """Return the command that is kept with the figures."""
    return f'python -m benchmarks.reasoner {shlex.join(arguments)}'
