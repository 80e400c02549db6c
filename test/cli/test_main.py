"""The command `segzero` is quick, finds its subcommands and ends with the right code."""

from __future__ import annotations

from importlib import metadata
import subprocess
import sys
from types import ModuleType

import pytest

from segzero_ros.cli import main as command
from segzero_ros.types import SegZeroError


def segzero(*words: str) -> subprocess.CompletedProcess[str]:
    code = 'import sys; from segzero_ros.cli.main import main; sys.exit(main())'
    return subprocess.run([sys.executable, '-c', code, *words], capture_output=True, text=True)


@pytest.mark.slow
def test_help_names_every_subcommand() -> None:
    done = segzero('--help')
    assert done.returncode == 0
    for name, purpose in command.COMMANDS.items():
        assert name in done.stdout
        assert purpose in ' '.join(done.stdout.split())


@pytest.mark.slow
def test_the_version_is_the_package_s() -> None:
    assert segzero('--version').stdout == f'segzero {metadata.version("segzero_ros")}\n'


def test_the_version_is_known_without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = command.version()

    def unknown(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, 'version', unknown)
    assert command.version() == expected


@pytest.mark.slow
@pytest.mark.parametrize('name', command.COMMANDS)
def test_every_subcommand_has_arguments_and_help(name: str) -> None:
    done = segzero(name, '--help')
    assert done.returncode == 0, done.stderr
    assert f'usage: segzero {name}' in done.stdout


@pytest.mark.slow
def test_a_wrong_word_is_refused_with_the_right_ones() -> None:
    done = segzero('aks', 'the red cup')
    assert done.returncode == 2
    assert 'aks' in done.stderr
    assert 'ask' in done.stderr.replace('aks', '')


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A subcommand `probe` whose `run` the test fills in."""
    module = ModuleType('segzero_ros.cli.probe')
    module.add_arguments = lambda parser: parser.add_argument('word')  # type: ignore[attr-defined]
    monkeypatch.setitem(command.COMMANDS, 'probe', 'for this test')
    monkeypatch.setitem(sys.modules, 'segzero_ros.cli.probe', module)
    return module


def test_a_subcommand_s_exit_code_is_the_command_s(probe: ModuleType) -> None:
    probe.run = lambda options: len(options.word)  # type: ignore[attr-defined]
    assert command.main(['probe', 'seven--']) == 7


@pytest.mark.parametrize(
    ('error', 'code', 'text'),
    [
        (SegZeroError('What is missing, and the cure.'), 2, 'What is missing, and the cure.'),
        (KeyboardInterrupt(), 130, 'interrupted'),
    ],
)
def test_an_expected_error_is_one_line_and_a_code(
    probe: ModuleType,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    text: str,
) -> None:
    def run(_: object) -> int:
        raise error

    probe.run = run  # type: ignore[attr-defined]
    assert command.main(['probe', 'x']) == code
    assert capsys.readouterr().err == f'segzero probe: {text}\n'
