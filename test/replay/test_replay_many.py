"""Several bags are replayed at a time, each to the bytes of its replay alone."""

from __future__ import annotations

import json
from pathlib import Path
import shutil

from own_network import INSIDE
import pytest
from recordings import Recording, scene_frame
from test_replay import contents

from segzero_ros.cli.main import main
from segzero_ros.replay.bag_folder import find_bags, NoBags
from segzero_ros.replay.output import ReplayOutput

QUERY = ('--query', 'the largest object')
NAMES = ('one/table', 'two/late', 'two/table')


def segzero(*words: object) -> int:
    return main(['replay', *map(str, words), *QUERY, '--profile', 'offline'])


@pytest.fixture(scope='module')
def fleet(tmp_path_factory) -> Path:
    """Three recordings of two robots, two of the same name."""
    folder = tmp_path_factory.mktemp('fleet')
    for name, seed in zip(NAMES, (3, 4, 5), strict=True):
        Recording().camera([scene_frame(seed)] * 2).write(folder / name)
    return folder


@pytest.fixture(scope='module')
def alone(fleet, tmp_path_factory) -> dict[str, dict[str, str]]:
    """The digests of the files of each replay by itself."""
    folder = tmp_path_factory.mktemp('alone')
    for name in NAMES:
        assert segzero(fleet / name, '-o', folder / name, '--workers', 1, '-q') == 0
    return {name: contents(ReplayOutput(folder / name)) for name in NAMES}


@pytest.fixture(params=['processes', *(['ray'] if INSIDE else [])])
def workers(request) -> tuple[str, ...]:
    """Options for two workers."""
    if request.param == 'processes':
        return '--workers', '2'
    return '--ray', request.getfixturevalue('cluster').address


def found(output: Path) -> dict[str, dict[str, str]]:
    return {name: contents(ReplayOutput(output / name)) for name in NAMES}


@pytest.mark.slow
def test_each_bag_has_the_bytes_of_its_replay_alone_and_is_not_replayed_again(
    fleet, alone, workers, tmp_path, capsys
):
    output = tmp_path / 'out'
    assert segzero(fleet, '-o', output, *workers) == 0
    assert found(output) == alone
    printed = capsys.readouterr()
    assert f'3 of 3 bags, 6 answers (6 OK) in {output}' in printed.out
    assert '[3/3]' in printed.err and 'one/table: 2 answers (2 OK)' in printed.err
    summary = json.loads((output / 'summary.json').read_text())
    assert summary['complete'] and summary['answers'] == {'OK': 6}
    assert summary['bags']['two/late'] == {'answers': {'OK': 2}}

    shutil.rmtree(output / 'two' / 'late')
    times = {name: (output / name / 'results.jsonl').stat().st_mtime_ns for name in NAMES[::2]}
    assert segzero(fleet, '-o', output, *workers, '-q') == 0
    assert found(output) == alone
    again = {name: (output / name / 'results.jsonl').stat().st_mtime_ns for name in NAMES[::2]}
    assert again == times
    assert json.loads((output / 'summary.json').read_text()) == summary


@pytest.mark.slow
def test_other_outputs_than_before_are_written(fleet, tmp_path):
    bags = [fleet / name for name in NAMES[1:]]
    bare = ('-o', tmp_path, '-q', '--without', 'overlays', '--without', 'report')
    assert segzero(*bags, *bare, '--without', 'video', '--without', 'bag') == 0
    assert not (tmp_path / 'late' / 'bag').exists()
    assert segzero(*bags, *bare, '--without', 'video') == 0
    assert (tmp_path / 'late' / 'bag').exists() and (tmp_path / 'table' / 'bag').exists()


@pytest.mark.slow
def test_a_bag_that_fails_is_named_and_the_others_are_compared(fleet, tmp_path, capsys):
    bags = tmp_path / 'bags'
    shutil.copytree(fleet, bags)
    accepted = tmp_path / 'accepted'
    bare = ('--workers', 2, '--without', 'bag', '--without', 'video', '--without', 'report', '-q')
    assert segzero(bags, '-o', tmp_path / '1', *bare, '--accept', accepted) == 0
    assert segzero(bags, '-o', tmp_path / '2', *bare, '--expect', accepted) == 0
    late = accepted / 'two' / 'late.jsonl'
    late.write_text(late.read_text().replace('"OK"', '"NOT_FOUND"'))
    assert segzero(bags, '-o', tmp_path / '2', *bare, '--expect', accepted) == 1
    for file in (bags / 'one' / 'table').glob('*.mcap'):
        file.write_bytes(b'no bag')
    capsys.readouterr()
    assert segzero(bags, '-o', tmp_path / '3', *bare, '--expect', accepted) == 2
    error = capsys.readouterr().err
    assert 'segzero replay: one/table: ' in error and f'2 of 2 answers differ from {late}' in error
    summary = json.loads((tmp_path / '3' / 'summary.json').read_text())
    assert not summary['complete'] and 'no bag' not in summary['bags']['two/table']
    assert summary['bags']['one/table']['error'] and summary['answers'] == {'OK': 4}
    late.unlink()
    assert segzero(bags, '-o', tmp_path / '4', *bare, '--expect', accepted) == 2
    assert str(late) in capsys.readouterr().err
    assert not (tmp_path / '4').exists()


def test_bags_are_found_and_named_by_their_place(tmp_path):
    for name in ('b/two', 'b/three', 'a'):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / 'metadata.yaml').touch()
    (tmp_path / 'c.mcap').touch()
    (tmp_path / 'b' / 'out' / 'bag').mkdir(parents=True)
    (tmp_path / 'b' / 'out' / 'replay.json').touch()
    (tmp_path / 'b' / 'out' / 'bag' / 'metadata.yaml').touch()
    below = find_bags([tmp_path / 'b'])
    assert [bag.name for bag in below] == ['three', 'two']
    assert below[0].path == tmp_path / 'b' / 'three'
    several = find_bags([tmp_path / 'c.mcap', tmp_path / 'b', tmp_path / 'a', tmp_path / 'a'])
    assert [bag.name for bag in several] == ['c', 'b/three', 'b/two', 'a']
    (only,) = find_bags([tmp_path / 'a'])
    assert only.name == 'a'


def test_bags_that_cannot_be_told_apart_or_are_none_are_refused(tmp_path):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(NoBags, match='contains no bags'):
        find_bags([tmp_path / 'empty'])
    with pytest.raises(NoBags, match='differ only in their suffix'):
        find_bags([tmp_path / 'a.mcap', tmp_path / 'a.bag'])
