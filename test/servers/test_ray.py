"""The app of a fleet, config/serving/reasoner_app.py, with the real Ray Serve LLM."""

from __future__ import annotations

import os
from pathlib import Path
import subprocess

import pytest
from real_servers import environment

APPS = Path(__file__).resolve().parents[2] / 'config' / 'serving'
# Ray and vLLM take a minute to import.
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope='module')
def ray() -> Path:
    return environment('ray')


def python(ray: Path, home: Path, code: str, **more: str) -> str:
    command = [str(ray / 'bin' / 'python'), '-c', code]
    # Building the app starts a Ray of its own, which would leave a token in the user's folder.
    own = {'HOME': str(home), 'RAY_AUTH_MODE': 'disabled', 'PYTHONPATH': str(APPS)}
    variables = {**os.environ, **own, **more}
    return subprocess.run(
        command, env=variables, capture_output=True, text=True, check=True
    ).stdout


def test_the_app_of_a_fleet_asks_for_gpus_and_scales(ray: Path, tmp_path: Path) -> None:
    code = (
        'import reasoner_app as app\n'
        'deployment = app.config.deployment_config["autoscaling_config"]\n'
        'print(app.config.model_id, deployment["max_replicas"],'
        ' deployment["target_ongoing_requests"], app.config.accelerator_config)\n'
        'print(type(app.app).__name__)'
    )
    said = python(ray, tmp_path, code, SEGZERO_MODEL='somebody/7B', SEGZERO_REPLICAS='3').split(
        '\n'
    )
    assert said[0].startswith('somebody/7B 3 8 ') and 'gpu' in said[0]
    assert said[1] == 'Application'
