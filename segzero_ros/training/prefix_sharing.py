"""Shared prefixes: compute a query once for all its answers in a batch.

Answers that GRPO compares have the same image and query, which the trainer repeats for each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from segzero_ros.reasoning.preallocated_cache import preallocate


def share_prefixes(backbone: Any) -> None:
    """Patch a model to compute common prefixes of a batch's rows once.

    The output has the same shape, and the same values up to rounding where the attention mask is
    1; gradients of all rows reach the shared prefix. Rows are grouped if they have the same image
    and the same tokens at least to its end. During prefill for generation only identical rows are
    grouped, and each gets a copy of the cache.

    Args:
        backbone: the `model` of a Qwen2-VL or Qwen2.5-VL with `sdpa` attention, without the
            language model head.
    """
    original = backbone.forward

    def forward(**named: Any) -> Any:
        prefill = named.get('past_key_values') is not None or bool(named.get('use_cache'))
        groups = _groups(named, backbone.config.image_token_id, whole=prefill)
        if not groups:
            return original(**named)
        if prefill:
            return _prefill(original, backbone, named, groups)
        return _score(original, backbone, named, groups)

    backbone.forward = forward


@dataclass
class _Group:
    """Rows with a common prefix.

    Attributes:
        rows: their indices.
        shared: length of the prefix, tokens.
    """

    rows: list[int]
    shared: int


def _groups(named: dict[str, Any], image_token: int, *, whole: bool) -> list[_Group]:
    """Return the groups of a batch; an empty list if there is nothing to share.

    Args:
        named: the arguments of a forward pass.
        image_token: id of the image placeholder.
        whole: only group identical rows, not those with the same image and different queries.
    """
    ids, images = named.get('input_ids'), _images(named)
    if ids is None or len(images) != len(ids):
        return []
    cache = named.get('past_key_values')
    if cache is not None and cache.get_seq_length():
        return []
    mask = _mask(named)
    if mask is None:
        return []
    # Masked tokens differ from all others.
    tokens = ids.masked_fill(~mask, -1).cpu()
    is_image = tokens == image_token
    if not is_image.any(1).all():
        # Several images in one row, none in another: the assignment is unknown.
        return []
    groups: list[_Group] = []
    for row, of_row in enumerate(tokens):
        min_length = len(of_row) if whole else int(is_image[row].nonzero().max()) + 1
        for group in groups:
            first = group.rows[0]
            common = int((tokens[first] == of_row).int().cumprod(0).sum())
            if common >= min_length and torch.equal(images[first], images[row]):
                group.rows.append(row)
                group.shared = min(group.shared, common)
                break
        else:
            groups.append(_Group([row], len(of_row)))
    return groups if len(groups) < len(ids) else []


def _mask(named: dict[str, Any]) -> torch.Tensor | None:
    """Return the (B, L) bool mask of valid tokens; None for another kind of mask.

    Without padding the mask may be missing: all tokens are valid.
    """
    ids, mask = named['input_ids'], named.get('attention_mask')
    if mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    known = isinstance(mask, torch.Tensor) and mask.shape == ids.shape
    return mask.bool() if known else None


def _images(named: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    """Return each image's patches, or its features if the tower has run before."""
    features = (named.get('mm_encoder_outputs') or {}).get('image')
    if features is not None:
        return tuple(features.pooler_output)
    if named.get('pixel_values') is None or named.get('image_grid_thw') is None:
        return ()
    return torch.split(named['pixel_values'], named['image_grid_thw'].prod(-1).tolist())


def _prefill(original: Any, backbone: Any, named: dict[str, Any], groups: list[_Group]) -> Any:
    """Fill the cache with one row of each group, and copy it for the others."""
    output = original(**_first_rows(named, groups))
    group_of = {row: number for number, group in enumerate(groups) for row in group.rows}
    copies = torch.tensor([group_of[row] for row in sorted(group_of)]).to(
        named['input_ids'].device
    )
    preallocate(output.past_key_values, copies)
    output.last_hidden_state = output.last_hidden_state[copies]
    deltas = backbone.rope_deltas
    if deltas is not None and len(deltas) == len(groups):
        backbone.rope_deltas = deltas[copies]
    return output


def _first_rows(named: dict[str, Any], groups: list[_Group]) -> dict[str, Any]:
    """Return the arguments of a forward pass for the first row of each group."""
    rows = [group.rows[0] for group in groups]
    arguments, images = dict(named), _images(named)
    for name in ('input_ids', 'attention_mask', 'mm_token_type_ids', 'image_grid_thw'):
        if arguments.get(name) is not None:
            arguments[name] = arguments[name][rows]
    if arguments.get('pixel_values') is not None:
        arguments['pixel_values'] = torch.cat([images[row] for row in rows])
    else:
        features = named['mm_encoder_outputs']['image']
        features = replace(features, pooler_output=[images[row] for row in rows])
        arguments['mm_encoder_outputs'] = {'image': features}
    if arguments.get('position_ids') is not None:
        arguments['position_ids'] = arguments['position_ids'][..., rows, :]
    return arguments


def _score(original: Any, backbone: Any, named: dict[str, Any], groups: list[_Group]) -> Any:
    """Compute a batch with the rows of each group concatenated, masked from each other."""
    ids = named['input_ids']
    mask = _mask(named)
    assert mask is not None
    indices, parts = _packed(groups, mask)
    arguments = _first_rows(named, groups)
    arguments['input_ids'] = ids.flatten()[indices]
    if arguments.get('mm_token_type_ids') is not None:
        arguments['mm_token_type_ids'] = named['mm_token_type_ids'].flatten()[indices]
    arguments['position_ids'] = _positions(backbone, named).flatten(1)[:, indices]
    # A token attends to earlier tokens of the prefix and of its own row, and to itself; padding
    # does so too, but its output is not used.
    visible = (parts[:, None, :] == 0) | (parts[:, None, :] == parts[:, :, None])
    arguments['attention_mask'] = visible.tril()[:, None]
    output = original(**arguments)
    # The packed position of each token: its own, or that of the first row in the prefix.
    position = torch.zeros_like(ids)
    is_token = parts >= 0
    numbers = torch.arange(is_token.numel(), device=ids.device).view_as(is_token)
    position.view(-1)[indices[is_token]] = numbers[is_token]
    for group in groups:
        position[group.rows, : group.shared] = position[group.rows[0], : group.shared].clone()
    output.last_hidden_state = output.last_hidden_state.flatten(0, 1)[position]
    return output


def _packed(groups: list[_Group], mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the layout of a batch with the rows of each group concatenated.

    Args:
        groups: of the batch.
        mask: (B, L) valid tokens; others are omitted.

    Returns:
        (G, P) indices in the flattened batch, and (G, P) parts: 0 for the prefix, n for the rest
        of the group's row n, counted from 1, -1 for padding.
    """
    length = mask.shape[1]
    indices, parts = [], []
    for group in groups:
        valid = mask[group.rows]
        valid[1:, : group.shared] = False
        row, column = valid.nonzero(as_tuple=True)
        indices.append(torch.tensor(group.rows, device=mask.device)[row] * length + column)
        parts.append(torch.where(column < group.shared, 0, row + 1))
    fill = torch.nn.utils.rnn.pad_sequence
    return fill(indices, batch_first=True), fill(parts, batch_first=True, padding_value=-1)


def _positions(backbone: Any, named: dict[str, Any]) -> torch.Tensor:
    """Return the (3, B, L) position ids of the model: time, row, column."""
    if named.get('position_ids') is not None:
        given: torch.Tensor = named['position_ids']
        return given
    positions: torch.Tensor = backbone.get_rope_index(
        named['input_ids'],
        image_grid_thw=named['image_grid_thw'],
        attention_mask=named.get('attention_mask'),
        mm_token_type_ids=named.get('mm_token_type_ids'),
    )[0]
    return positions
