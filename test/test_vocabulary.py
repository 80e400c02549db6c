"""Names and messages use the field's words, so that a newcomer finds a line in two guesses."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
import re

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / 'segzero_ros'
MODULES = sorted(PACKAGE.rglob('*.py'))

# Words that the code once had names of its own for, and the field's name.
NAMES = {
    'asker': 'client',
    'complaint': 'error, reason',
    'cure': 'hint',
    'desk': 'queue',
    'drafter': 'speculator',
    'entrance': 'query interface',
    'eyes': 'vision tower',
    'glance': 'status',
    'hearers': 'callbacks',
    'house': 'package',
    'lesson': 'example',
    'lettering': 'text drawing',
    'obituary': 'exit report',
    'outlet': 'publisher',
    'pupil': 'model',
    'reel': 'playback',
    'remark': 'warning',
    'roomy': 'preallocated',
    'shot': 'messages',
    'squash': 'resize',
    'ticket': 'pending query',
    'vitals': 'rates, memory',
    'wishes': 'options',
}
MESSAGES = re.compile(
    r'\b(asker|come to no end|complaint|cure|desk|hears?|house|left behind|loaded anew|outlet'
    r'|pupil|remark|ticket|whole number)\b'
)
LOG_METHODS = {'debug', 'info', 'warning', 'error', 'exception', 'critical', 'fatal'}


def words_of(name: str) -> set[str]:
    """Return the words of a name in snake case or camel case, without a plural's s."""
    parts = re.findall(r'[A-Z]+(?![a-z])|[A-Z]?[a-z]+', name)
    return {part.lower() for part in parts} | {part.lower().removesuffix('s') for part in parts}


def names_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield every name that a module defines or uses, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name


def messages_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield every text that a module logs or raises, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise):
            arguments = node.exc.args if isinstance(node.exc, ast.Call) else []
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in LOG_METHODS
        ):
            arguments = node.args
        else:
            continue
        for part in (part for argument in arguments for part in ast.walk(argument)):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.lineno, part.value


@pytest.mark.parametrize('path', MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_names_and_messages_use_the_fields_words(path: Path) -> None:
    tree = ast.parse(path.read_text())
    private = [
        f'line {line}: {name} (write {NAMES[word]})'
        for line, name in [(1, path.stem), *names_of(tree)]
        for word in sorted(words_of(name) & NAMES.keys())
    ]
    private += [
        f'line {line}: {text!r}' for line, text in messages_of(tree) if MESSAGES.search(text)
    ]
    assert not private, f'{path.name}: {"; ".join(private)}'


def test_the_check_finds_what_it_is_for() -> None:
    tree = ast.parse('class QueryDesk:\n    def f(self): _logger.info("The desk hears nothing")')
    assert [name for _, name in names_of(tree) if words_of(name) & NAMES.keys()] == ['QueryDesk']
    assert [text for _, text in messages_of(tree) if MESSAGES.search(text)]
