"""The choice of the task for a query that leaves it open (`task: auto`).

`route_by_rules` needs no model. It looks at how the sentence begins, after polite words, and it
decides for `segment` whenever nothing speaks for another task:

- "how many …", "count …": `count`;
- "is there …", "what colour …", "why …", "describe …": `answer`;
- "point to …", "where do I put …", "where should it be pushed": `point`;
- "detect …", "draw boxes around …": `detect`;
- all else, such as "the red cup", "where is …" or "what can I drink from": `segment`.
"""

from __future__ import annotations

from collections.abc import Callable
import re

from segzero_ros.reasoning.base import IsCancelled, never
from segzero_ros.types import Task

# Takes a query's text, and is cancelled like a reasoner.
Router = Callable[[str, IsCancelled], Task]

# What stands around a sentence: quotes of any kind and marks.
_AROUND = ' .,;:!?"\u2018\u2019\u201c\u201d\u201e\u00ab\u00bb'
_POLITE = re.compile(
    r'^(?:(?:hey|hi|hello|ok|okay|robot|please|now|and|so|then|well|also|just|'
    r'(?:can|could|would|will) you(?: please)?(?! see| find any| tell| read| spot)|'
    r'i (?:want|need|would like) (?:you )?to(?: know)?|'
    r'(?:(?:can|could) you )?(?:please )?(?:tell|show) me)\b[\s,:]*)+'
)
_ACTIONS = (
    'put|place|set|lay|store|stow|drop|push|press|pull|grasp|grab|grip|hold|touch|poke|click|tap|'
    'pour|insert|plug|hang|park|go|drive|stand|sit|cut|lift|turn|move'
)
_RULES = tuple(
    (task, re.compile(pattern))
    for task, pattern in (
        (Task.COUNT, r'^(?:how many|count\b|the number of|what is the number of|number of)'),
        (
            Task.POINT,
            r'^(?:point(?:ing)?\b|where (?:do|does|can|could|should|shall|must|would|may) '
            rf'(?:i|we|you|it|one|the|this|that|he|she|they)\b.*\b(?:be )?(?:{_ACTIONS})'
            r'(?:ed|d|ped|bed|t)?\b'
            rf'|where to (?:{_ACTIONS})\b|where is (?:there )?(?:room|space|a (?:free|good) )\b'
            rf'|(?:a |some |free )*(?:place|spot|room|space) (?:to|for)\b)',
        ),
        (Task.DETECT, r'^(?:detect\b|(?:draw |give |put )?(?:a |the )?(?:bounding )?boxe?s?\b)'),
        (
            Task.ANSWER,
            r'^(?:whether|if|is|are|was|were|does|do|did|has|have|can|could|will|would|should|am)\b'
            r'|^(?:why|who|whose|when|how)\b'
            r'|^what(?:\x27s| is| are| was| do| does| did| colou?r| kind| type| size| shape| '
            r'time| material| brand| happens| happened| would happen| else)\b(?! the best thing)'
            r'|^which (?:colou?r|kind|type|size|shape|material|brand|way|one)\b.*\b(?:is|are)\b'
            r'|^(?:describe|explain|caption|summari[sz]e|read|say|name|list)\b',
        ),
    )
)


def route_by_rules(text: str, cancelled: IsCancelled = never) -> Task:
    """Return the task of a sentence by the rules above.

    Args:
        text: the query.
        cancelled: unused, as it takes microseconds.
    """
    sentence = ' '.join(text.lower().replace('\u2019', "'").split()).strip(_AROUND)
    sentence = _POLITE.sub('', sentence)
    return next((task for task, rule in _RULES if rule.search(sentence)), Task.SEGMENT)
