"""The prompt of VisionReasoner's router and the reading of its reply (its `task_router.py`).

Both are the published ones, except that a reply without any kind leaves the choice to the rules.
"""

from __future__ import annotations

import logging
import re

from segzero_ros.reasoning.router import route_by_rules
from segzero_ros.types import Task

SYSTEM = 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.'
PROMPT = (
    'Given a user instruction, please classify which type of task it is and output the final '
    'answer after "####".. The types are: 1) Segmentation/detection, 2) Counting, 3) Editing, '
    '4) Caption/QA. The user instruction is: '
)
# As in the published router, whose answer is one short line.
MAX_NEW_TOKENS = 512
# Editing an image is no task of a robot's; the published code answers it like a question.
_BY_DIGIT = {'1': Task.SEGMENT, '2': Task.COUNT, '3': Task.ANSWER, '4': Task.ANSWER}
_BY_WORD = {
    'segment': Task.SEGMENT,
    'detect': Task.SEGMENT,
    'count': Task.COUNT,
    'edit': Task.ANSWER,
    'caption': Task.ANSWER,
    'qa': Task.ANSWER,
}
_WORD = re.compile('|'.join(_BY_WORD))

_logger = logging.getLogger(__name__)


def router_messages(question: str) -> list[dict[str, str]]:
    """Return the chat that asks for the kind of a query.

    Args:
        question: the query without control tokens.
    """
    return [
        {'role': 'system', 'content': SYSTEM},
        {'role': 'user', 'content': PROMPT + question},
    ]


def task_of(reply: str) -> Task | None:
    """Return the task that a router's reply names: by its last digit 1 to 4, else its last word.

    Returns:
        The task; None if it names none.
    """
    # Numbers in a thinking model's reasoning are no choice.
    _, end, choice = reply.rpartition('</think>')
    if not end and '<think>' in choice:
        return None
    digits = re.findall('[1-4]', choice)
    if digits:
        return _BY_DIGIT[digits[-1]]
    words = _WORD.findall(choice.lower())
    return _BY_WORD[words[-1]] if words else None


def chosen_task(reply: str, query: str) -> Task:
    """Return the task that a reply names; by the rules, with a warning, if it names none.

    Args:
        reply: what the router wrote.
        query: the query's text, for the rules.
    """
    task = task_of(reply)
    if task is None:
        task = route_by_rules(query)
        _logger.warning(
            'The router names no kind of task (%r); by the rules it is %s', reply[:80], task.name
        )
    return task
