"""The app of a fleet, config/serving/reasoner_app.py, with the real Ray Serve LLM."""

from __future__ import annotations

from collections.abc import Iterator
import logging
import os
from pathlib import Path
import subprocess
import tempfile
from typing import Any

import pytest
from ray_cluster import running
from real_node import answers, gist, remote_node
from real_servers import ask, environment, PATIENCE, same

from segzero_ros import serving
from segzero_ros.reasoning.openai_reasoner import OpenAIReasoner
from segzero_ros.types import Answer

APPS = Path(__file__).resolve().parents[2] / 'config' / 'serving'
# Ray, its proxies and vLLM start one after the other, each in minutes on a busy machine.
pytestmark = pytest.mark.timeout(3600)
# The app of a fleet with the weights' own precision. vLLM would take bfloat16, compile the model
# and nearly all memory.
EXACT_APP = """
from ray.serve.llm import build_openai_app
from reasoner_app import config

more = {'dtype': 'float32', 'enforce_eager': True, 'gpu_memory_utilization': 0.2}
exact = config.model_copy(update={'engine_kwargs': {**config.engine_kwargs, **more}})
app = build_openai_app({'llm_configs': [exact]})
"""


@pytest.fixture(scope='module')
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Variables for a cluster of one machine with a token, started as docs/serving.md has it."""
    ray = environment('ray')
    home = tmp_path_factory.mktemp('home')
    port = serving.free_port()
    variables = {
        **os.environ,
        'HF_HUB_OFFLINE': '1',
        'HOME': str(home),
        'PATH': f'{ray / "bin"}{os.pathsep}{os.environ["PATH"]}',
        'RAY_ADDRESS': f'{serving.HOST}:{port}',
        'RAY_AUTH_MODE': 'token',
        'RAY_USAGE_STATS_ENABLED': '0',
        # On a busy machine its workers would give way to everything else, and a node that answers
        # late five times would be taken for dead.
        'RAY_worker_niceness': '0',
        'RAY_health_check_failure_threshold': '100',
    }
    token = ['ray', 'get-auth-token', '--generate']
    subprocess.run(token, check=True, env=variables, capture_output=True)
    head = ['ray', 'start', '--head', '--block', f'--node-ip-address={serving.HOST}']
    head += [f'--port={port}', f'--ray-client-server-port={serving.free_port()}']
    head += ['--include-dashboard=false', '--num-cpus=8', '--object-store-memory=100000000']
    # The paths of Ray's sockets have room for a short folder only.
    with (
        tempfile.TemporaryDirectory(prefix='ray') as folder,
        running([*head, f'--temp-dir={folder}'], variables, 'Ray runtime started'),
    ):
        yield variables


@pytest.fixture(scope='module')
def url(
    cluster: dict[str, str], checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The base_url of the app on a cluster without GPUs."""
    apps = tmp_path_factory.mktemp('apps')
    (apps / 'exact_app.py').write_text(EXACT_APP)
    port = serving.free_port()
    start = ['serve', 'start', f'--http-host={serving.HOST}', f'--http-port={port}']
    subprocess.run(start, check=True, env=cluster)
    more = {'SEGZERO_DEVICE': 'cpu', 'SEGZERO_MODEL': str(checkpoint), 'SEGZERO_REPLICAS': '1'}
    run = ['serve', 'run', f'--app-dir={apps}', 'exact_app:app']
    variables = {**cluster, **more, 'PYTHONPATH': str(APPS)}
    with running(run, variables, "Deployed app 'default' successfully"):
        yield serving.base_url(port)


def test_the_app_of_a_fleet_asks_for_gpus_and_scales(cluster: dict[str, str]) -> None:
    code = (
        'import reasoner_app as app\n'
        'deployment = app.config.deployment_config["autoscaling_config"]\n'
        'print(app.config.model_id, deployment["max_replicas"],'
        ' deployment["target_ongoing_requests"], app.config.accelerator_config)\n'
        'print(type(app.app).__name__)'
    )
    more = {'PYTHONPATH': str(APPS), 'SEGZERO_MODEL': 'somebody/7B', 'SEGZERO_REPLICAS': '3'}
    done = subprocess.run(
        ['python', '-c', code],
        env={**cluster, **more},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    said = done.stdout.splitlines()
    assert said[0].startswith('somebody/7B 3 8 ') and 'gpu' in said[0]
    assert said[1] == 'Application'


@pytest.mark.parametrize('constrain', [False, True], ids=['free', 'constrained'])
def test_the_answers_are_those_of_the_same_weights_in_process(
    url: str,
    checkpoint: Path,
    pairs: list[Any],
    in_process: Any,
    constrain: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    reasoner = OpenAIReasoner(
        url, str(checkpoint), constrain_answer=constrain, time_limit=PATIENCE
    )
    with caplog.at_level(logging.WARNING):
        found = ask(reasoner, pairs)
    reasoner.close()
    assert [grounding.raw_answer for grounding in found] == [pair.answer for pair in pairs]
    assert all(map(same, found, in_process))
    assert 'resizes' not in caplog.text


@pytest.mark.usefixtures('_graph')
def test_the_demos_questions_end_at_the_node_as_the_same_weights_have_them_in_process(
    url: str,
    checkpoint: Path,
    demo: list[Any],
    demo_in_process: list[Answer],
    tiny_sam2: Path,
    tmp_path: Path,
) -> None:
    with remote_node(url, str(checkpoint), str(tiny_sam2), tmp_path) as (client, _):
        found = answers(client, demo)
    assert [answer.raw_answer for answer in found] == [pair.answer for pair in demo]
    assert list(map(gist, found)) == list(map(gist, demo_in_process))
