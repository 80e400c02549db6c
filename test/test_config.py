"""A profile is read without ROS as the node reads it, and what overrules it is checked."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from segzero_ros.loading import described
from segzero_ros.profiles import (
    ProfileError,
    PROFILES,
    read_profile,
    reasoner_options,
    segmenter_options,
)

CONFIG = Path(__file__).resolve().parent.parent / 'config'


@pytest.mark.parametrize('profile', PROFILES)
def test_a_profile_is_what_its_file_says(profile):
    content = yaml.safe_load((CONFIG / f'{profile}.yaml').read_text())
    assert read_profile(profile) == content['/**']['ros__parameters']


def test_the_models_are_made_from_the_parameters():
    values = read_profile('offline', overrides={'device': 'cuda:1', 'segmenter.device': 'cpu'})
    reasoner, segmenter = (
        options(values.__getitem__) for options in (reasoner_options, segmenter_options)
    )
    assert (reasoner.backend, reasoner.device, reasoner.offline) == ('attributes', 'cuda:1', True)
    assert (segmenter.backend, segmenter.device, segmenter.offline) == ('grabcut', 'cpu', True)


def test_a_params_file_overrules_the_profile_and_the_command_line_both(tmp_path):
    path = tmp_path / 'mine.yaml'
    path.write_text('/**: {ros__parameters: {seed: 5, time_limit: 7}}\n/other: {seed: 9}\n')
    values = read_profile('offline', path, {'seed': 6})
    assert (values['seed'], values['time_limit'], values['reasoner']) == (6, 7.0, 'attributes')
    assert isinstance(values['time_limit'], float)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('/**: {ros__parameters: {sed: 5}}', "no parameter 'sed'; the nearest is 'seed'"),
        ('/**: {ros__parameters: {seed: five}}', "seed must be like 0, not 'five'"),
        ('/**: {ros__parameters: {seed: true}}', 'seed must be like 0, not True'),
        ('/camera: {ros__parameters: {seed: 5}}', 'names no parameters for the node'),
        ('[', 'cannot be read'),
        ('', 'names no parameters'),
    ],
)
def test_a_params_file_that_cannot_be_used_is_refused(tmp_path, text, message):
    path = tmp_path / 'mine.yaml'
    path.write_text(text)
    with pytest.raises(ProfileError, match=message):
        read_profile('offline', path)


def test_a_profile_that_is_none_is_refused_with_those_that_are():
    with pytest.raises(ProfileError, match='robot, remote, offline'):
        read_profile('laptop')


def test_what_is_written_of_a_models_options_holds_no_password():
    values = read_profile('remote', overrides={'server.base_url': 'https://me:pass@server:1/v1'})
    written = described(reasoner_options(values.__getitem__))
    assert written['base_url'] == 'https://***@server:1/v1'
    assert written['api_key_env'] == values['api_key_env']
    assert described(segmenter_options(values.__getitem__))['backend'] == values['segmenter']
