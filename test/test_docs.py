"""The pages for users agree with the code: links, options, launch arguments, training settings."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
import re

import pytest

from segzero_ros.cli.main import COMMANDS, make_parser
from segzero_ros.parameter_table import REMOVED, RENAMED
from segzero_ros.training.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / 'docs'
PAGES = sorted([*ROOT.glob('*.md'), *DOCS.rglob('*.md')])
# Where the options of each subcommand are explained.
COMMAND_PAGES = {
    'annotate': 'training.md',
    'ask': 'ask.md',
    'demo': 'simulate.md',
    'doctor': 'install.md',
    'evaluate': 'evaluation.md',
    'mcp': 'agents.md',
    'replay': 'replay.md',
    'train': 'training.md',
}
LINK = re.compile(r'!?\[[^\]]*\]\(([^)\s]+)\)')


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r'```.*?```', '', page.read_text(encoding='utf-8'), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the names that GitHub and MyST give to a page's headings."""
    headings = re.findall(r'^#+ (.+)$', prose(page), re.MULTILINE)
    plain = [re.sub(r'[^\w\- ]', '', LINK.sub('', heading).lower()) for heading in headings]
    return {heading.strip().replace(' ', '-') for heading in plain}


def table(page: Path, heading: str) -> dict[str, list[str]]:
    """Return the rows of the tables below a heading, by the names in their first cells."""
    text = page.read_text(encoding='utf-8').partition(f'\n{heading}\n')[2]
    text = re.split(rf'^#{{1,{heading.index(" ")}}} ', text, maxsplit=1, flags=re.MULTILINE)[0]
    rows = {}
    for line in text.splitlines():
        if line.startswith('| `'):
            first, *cells = (cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1])
            rows |= dict.fromkeys(re.findall(r'`([^`]+)`', first), cells)
    return rows


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for target in LINK.findall(prose(page)):
        if re.match(r'https?:|mailto:', target):
            continue
        name, _, anchor = target.partition('#')
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f'{page.name} links to {target}, which is not there'
        if anchor:
            assert anchor in anchors(file), f'{page.name} links to {target}: no such heading'


def test_readme_is_read_at_once():
    lines = (ROOT / 'README.md').read_text(encoding='utf-8').splitlines()
    assert len(lines) <= 120


def test_every_page_is_in_the_table_of_contents():
    listed = set(re.findall(r'^   ([\w/]+)$', (DOCS / 'index.rst').read_text(), re.MULTILINE))
    assert listed == {str(p.relative_to(DOCS).with_suffix('')) for p in PAGES if DOCS in p.parents}


def test_every_page_can_be_reached_from_the_readme():
    reached, new = set(), {ROOT / 'README.md'}
    while new:
        reached |= new
        targets = {
            (page.parent / target.partition('#')[0]).resolve()
            for page in new
            for target in LINK.findall(prose(page))
            if target.partition('#')[0].endswith('.md') and '://' not in target
        }
        new = targets - reached
    # Agents are given their page by name.
    assert set(PAGES) - reached <= {ROOT / 'AGENTS.md'}


def test_every_launch_argument_is_explained():
    source = (ROOT / 'launch' / 'perception.launch.py').read_text(encoding='utf-8')
    names = re.findall(r"\bArgument\(\s*'(\w+)'", source)
    assert len(names) > 10
    assert set(table(DOCS / 'tune.md', '## Launch arguments')) >= set(names)


@pytest.mark.parametrize('command', COMMANDS)
def test_every_option_of_a_command_is_explained_on_its_page(command):
    parsers = make_parser([command])._subparsers._group_actions[0].choices
    text = (DOCS / COMMAND_PAGES[command]).read_text(encoding='utf-8')
    missing = [
        '/'.join(action.option_strings)
        for action in parsers[command]._actions
        if action.option_strings and action.help != argparse.SUPPRESS and action.dest != 'help'
        and not any(re.search(rf'{name}(?![\w-])', text) for name in action.option_strings)
    ]  # fmt: skip
    assert not missing, f'docs/{COMMAND_PAGES[command]} does not name {", ".join(missing)}'


def test_every_training_setting_is_explained_with_its_default():
    rows = table(DOCS / 'training.md', '## Settings')
    assert list(rows) == [field.name for field in fields(Settings)]
    for field in fields(Settings):
        written = rows[field.name][0].strip('`')
        if isinstance(field.default, bool):
            assert written == str(field.default).lower(), field.name
        elif isinstance(field.default, str):
            assert written == (field.default or 'empty'), field.name
        else:
            assert float(written) == field.default, field.name


# Former names of parameters that still name something else.
STILL_NAMES = {
    'base_url',  # a launch argument
    'dialect',  # a training setting
    'image_transport',  # a launch argument, and ROS 2's package
    'quantization',  # an extra
    'reasoner_model',  # a launch argument
    'reasoner',  # a field of the result
    'seed',  # a training setting
    'segmenter',  # a field of the result
    'segmenter_model',  # a launch argument
}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_no_page_names_a_parameter_by_its_former_name(page: Path) -> None:
    former = (RENAMED.keys() | REMOVED.keys()) - STILL_NAMES
    code = re.findall(r'`([^`\n]+)`', page.read_text(encoding='utf-8'))
    named = {re.split(r':=|: ', text)[0].removeprefix('-p ') for text in code}
    assert not named & former
