"""While a node fetches its models, all can see how far it is; what breaks can be tried again.

The hub is a server of the test's, with a small Qwen2-VL.
"""

from __future__ import annotations

from typing import Any

from hub_server import hub_server
import pytest

pytest.importorskip('torch')

from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String

from segzero_ros.msg import SegmentationResult as Result

NAME = 'somebody/model'
WEIGHTS = 'model.safetensors'


@pytest.fixture
def hub(tiny_qwen2_vl: Any) -> Any:
    files = {path.name: path.read_bytes() for path in tiny_qwen2_vl.iterdir()}
    with hub_server(NAME, files) as server:
        yield server


@pytest.mark.timeout(900)
def test_a_download_is_seen_in_status_log_and_answers_and_can_be_tried_again(
    hub, node_process, new_client, tiny_sam2, tmp_path, make_tiny_checkpoints, as_image_message
):
    hub.cut[WEIGHTS] = 100_000
    hub.hold.add(WEIGHTS)
    node = node_process(
        {
            'reasoner.model': NAME,
            'reasoner.dialect': 'vision_reasoner',
            'device': 'cpu',
            'segmenter.model': str(tiny_sam2),
        },
        profile='robot',
        arguments=['-r', '__ns:=/download'],
        environment={
            'HF_ENDPOINT': hub.url,
            'HF_HOME': str(tmp_path),
            'HF_HUB_OFFLINE': '0',
            'CUDA_VISIBLE_DEVICES': '',
            'OMP_NUM_THREADS': '1',
        },
    )
    client = new_client('/download')
    latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    lines = client.listen(String, 'status', latched)
    # What `ros2 topic echo` shows.
    lines.wait_for(lambda line: line.data.startswith(f'OK | Downloading {NAME}: '), 300)
    client.wait_for_server()
    asked = client.until(
        lambda: (
            result if 'Downloading' in (result := client.once('anybody there?')).message else None
        ),
        'an answer tells of the download',
    )
    assert asked.status == Result.REJECTED
    assert asked.message.endswith('Send the query again when the node is active.')
    assert 'MB' in node.wait_for_output(f'Downloading {NAME}: ')
    hub.release.set()
    node.wait_for_output(
        r'The download of somebody/model was interrupted after .* MB of .* MB', 120
    )
    client.wait_for_state('unconfigured')
    hub.cut.clear()
    assert client.transition('configure', 240)
    assert client.transition('activate')
    pair = make_tiny_checkpoints.example_pairs()[0]
    result = client.once(pair.query, as_image_message(pair.image), 120)
    assert (result.status, result.raw_answer) == (Result.OK, pair.answer), result.message
