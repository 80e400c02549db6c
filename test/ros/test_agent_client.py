"""What an agent's client makes of a node that dies."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from segzero_ros.msg import SegmentationResult as Result
from segzero_ros.ros.client.agent_client import AgentClient
from segzero_ros.ros.client.types import NoNode


@pytest.mark.parametrize('restarted', [False, True])
def test_a_node_that_dies_while_it_answers_is_noticed(
    scripted_node, new_client, red_and_blue, restarted: bool
) -> None:
    space = f'restarted_{restarted}'.lower()
    arguments = ['-r', f'__ns:=/{space}']
    node = scripted_node(arguments=arguments)
    client = new_client(space)
    client.wait_for_server()
    client.wait_for_state('active')
    camera = client.camera(red_and_blue)
    client.until(lambda: client.once('is there a picture?').status != Result.NO_IMAGE)
    # An answer may take far longer than it takes to notice.
    with ThreadPoolExecutor() as pool, closing(AgentClient(space, 600)) as agent:
        # By then it knows the node by its name, which comes apart from its services.
        agent.look()
        client.reasoning.forget()
        asked = pool.submit(agent.ask, 'count for ever')
        client.reasoning.wait_for()
        node.kill()
        if restarted:
            scripted_node(arguments=arguments)
        with pytest.raises(NoNode, match=f'/{space}/perception has died') as died:
            asked.result(60)
        assert ('It is back: ask again.' in str(died.value)) is restarted
    camera.stop()
