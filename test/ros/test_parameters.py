"""Parameters: one table, profiles that are complete, and one clear line for what is wrong."""

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from segzero_ros.loading import ReasonerOptions, SegmenterOptions
from segzero_ros.ros.parameters import BY_NAME, ParameterError, Spec, SPECS, Takes

CONFIG = Path(__file__).resolve().parent.parent.parent / 'config'
# The node `voice` has parameters of its own.
PROFILES = sorted(path.stem for path in CONFIG.glob('*.yaml') if path.stem != 'voice')


def profile(name):
    return yaml.safe_load((CONFIG / f'{name}.yaml').read_text())['/**']['ros__parameters']


def test_the_profiles_are_the_four_of_the_documentation():
    assert PROFILES == ['mini', 'offline', 'remote', 'robot']


@pytest.mark.parametrize('name', PROFILES)
def test_a_profile_names_every_parameter_once_in_its_own_type_and_range(name):
    values = profile(name)
    assert set(values) == set(BY_NAME)
    for key, value in values.items():
        assert BY_NAME[key].read(value) == value


@pytest.mark.parametrize('name', PROFILES)
def test_a_profile_gives_an_active_node(name):
    assert profile(name)['autostart'] is True


def test_the_robot_profile_is_what_the_node_is_without_a_profile():
    assert profile('robot') == {spec.name: spec.default for spec in SPECS}


def test_the_profiles_differ_in_their_models():
    models = {name: (profile(name)['reasoner'], profile(name)['segmenter']) for name in PROFILES}
    assert models == {
        'mini': ('transformers', 'grabcut'),
        'offline': ('attributes', 'grabcut'),
        'remote': ('openai', 'sam2'),
        'robot': ('transformers', 'sam2'),
    }


@pytest.mark.parametrize('spec', SPECS, ids=lambda spec: spec.name)
def test_every_parameter_is_described_and_accepts_its_default(spec):
    assert spec.read(spec.default) == spec.default
    descriptor = spec.descriptor()
    assert spec.description in descriptor.description
    assert spec.description.endswith('.')
    if spec.choices:
        assert all(choice in descriptor.additional_constraints for choice in spec.choices)


def test_every_option_of_the_models_can_be_set():
    """A new option of a backend must not be forgotten here."""
    prefixed = {'backend', 'model', 'device', 'dtype', 'config'}
    for options, kind in ((ReasonerOptions, 'reasoner'), (SegmenterOptions, 'segmenter')):
        for field in fields(options):
            name = f'{kind}_{field.name}' if field.name in prefixed else field.name
            assert name.replace('_backend', '') in BY_NAME


@pytest.mark.parametrize(
    ('name', 'value', 'words'),
    [
        ('image_max_age', 'soon', ['image_max_age', 'a number', "'soon'", '5.0']),
        ('image_max_age', float('nan'), ['image_max_age', 'nan']),
        ('image_max_age', True, ['image_max_age', 'a number']),
        ('queue_size', 2.5, ['queue_size', 'a whole number', '2.5']),
        ('queue_size', 100_000, ['queue_size', '0 to 10000']),
        ('autostart', 'yes', ['autostart', 'true or false']),
        ('reasoner', 'transformer', ['reasoner', "did you mean 'transformers'"]),
        ('reasoner', '', ['reasoner', 'transformers, openai, attributes']),
        ('device', 0, ['device', 'a text', 'auto']),
        ('query_policy', 'first', ['preempt, queue, reject']),
        ('seed', None, ['seed', 'a whole number', 'None']),
        ('base_url', ['a', 'b'], ['base_url', 'a text']),
    ],
)
def test_a_bad_value_is_named_with_what_would_do(name, value, words):
    with pytest.raises(ParameterError) as caught:
        BY_NAME[name].read(value)
    text = str(caught.value)
    assert '\n' not in text
    for word in words:
        assert word in text


def test_whole_numbers_are_numbers():
    value = Spec('x', 1.5, 'A number.').read(3)
    assert value == 3.0
    assert isinstance(value, float)


@pytest.mark.parametrize(
    ('parameters', 'words'),
    [
        ({'image_max_age': 'soon'}, ['image_max_age', 'a number']),
        ({'query_policy': 'polite'}, ['query_policy', 'preempt, queue, reject']),
        ({'queue_size': -1}, ['queue_size', '0 to 10000']),
        ({'reasoner_model': 7}, ['reasoner_model', 'a text']),
        ({'use_sim_time': 'maybe'}, ['use_sim_time']),
    ],
)
def test_a_bad_params_file_ends_the_node_with_one_line(node_process, parameters, words):
    node = node_process(parameters)
    assert node.wait() == 2
    told = [line for line in node.lines if line.startswith('perception_node: ')]
    assert len(told) == 1
    for word in words:
        assert word in told[0]
    assert 'Traceback' not in node.output


@pytest.mark.parametrize(
    'arguments',
    [
        ['--params-file', '/no/such/file.yaml'],
        ['-p', 'queue_size:='],
        ['-p', 'no assignment'],
    ],
)
def test_arguments_that_cannot_be_read_end_the_node_with_a_line(node_process, arguments):
    node = node_process(arguments=arguments)
    assert node.wait() == 2
    assert any(line.startswith('perception_node: ') for line in node.lines)
    assert 'Traceback' not in node.output


def test_unknown_parameters_are_warned_about_with_the_nearest_name(scripted_node):
    node = scripted_node({'image_maxage': 3.0, 'resoner': 'attributes', 'queue_size': 4})
    assert 'image_max_age' in node.wait_for_output(r"\[WARN\].*'image_maxage'")
    assert "'reasoner'" in node.wait_for_output(r"\[WARN\].*'resoner'")
    node.wait_for_output('Active')
    assert not any('queue_size' in line for line in node.lines)
    assert node.stop()[0] == 0


def test_a_params_file_for_another_node_is_warned_about(scripted_node, tmp_path):
    path = tmp_path / 'other.yaml'
    path.write_text('some_other_node:\n  ros__parameters:\n    queue_size: 3\n')
    node = scripted_node(arguments=['--params-file', str(path)])
    line = node.wait_for_output(r'\[WARN\].*params')
    assert '/**' in line
    assert node.stop()[0] == 0


@pytest.mark.parametrize('name', ['base_url', 'api_key_env'])
def test_where_a_key_comes_from_and_goes_to_is_fixed_at_the_start(name):
    assert BY_NAME[name].takes is Takes.AT_START
    assert BY_NAME[name].descriptor().read_only
