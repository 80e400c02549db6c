"""Parts of the fast path that gain too little to show in whole answers, step by step in turns.

Run `python -m benchmarks.decode_step --dtype float32` on an idle CPU. A random Qwen2.5-VL of 92
million parameters decodes one token after 1200, with packed attention and a preallocated cache and
without either; eight rows at a time, as training does, with and without the cache; and embeds 3600
patches by one product and by the convolution. Medians, and the ratio to the fast path.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
import tempfile
import time
from typing import Any
from unittest.mock import patch

from rich.console import Console
import torch

from benchmarks.machine import processor
from benchmarks.random_checkpoints import make_random
from benchmarks.reasoner_parts import growing_cache, plain_attention
from segzero_ros.loading import load_reasoner, ReasonerOptions
from segzero_ros.reasoning import fused_decode
from segzero_ros.reasoning.gqa_decode_attention import attend_grouped
from segzero_ros.reasoning.preallocated_cache import preallocated_cache

CACHED, PATCHES, ROWS = 1200, 3600, 8


def filled(make: Callable[[int], Any], model: Any, rows: int) -> Any:
    """Return a cache with random keys and values of the prompt."""
    config = model.config.get_text_config()
    cache = make(config.num_hidden_layers)
    width = config.hidden_size // config.num_attention_heads
    shape = (rows, config.num_key_value_heads, CACHED, width)
    for layer in cache.layers:
        layer.update(*(torch.randn(shape, dtype=model.dtype) for _ in range(2)))
    return cache


def fused(step: Any, attend: Any, cache: Any) -> Callable[[], None]:
    """Return a function that decodes one token by the fused step, with this attention."""
    ids, positions = torch.tensor([[7]]), torch.full((3, 1, 1), CACHED)

    def run() -> None:
        with patch.object(fused_decode, 'attend_grouped', attend):
            step(ids, positions, cache)
        cache.crop(-1)

    return run


def rows_at_a_time(model: Any, cache: Any) -> Callable[[], None]:
    """Return a function that decodes one token of each row by the model's own modules."""
    ids, positions = torch.full((ROWS, 1), 7), torch.full((3, ROWS, 1), CACHED)

    def run() -> None:
        model.model.language_model(
            input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True
        )

    return run


@torch.inference_mode()
def compare(title: str, ways: Mapping[str, Callable[[], None]], rounds: int) -> list[str]:
    """Return a line for each way, run in turns; the first is what the others are compared with."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, run in ways.items():
            started = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - started)
    # The first round warms up.
    medians = {name: median(times[1:]) for name, times in taken.items()}
    first = next(iter(medians.values()))
    return [
        f'{title}, {name}: {1e3 * value:.1f} ms, {value / first:.2f} x'
        for name, value in medians.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--size', default='mid', help='of the checkpoint (%(default)s)')
    parser.add_argument('--dtype', default='float32', choices=['float32', 'bfloat16'])
    parser.add_argument('--rounds', type=int, default=60)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = make_random(Path(folder, 'checkpoint'), given.size)
        reasoner: Any = load_reasoner(
            ReasonerOptions('transformers', str(checkpoint), device='cpu', dtype=given.dtype)
        )
    model, step = reasoner._model, reasoner._decoder._fused_step
    embed = model.model.visual.patch_embed
    patches = torch.randn(PATCHES, embed.proj.weight[0].numel(), dtype=model.dtype)
    caches = {make: filled(make, model, 1) for make in (preallocated_cache, growing_cache)}
    strided = caches[preallocated_cache]
    lines = compare(
        'one token',
        {
            'fast path': fused(step, attend_grouped, strided),
            'without packed attention': fused(step, plain_attention, strided),
            'without preallocated cache': fused(step, attend_grouped, caches[growing_cache]),
        },
        given.rounds,
    )
    lines += compare(
        f'{ROWS} rows',
        {
            'preallocated cache': rows_at_a_time(model, filled(preallocated_cache, model, ROWS)),
            'without it': rows_at_a_time(model, filled(growing_cache, model, ROWS)),
        },
        max(given.rounds // 3, 1),
    )
    lines += compare(
        f'{PATCHES} patches',
        {
            'one product': lambda: embed(patches),
            'convolution': lambda: type(embed).forward(embed, patches),
        },
        max(given.rounds // 10, 1),
    )
    console = Console()
    console.print(
        f'{given.size} in {given.dtype}, {processor()}, {torch.get_num_threads()} threads'
    )
    for line in lines:
        console.print(line, highlight=False)


if __name__ == '__main__':
    main()
