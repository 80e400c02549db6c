"""`transformers serve` answers the demo's questions as the same weights do here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from real_node import answers, gist, remote_node
from scripted_server import transformers_serve

from segzero_ros.types import Answer

# A model is trained first: minutes on a busy machine.
pytestmark = pytest.mark.timeout(3600)


@pytest.mark.usefixtures('_graph')
def test_the_demos_questions_end_at_the_node_as_the_same_weights_have_them_in_process(
    checkpoint: Path,
    demo: list[Any],
    demo_in_process: list[Answer],
    tiny_sam2: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with (
        transformers_serve(checkpoint, tmp_path_factory.mktemp('server')) as url,
        remote_node(url, str(checkpoint), str(tiny_sam2), tmp_path) as (client, _),
    ):
        found = answers(client, demo)
    assert [answer.raw_answer for answer in found] == [pair.answer for pair in demo]
    assert list(map(gist, found)) == list(map(gist, demo_in_process))
