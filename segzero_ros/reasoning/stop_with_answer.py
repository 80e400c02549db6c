"""Stop transformers' `generate` where the fast path stops."""

from __future__ import annotations

from typing import Any

import torch
from transformers import StoppingCriteria

from segzero_ros.reasoning.partial_answer import PartialAnswer


class StopWithAnswer(StoppingCriteria):
    """Stops `generate` where the fast path stops."""

    def __init__(self, answer: PartialAnswer, end_tokens: frozenset[int]) -> None:
        self._answer = answer
        self._end_tokens = end_tokens

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return whether the one sequence is complete, (1,) bool."""
        done = self._answer.take(int(input_ids[0, -1]), self._end_tokens)
        return torch.tensor([done], device=input_ids.device)
