"""One table of parameters: profiles, parameter files and values are read and checked by it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from segzero_ros.config import PROFILES, read_profile, reasoner_options, segmenter_options
from segzero_ros.loading import described
from segzero_ros.parameter_table import (
    BY_NAME,
    ParameterError,
    ProfileError,
    REMOVED,
    RENAMED,
    Spec,
    SPECS,
    Takes,
)

CONFIG = Path(__file__).resolve().parent.parent / 'config'
DEFAULTS = {spec.name: spec.default for spec in SPECS}


def test_there_are_at_most_thirty_parameters_with_dots_between_groups():
    assert len(SPECS) == len(BY_NAME)
    # Users never need the others.
    assert len([name for name in BY_NAME if not name.startswith('advanced.')]) <= 30
    ungrouped = {name for name in BY_NAME if '.' not in name}
    outputs = {'broadcast_tf', 'label_encoding', 'target_frame'}
    assert ungrouped == {'autostart', 'device', 'offline', 'track'} | outputs


def test_the_profiles_are_the_files_of_the_folder():
    # The node `voice` has parameters of its own.
    files = {path.stem for path in CONFIG.glob('*.yaml')} - {'voice'}
    assert files == set(PROFILES)


@pytest.mark.parametrize('profile', PROFILES)
def test_a_profile_is_the_defaults_and_what_its_file_changes(profile):
    content = yaml.safe_load((CONFIG / f'{profile}.yaml').read_text())
    values = read_profile(profile)
    assert set(values) == set(BY_NAME)
    groups = content['/**']['ros__parameters']
    given = {name: value for name, value in groups.items() if not isinstance(value, dict)}
    for group, members in groups.items():
        if isinstance(members, dict):
            given |= {f'{group}.{name}': value for name, value in members.items()}
    assert values == {**DEFAULTS, **given}
    assert len(given) < 10
    for name, value in values.items():
        assert BY_NAME[name].read(value) == value


def test_the_robot_profile_is_the_node_without_a_profile():
    assert read_profile('robot') == DEFAULTS


def test_the_profiles_differ_in_their_models():
    models = {
        name: (read_profile(name)['reasoner.backend'], read_profile(name)['segmenter.backend'])
        for name in PROFILES
    }
    assert models == {
        'mini': ('transformers', 'grabcut'),
        'offline': ('attributes', 'grabcut'),
        'remote': ('openai', 'sam2'),
        'robot': ('transformers', 'sam2'),
    }


def test_the_models_are_made_from_the_parameters():
    overrides = {'device': 'cuda:1', 'segmenter.device': 'cpu', 'limits.answer_time': 9}
    value = read_profile('offline', overrides=overrides).__getitem__
    reasoner, segmenter = reasoner_options(value), segmenter_options(value)
    assert (reasoner.backend, reasoner.device, reasoner.offline) == ('attributes', 'cuda:1', True)
    assert (segmenter.backend, segmenter.device, segmenter.offline) == ('grabcut', 'cpu', True)
    assert reasoner.time_limit == 9.0


def test_every_option_of_the_models_has_a_parameter_or_a_reason_why_not():
    """A new option of a backend must not be forgotten here."""
    changed = {
        name: f'other {name}' if isinstance(default, str) else 7
        for name, default in DEFAULTS.items()
        if not isinstance(default, bool)
    }
    value = {**DEFAULTS, **changed, 'offline': True, 'advanced.fast_decoding': False}
    value['server.constrain_answer'] = True
    plain = reasoner_options(DEFAULTS.__getitem__), segmenter_options(DEFAULTS.__getitem__)
    other = reasoner_options(value.__getitem__), segmenter_options(value.__getitem__)
    same = {
        field.name
        for before, after in zip(plain, other, strict=True)
        for field in fields(before)
        if getattr(before, field.name) == getattr(after, field.name)
    }
    # `dtype` is the segmenter's, which follows its device.
    assert same == {'answer_parser', 'seed', 'config', 'dtype'}


def test_a_parameter_file_overrides_the_profile_and_the_command_line_both(tmp_path):
    path = tmp_path / 'mine.yaml'
    path.write_text(
        '/**: {ros__parameters: {limits: {answer_time: 7}, query.queue_size: 5}}\n'
        '/other: {query: {queue_size: 9}}\n'
    )
    values = read_profile('offline', path, {'query.queue_size': 6})
    assert values['query.queue_size'] == 6
    assert values['reasoner.backend'] == 'attributes'
    assert values['limits.answer_time'] == 7.0
    assert isinstance(values['limits.answer_time'], float)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (
            '/**: {ros__parameters: {query: {queue_sise: 5}}}',
            "no parameter 'query.queue_sise'; the nearest is 'query.queue_size'",
        ),
        ('/**: {ros__parameters: {query.queue_size: five}}', "must be an integer, not 'five'"),
        ('/**: {ros__parameters: {query.queue_size: true}}', 'must be an integer, not True'),
        ('/**: {ros__parameters: {query.queue_size: -1}}', 'give 0 to 10000'),
        ('/**: {ros__parameters: {queue_size: 5}}', 'queue_size is called query.queue_size now'),
        ('/**: {ros__parameters: {seed: 5}}', 'no parameter seed any more'),
        ('/camera: {ros__parameters: {track: true}}', 'has no parameters for the node'),
        ('[', 'cannot be read'),
        ('', 'has no parameters'),
    ],
)
def test_a_parameter_file_that_cannot_be_used_is_refused(tmp_path, text, message):
    path = tmp_path / 'mine.yaml'
    path.write_text(text)
    with pytest.raises(ProfileError, match=message):
        read_profile('offline', path)


def test_former_names_lead_to_present_ones():
    assert set(RENAMED.values()) < set(BY_NAME)
    assert not (set(RENAMED) | set(REMOVED)) & set(BY_NAME)


def test_an_unknown_profile_is_refused_with_those_that_exist():
    with pytest.raises(ProfileError, match='robot, remote, offline'):
        read_profile('laptop')


def test_a_description_of_options_holds_no_password():
    url = {'server.base_url': 'https://me:pass@server:1/v1'}
    values = read_profile('remote', overrides=url)
    written = described(reasoner_options(values.__getitem__))
    assert written['base_url'] == 'https://***@server:1/v1'
    assert written['api_key_env'] == values['server.api_key_env']
    backend = described(segmenter_options(values.__getitem__))['backend']
    assert backend == values['segmenter.backend']


@pytest.mark.parametrize(
    ('name', 'value', 'words'),
    [
        ('camera.max_image_age', 'soon', ['camera.max_image_age', 'a number', "'soon'", '5.0']),
        ('camera.max_image_age', float('nan'), ['camera.max_image_age', 'nan']),
        ('camera.max_image_age', True, ['camera.max_image_age', 'a number']),
        ('query.queue_size', 2.5, ['query.queue_size', 'an integer', '2.5']),
        ('query.queue_size', 100_000, ['query.queue_size', '0 to 10000']),
        ('query.queue_size', None, ['query.queue_size', 'an integer', 'None']),
        ('autostart', 'yes', ['autostart', 'true or false']),
        ('reasoner.backend', 'transformer', ["did you mean 'transformers'"]),
        ('reasoner.backend', '', ['reasoner.backend', 'transformers, openai, attributes']),
        ('device', 0, ['device', 'a string', 'auto']),
        ('query.policy', 'first', ['preempt, queue, reject']),
        ('server.base_url', ['a', 'b'], ['server.base_url', 'a string']),
    ],
)
def test_a_bad_value_is_refused_with_what_is_allowed(name, value, words):
    with pytest.raises(ParameterError) as caught:
        BY_NAME[name].read(value)
    text = str(caught.value)
    assert '\n' not in text
    for word in words:
        assert word in text


def test_integers_are_numbers():
    value = Spec('x', 1.5, 'A number.').read(3)
    assert value == 3.0
    assert isinstance(value, float)


@pytest.mark.parametrize('name', ['server.base_url', 'server.api_key_env'])
def test_where_a_key_comes_from_and_goes_to_is_fixed_at_the_start(name):
    assert BY_NAME[name].takes is Takes.AT_START
