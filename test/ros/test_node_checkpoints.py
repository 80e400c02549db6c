"""Real models in the real node: what can be wrong with a checkpoint is said once, and put right.

Every fault is made and mended as a user does it, by `ros2 param set` and a transition.
"""

import os
import re
import shutil

import pytest
import torch

from segzero_ros.msg import SegmentationResult as Result


@pytest.fixture(scope='module')
def pair(make_tiny_checkpoints):
    return make_tiny_checkpoints.example_pairs()[0]


@pytest.fixture(scope='module')
def good(tiny_qwen2_vl, tiny_sam2):
    """What the parameters are when nothing is wrong."""
    return {
        'reasoner.model': str(tiny_qwen2_vl),
        'reasoner.dialect': 'vision_reasoner',
        'device': 'cpu',
        'reasoner.quantization': '',
        'segmenter.model': str(tiny_sam2),
    }


@pytest.fixture(scope='module')
def node(node_process, good, tmp_path_factory):
    return node_process(
        {**good, 'autostart': False},
        profile='robot',
        arguments=['-r', '__ns:=/checkpoints'],
        environment={
            'HF_HUB_OFFLINE': '1',
            'HF_HOME': str(tmp_path_factory.mktemp('empty_hub')),
            'CUDA_VISIBLE_DEVICES': '',
            'OMP_NUM_THREADS': '1',
        },
    )


@pytest.fixture(scope='module')
def client(node, new_client):
    client = new_client('/checkpoints')
    client.wait_for_server()
    return client


@pytest.fixture(scope='module')
def faults(tiny_qwen2_vl, tiny_sam2, tmp_path_factory):
    """Each fault: the parameter, its bad value, and what has to be said about it."""
    short = tmp_path_factory.mktemp('faults') / 'short'
    shutil.copytree(tiny_qwen2_vl, short)
    os.truncate(short / 'model.safetensors', 100_000)
    half = short.with_name('half.pt')
    half.write_bytes(tiny_sam2.read_bytes()[:100_000])
    shutil.copy(tiny_sam2.with_suffix('.yaml'), half.with_suffix('.yaml'))
    return {
        'no weights': (
            'reasoner.model',
            'Ricky06662/VisionReasoner-7B',
            r'weights of Ricky06662/VisionReasoner-7B are not on this machine.*hf download',
        ),
        'no such folder': ('reasoner.model', '/no/such/folder', 'no folder /no/such/folder'),
        'no GPU': ('device', 'cuda', r'There is no cuda: torch finds no GPU'),
        'wrong dialect': (
            'reasoner.dialect',
            'qwen2_5_vl',
            r"'qwen2_vl', but the dialect qwen2_5_vl",
        ),
        'truncated checkpoint': (
            'reasoner.model',
            str(short),
            r'model\.safetensors is damaged .*100000 bytes',
        ),
        'truncated SAM 2': ('segmenter.model', str(half), r'half\.pt .*is truncated'),
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason='this machine has a GPU')
@pytest.mark.parametrize(
    'fault',
    [
        'no weights',
        'no such folder',
        'no GPU',
        'wrong dialect',
        'truncated checkpoint',
        'truncated SAM 2',
    ],
)
# The small models are trained on the spot.
@pytest.mark.timeout(600)
def test_a_fault_is_said_once_and_clearly_and_configuring_works_when_it_is_put_right(
    node, client, good, faults, pair, as_image_message, fault
):
    name, bad, said = faults[fault]
    assert client.set_parameter(name, bad) == (True, '')
    before = len(node.lines)
    assert not client.transition('configure', 120)
    assert client.state() == 'unconfigured'
    node.wait_for_output(said)
    errors = [line for line in node.lines[before:] if '[ERROR]' in line]
    assert len(errors) == 1, errors
    # Who asks hears the same in one line, without a traceback.
    message = client.once('anybody there?').message
    assert re.search(said, message), message
    assert '\n' not in message and 'Traceback' not in message
    assert 'profile `offline`' in message
    assert client.set_parameter(name, good[name]) == (True, '')
    assert client.transition('configure', 120)
    assert client.transition('activate')
    result = client.once(pair.query, as_image_message(pair.image))
    assert result.status == Result.OK, result.message
    assert result.raw_answer == pair.answer
    assert client.transition('deactivate')
    assert client.transition('cleanup')
