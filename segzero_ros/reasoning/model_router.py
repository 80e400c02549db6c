"""The router of VisionReasoner: a text model names the kind of task (its `task_router.py`).

It decodes greedily, where the published code samples.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteria

from segzero_ros.reasoning import checkpoints
from segzero_ros.reasoning.base import IsCancelled, one_line_summary
from segzero_ros.reasoning.control_tokens import plain_question
from segzero_ros.reasoning.router_prompt import chosen_task, MAX_NEW_TOKENS, router_messages
from segzero_ros.types import Cancelled, ReasonerUnavailable, SegZeroError, Task


class ModelRouter:
    """Asks a small text model, such as TaskRouter-1.5B; called from the pipeline's thread."""

    def __init__(self, model: str, device: str = 'auto', *, offline: bool = False) -> None:
        """Load the model.

        Args:
            model: hub name or local folder.
            device: as in `ReasonerOptions`.
            offline: never access the hub.

        Raises:
            ReasonerUnavailable: it cannot be loaded; the text names the model and the cause.
        """
        if device == 'auto':
            device = 'cuda' if torch.cuda.is_available() else 'cpu'
        dtype = torch.float32 if device == 'cpu' else torch.bfloat16
        factory: Any = AutoModelForCausalLM
        try:
            folder = _folder(model, offline=offline)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model: Any = factory.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=dtype
            ).to(device)
        except SegZeroError:
            raise
        except Exception as error:
            # transformers raises many kinds of errors on a broken or foreign file.
            raise ReasonerUnavailable(
                f'The router {model} cannot be loaded ({one_line_summary(error)}). Name a text '
                'model such as a Qwen2.5-1.5B, or leave reasoner.router empty for rules.'
            ) from error
        self._model.eval()

    def __call__(self, text: str, cancelled: IsCancelled) -> Task:
        """Return the task of a query.

        Raises:
            Cancelled: `cancelled` became True.
        """
        return chosen_task(self.reply(text, cancelled), text)

    def reply(self, text: str, cancelled: IsCancelled) -> str:
        """Return what the model writes about a query; raise Cancelled as above."""
        tokenizer = self._tokenizer
        question = plain_question(text, tokenizer.all_special_tokens)
        inputs = tokenizer.apply_chat_template(
            router_messages(question),
            add_generation_prompt=True,
            return_tensors='pt',
            return_dict=True,
        ).to(self._model.device)
        with torch.inference_mode():
            tokens = self._model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=MAX_NEW_TOKENS,
                stopping_criteria=[_StopIfCancelled(cancelled)],
            )
        written = tokens[0, inputs['input_ids'].shape[1] :]
        reply: str = tokenizer.decode(written, skip_special_tokens=True)
        if cancelled():
            raise Cancelled(reply)
        return reply


def _folder(model: str, *, offline: bool) -> Path:
    folder = checkpoints.local_folder(model)
    if folder is None and offline:
        raise ReasonerUnavailable(
            f'{checkpoints.missing_weights(model)} The hub is not asked, since offline is set.'
        )
    return folder or checkpoints.download(model)


class _StopIfCancelled(StoppingCriteria):
    def __init__(self, cancelled: IsCancelled) -> None:
        self._cancelled = cancelled

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.tensor([self._cancelled()], device=input_ids.device)
