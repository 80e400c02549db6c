"""The tables of parameters in docs/ name every parameter of the nodes, with its default."""

from __future__ import annotations

from pathlib import Path
import re

import pytest

from segzero_ros.parameter_table import SPECS, Takes
from segzero_ros.ros.camera_sim import node as camera_sim
from segzero_ros.ros.voice import parameters as voice_parameters

DOCS = Path(__file__).resolve().parents[2] / 'docs'
CHANGE = {
    Takes.AT_ONCE: 'now',
    Takes.AT_CONFIGURATION: 'configure',
    Takes.AT_START: 'start',
}


def rows(page: str) -> dict[str, list[str]]:
    """Return the rows of a page's tables, by each name in their first cells."""
    found: dict[str, list[str]] = {}
    for line in (DOCS / page).read_text(encoding='utf-8').splitlines():
        if line.startswith('| `'):
            first, *cells = (cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1])
            for name in re.findall(r'`([^`]+)`', first):
                # The tables of parameters come behind that of the launch arguments.
                found[name] = cells
    return found


@pytest.mark.parametrize('spec', SPECS, ids=lambda spec: spec.name)
def test_a_parameter_of_perception_is_explained_with_its_default(spec):
    default, change, text = rows('tune.md')[spec.name]
    if isinstance(spec.default, bool):
        assert default == str(spec.default).lower()
    elif isinstance(spec.default, str):
        assert default == (f'`{spec.default}`' if spec.default else 'empty')
    else:
        assert float(default) == spec.default
    assert change == CHANGE[spec.takes]
    for choice in filter(None, spec.choices):
        assert f'`{choice}`' in text or 'as `reasoner.dtype`' in text, choice


@pytest.mark.parametrize(
    ('page', 'specs'),
    [('simulate.md', camera_sim.SPECS), ('voice.md', voice_parameters.SPECS)],
    ids=['camera_sim', 'voice'],
)
def test_parameters_of_the_other_nodes_are_explained(page, specs):
    missing = {spec.name for spec in specs} - set(rows(page))
    assert not missing
