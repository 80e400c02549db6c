"""Have a model read a question once, however many answers to it are in a batch.

Answers that are compared share their picture and their question, and the trainer repeats both for
each: most of what it has computed would be the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from segzero_ros.reasoning.preallocated_cache import preallocate


def share_prefixes(backbone: Any) -> None:
    """Change a model so that what rows of a batch begin with in common is computed once.

    What it returns keeps its shape and, but for rounding, its numbers wherever the attention mask
    is 1, and gradients of all rows reach what they share. Rows are taken together that show the
    same picture and are alike at least to its end. When questions are read before answers are
    written, only rows that are wholly alike are, and each gets its copy of the cache.

    Args:
        backbone: the `model` of a Qwen2-VL or Qwen2.5-VL with `sdpa` attention: all but the last
            projection.
    """
    plainly = backbone.forward

    def forward(**named: Any) -> Any:
        reading = named.get('past_key_values') is not None or bool(named.get('use_cache'))
        groups = _groups(named, backbone.config.image_token_id, whole=reading)
        if not groups:
            return plainly(**named)
        if reading:
            return _read(plainly, backbone, named, groups)
        return _score(plainly, backbone, named, groups)

    backbone.forward = forward


@dataclass
class _Group:
    """Rows that begin alike.

    Attributes:
        rows: their numbers.
        shared: how many tokens they begin with in common.
    """

    rows: list[int]
    shared: int


def _groups(named: dict[str, Any], image_token: int, *, whole: bool) -> list[_Group]:
    """Return the groups of a batch, or nothing where there is nothing to share.

    Args:
        named: the arguments of a forward pass.
        image_token: what stands for a picture's patches.
        whole: rows of a group are alike to their end, not only to that of the picture; two
            questions about one picture are two groups then.
    """
    ids, pictures = named.get('input_ids'), _pictures(named)
    if ids is None or len(pictures) != len(ids):
        return []
    cache = named.get('past_key_values')
    if cache is not None and cache.get_seq_length():
        return []
    mask = _mask(named)
    if mask is None:
        return []
    # What is left out of the mask is told from every token.
    tokens = ids.masked_fill(~mask, -1).cpu()
    shows = tokens == image_token
    if not shows.any(1).all():
        # Two pictures in one row, none in another: which is whose is not told.
        return []
    groups: list[_Group] = []
    for row, of_row in enumerate(tokens):
        least = len(of_row) if whole else int(shows[row].nonzero().max()) + 1
        for group in groups:
            first = group.rows[0]
            common = int((tokens[first] == of_row).int().cumprod(0).sum())
            if common >= least and torch.equal(pictures[first], pictures[row]):
                group.rows.append(row)
                group.shared = min(group.shared, common)
                break
        else:
            groups.append(_Group([row], len(of_row)))
    return groups if len(groups) < len(ids) else []


def _mask(named: dict[str, Any]) -> torch.Tensor | None:
    """Return (B, L) which tokens count, or None where that is told in another way.

    Where nothing is filled up the model may be given none, for all count.
    """
    ids, mask = named['input_ids'], named.get('attention_mask')
    if mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    known = isinstance(mask, torch.Tensor) and mask.shape == ids.shape
    return mask.bool() if known else None


def _pictures(named: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    """Return each picture's patches, or what the tower, asked beforehand, made of them."""
    seen = (named.get('mm_encoder_outputs') or {}).get('image')
    if seen is not None:
        return tuple(seen.pooler_output)
    if named.get('pixel_values') is None or named.get('image_grid_thw') is None:
        return ()
    return torch.split(named['pixel_values'], named['image_grid_thw'].prod(-1).tolist())


def _read(plainly: Any, backbone: Any, named: dict[str, Any], groups: list[_Group]) -> Any:
    """Fill the cache with one row of each group, and give the others copies of it."""
    output = plainly(**_firsts(named, groups))
    which = {row: number for number, group in enumerate(groups) for row in group.rows}
    copies = torch.tensor([which[row] for row in sorted(which)]).to(named['input_ids'].device)
    preallocate(output.past_key_values, copies)
    output.last_hidden_state = output.last_hidden_state[copies]
    deltas = backbone.rope_deltas
    if deltas is not None and len(deltas) == len(groups):
        backbone.rope_deltas = deltas[copies]
    return output


def _firsts(named: dict[str, Any], groups: list[_Group]) -> dict[str, Any]:
    """Return the arguments of a forward pass for the first row of each group."""
    rows = [group.rows[0] for group in groups]
    chosen, pictures = dict(named), _pictures(named)
    for name in ('input_ids', 'attention_mask', 'mm_token_type_ids', 'image_grid_thw'):
        if chosen.get(name) is not None:
            chosen[name] = chosen[name][rows]
    if chosen.get('pixel_values') is not None:
        chosen['pixel_values'] = torch.cat([pictures[row] for row in rows])
    else:
        seen = named['mm_encoder_outputs']['image']
        seen = replace(seen, pooler_output=[pictures[row] for row in rows])
        chosen['mm_encoder_outputs'] = {'image': seen}
    if chosen.get('position_ids') is not None:
        chosen['position_ids'] = chosen['position_ids'][..., rows, :]
    return chosen


def _score(plainly: Any, backbone: Any, named: dict[str, Any], groups: list[_Group]) -> Any:
    """Compute a batch with the rows of each group behind each other, hidden from each other."""
    ids = named['input_ids']
    mask = _mask(named)
    assert mask is not None
    places, parts = _packed(groups, mask)
    chosen = _firsts(named, groups)
    chosen['input_ids'] = ids.flatten()[places]
    if chosen.get('mm_token_type_ids') is not None:
        chosen['mm_token_type_ids'] = named['mm_token_type_ids'].flatten()[places]
    chosen['position_ids'] = _positions(backbone, named).flatten(1)[:, places]
    # A token sees what its group shares and its own row, as far as they stand before it, and
    # itself; so does what only fills up, of which nothing is kept.
    seen = (parts[:, None, :] == 0) | (parts[:, None, :] == parts[:, :, None])
    chosen['attention_mask'] = seen.tril()[:, None]
    output = plainly(**chosen)
    # Where each token of the batch went: to its own place, or its first row's where it is shared.
    went = torch.zeros_like(ids)
    there = parts >= 0
    numbers = torch.arange(there.numel(), device=ids.device).view_as(there)
    went.view(-1)[places[there]] = numbers[there]
    for group in groups:
        went[group.rows, : group.shared] = went[group.rows[0], : group.shared].clone()
    output.last_hidden_state = output.last_hidden_state.flatten(0, 1)[went]
    return output


def _packed(groups: list[_Group], mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what stands where when the rows of each group stand behind each other.

    Args:
        groups: of the batch.
        mask: (B, L) which tokens count; the others are left out.

    Returns:
        (G, P) places in the flattened batch, and (G, P) parts: 0 for what is shared, n for the
        rest of the group's row n, counted from 1, -1 where nothing stands.
    """
    length = mask.shape[1]
    places, parts = [], []
    for group in groups:
        kept = mask[group.rows]
        kept[1:, : group.shared] = False
        row, column = kept.nonzero(as_tuple=True)
        places.append(torch.tensor(group.rows, device=mask.device)[row] * length + column)
        parts.append(torch.where(column < group.shared, 0, row + 1))
    fill = torch.nn.utils.rnn.pad_sequence
    return fill(places, batch_first=True), fill(parts, batch_first=True, padding_value=-1)


def _positions(backbone: Any, named: dict[str, Any]) -> torch.Tensor:
    """Return (3, B, L) positions, in time, rows and columns, as the model would count them."""
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
