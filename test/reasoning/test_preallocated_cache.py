"""The cache with room to grow holds what transformers' own does."""

from __future__ import annotations

import pytest

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

from segzero_ros.reasoning.preallocated_cache import (
    preallocate,
    preallocated_cache,
    PreallocatedLayer,
)

LAYERS = 2


def some(tokens: int, rows: int = 1) -> torch.Tensor:
    return torch.randn(rows, 2, tokens, 4)


def grow(caches: tuple, steps: list[int], rows: int = 1) -> None:
    """Append the same to all, and see that all give the same back."""
    for tokens in steps:
        for layer in range(LAYERS):
            keys, values = some(tokens, rows), some(tokens, rows)
            first, *others = (cache.update(keys, values, layer) for cache in caches)
            for other in others:
                assert torch.equal(first[0], other[0])
                assert torch.equal(first[1], other[1])
    assert len({cache.get_seq_length() for cache in caches}) == 1


def test_it_grows_past_its_room() -> None:
    # To the brim of the first stride, one beyond, and over several at once.
    grow(
        (transformers.DynamicCache(), preallocated_cache(LAYERS)), [200, 55, 1, 1, 700, *[1] * 80]
    )


def test_what_is_cut_off_is_written_over() -> None:
    caches = transformers.DynamicCache(), preallocated_cache(LAYERS)
    grow(caches, [300, 5])
    for cache in caches:
        cache.crop(-60)
    grow(caches, [3, 80])


def test_a_filled_cache_goes_on_with_some_of_its_rows_and_room() -> None:
    plain, filled = transformers.DynamicCache(), transformers.DynamicCache()
    grow((plain, filled), [250], rows=3)
    rows = torch.tensor([2, 0, 0, 1])
    plain.batch_select_indices(rows)
    preallocate(filled, rows)
    assert all(isinstance(layer, PreallocatedLayer) for layer in filled.layers)
    grow((plain, filled), [1] * 20, rows=4)


def test_a_cache_with_room_goes_on_with_some_of_its_rows() -> None:
    caches = transformers.DynamicCache(), preallocated_cache(LAYERS)
    grow(caches, [20], rows=2)
    for cache in caches:
        cache.batch_select_indices(torch.tensor([1, 0]))
    grow(caches, [1, 1], rows=2)


def test_layers_of_another_kind_stay() -> None:
    config = transformers.Qwen2Config(
        num_hidden_layers=LAYERS, use_sliding_window=True, sliding_window=64, max_window_layers=1
    )
    plain, given = (
        transformers.DynamicCache(config=config),
        transformers.DynamicCache(config=config),
    )
    grow((plain, given), [50], rows=2)
    rows = torch.tensor([1, 1, 0])
    plain.batch_select_indices(rows)
    preallocate(given, rows)
    assert [isinstance(layer, PreallocatedLayer) for layer in given.layers] == [True, False]
    grow((plain, given), [1] * 30, rows=3)
