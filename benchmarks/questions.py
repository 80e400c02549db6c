"""Counting and yes/no of the offline default on generated table-tops.

Run `python -m benchmarks.questions --scenes 300 --seed 300000`. About each scene one question of
each kind is asked: how many there are, whether something is there that is, and whether something
is there that is not. An answer is right if the number of objects, or yes or no, is the truth. For
a word that the offline default does not know it also has to say so, with NOT_FOUND.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from segzero_ros.reasoning.attribute_reasoner import AttributeReasoner
from segzero_ros.reasoning.router import route_by_rules
from segzero_ros.simulation.questions import make_questions, SceneQuestion
from segzero_ros.simulation.scenes import make_scene
from segzero_ros.simulation.sentences import STRANGERS
from segzero_ros.types import Frame, Query, Task


def is_right(reasoner: AttributeReasoner, frame: Frame, question: SceneQuestion) -> bool:
    """Return whether the router's task and the reasoner's answer are right."""
    task = route_by_rules(question.text)
    if task is not (Task.COUNT if question.kind == 'count' else Task.ANSWER):
        return False
    grounding = reasoner.reason(frame, Query(question.text, task=task))
    if question.kind == 'count':
        return len(grounding.objects) == question.number
    named = True
    if stranger := _stranger_in(question):
        named = grounding.unanswered and f'"{stranger.split()[0]}' in grounding.answer
    return named and grounding.answer.startswith('Yes, ' if question.number else 'No, ')


def _stranger_in(question: SceneQuestion) -> str:
    return next((word for word in STRANGERS if word in question.text), '')


def main() -> None:
    """Run the benchmark and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('--scenes', type=int, default=300)
    parser.add_argument('--seed', type=int, default=300_000, help='of the first scene')
    parser.add_argument('--per-kind', type=int, default=1, help='questions of each kind per scene')
    parser.add_argument('--without-depth', action='store_true', help='use colour images only')
    parser.add_argument('--failures', action='store_true', help='print every wrong answer')
    options = parser.parse_args()
    reasoner = AttributeReasoner()
    right, asked = Counter[str](), Counter[str]()
    for seed in range(options.seed, options.seed + options.scenes):
        scene = make_scene(seed)
        frame = replace(scene.frame, depth=None) if options.without_depth else scene.frame
        for question in make_questions(scene, options.per_kind):
            asked[question.kind] += 1
            good = is_right(reasoner, frame, question)
            right[question.kind] += good
            if options.failures and not good:
                print(f'{seed} {question.kind} {question.number}: {question.text!r}', flush=True)
    table = Table('question', 'count', 'right')
    for kind, count in (*asked.items(), ('all', asked.total())):
        correct = right.total() if kind == 'all' else right[kind]
        table.add_row(kind, str(count), f'{100 * correct / count:.1f} %')
    Console().print(table)


if __name__ == '__main__':
    main()
