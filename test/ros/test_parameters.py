"""Parameters of the node: described, and one clear line for what is wrong."""

import pytest

from segzero_ros.parameter_table import BY_NAME, SPECS
from segzero_ros.ros.parameters import descriptor


@pytest.mark.parametrize('spec', SPECS, ids=lambda spec: spec.name)
def test_every_parameter_is_described_and_accepts_its_default(spec):
    assert spec.read(spec.default) == spec.default
    shown = descriptor(spec)
    assert spec.description in shown.description
    assert spec.description.endswith('.')
    if spec.choices:
        assert all(choice in shown.additional_constraints for choice in spec.choices)


@pytest.mark.parametrize(
    ('parameters', 'words'),
    [
        ({'camera.max_image_age': 'soon'}, ['camera.max_image_age', 'a number']),
        ({'query.policy': 'polite'}, ['query.policy', 'preempt, queue, reject']),
        ({'query.queue_size': -1}, ['query.queue_size', '0 to 10000']),
        ({'reasoner.model': 7}, ['reasoner.model', 'a string']),
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
        ['-p', 'query.queue_size:='],
        ['-p', 'no assignment'],
    ],
)
def test_arguments_that_cannot_be_read_end_the_node_with_a_line(node_process, arguments):
    node = node_process(arguments=arguments)
    assert node.wait() == 2
    assert any(line.startswith('perception_node: ') for line in node.lines)
    assert 'Traceback' not in node.output


def test_unknown_parameters_are_warned_about_with_the_nearest_name(scripted_node):
    node = scripted_node(
        {'camera.max_imageage': 3.0, 'resoner.backend': 'attributes', 'query.queue_size': 4}
    )
    assert 'max_image_age' in node.wait_for_output(r"\[WARN\].*'camera.max_imageage'")
    assert "'reasoner.backend'" in node.wait_for_output(r"\[WARN\].*'resoner.backend'")
    node.wait_for_output('Active')
    assert not any('queue_size' in line for line in node.lines)
    assert node.stop()[0] == 0


def test_a_params_file_for_another_node_is_warned_about(scripted_node, tmp_path):
    path = tmp_path / 'other.yaml'
    path.write_text('some_other_node:\n  ros__parameters:\n    queue_size: 3\n')
    node = scripted_node(arguments=['--params-file', str(path)])
    line = node.wait_for_output(r'\[WARN\].*parameter file')
    assert '/**' in line
    assert node.stop()[0] == 0


@pytest.mark.parametrize('name', ['server.base_url', 'server.api_key_env'])
def test_what_is_fixed_at_the_start_is_read_only(name):
    assert descriptor(BY_NAME[name]).read_only


def test_a_former_name_ends_the_node_with_the_present_one(node_process):
    node = node_process({'max_image_pixels': 100})
    assert node.wait() == 2
    reported = [line for line in node.lines if line.startswith('perception_node: ')]
    assert reported == [
        'perception_node: max_image_pixels is called advanced.max_pixels now: rename it.'
    ]
    assert 'Traceback' not in node.output
