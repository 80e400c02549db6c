"""Each extra alone: what it is for works, and what another extra brings is one sentence."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
import json
from pathlib import Path
import re
import signal
import subprocess
import sys

import pytest
from recordings import Recording, scene_frame
from ros_domain import free_domain
from scripted_server import MODEL, running
from speaking import speech, write_wav
from tier import extras, installed, NotHere, requirements, ROOT, SITE, Tier

from segzero_ros.cli.main import COMMANDS
from segzero_ros.extras import EXTRAS

# Importing torch takes minutes on a machine that has much else to do.
pytestmark = pytest.mark.timeout(900)
# What is only for building, testing and judging this package.
OF_DEVELOPERS = {'build', 'lint', 'ros', 'test'}
NODES = ('perception_node', 'camera_sim', 'voice_node')
OFFLINE = ('--profile', 'offline')
# Modules that need another extra than their package.
OF_OTHERS = {
    'bags': {f'segzero_ros.evaluation.{name}' for name in ('bag_truth', 'bags_with_truth')},
    'openvino': {f'segzero_ros.segmentation.openvino_{name}' for name in ('import', 'sam2')},
}
# Imports every module there is, and prints those that cannot be, with what is said about it.
IMPORT_ALL = """
import importlib, json, pkgutil, sys, traceback
import segzero_ros
from segzero_ros.extras import explain
found = {}
for module in pkgutil.walk_packages(segzero_ros.__path__, 'segzero_ros.'):
    if '.checkpoints' in module.name or '.msg' in module.name:
        continue
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        found[module.name] = explain(error) or traceback.format_exc()
print(json.dumps(found))
"""
# By extra, what has to be importable with it alone; where ROS is, `ros` too.
IMPORTABLE = {
    '': ('cli', 'config', 'conversions', 'doctor', 'evaluation', 'extras', 'loading', 'overlay',
         'pipeline', 'programs', 'rgbd', 'simulation', 'spatial', 'speech.microphone',
         'speech.recogniser_loop', 'speech.wav_source', 'speech.whisper_recogniser',
         'tracking.catch_up', 'tracking.classical_tracker'),
    'bags': ('replay',),
    'models': ('reasoning.transformers_reasoner', 'segmentation', 'tracking', 'onednn'),
    'openai': ('reasoning.openai_reasoner',),
    'ray': ('sharding',),
    'voice': ('speech',),
}  # fmt: skip


@cache
def tier_in(folder: Path, *chosen: str) -> Tier:
    try:
        return Tier(folder, *chosen)
    except NotHere as error:
        pytest.skip(f'{error} is not installed here')


@pytest.fixture(scope='module')
def tiers(tmp_path_factory):
    """Return what makes an environment with the named extras; each is made once."""
    made = {}

    def make(*chosen: str) -> Tier:
        if chosen not in made:
            made[chosen] = tier_in(tmp_path_factory.mktemp('-'.join(chosen) or 'bare'), *chosen)
        return made[chosen]

    return make


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    recording = Recording()
    recording.picture('/camera/image', scene_frame(3), 0)
    return recording.write(tmp_path_factory.mktemp('bag') / 'bag')


def segzero(tier: Tier, *words: object) -> subprocess.CompletedProcess[str]:
    return tier.run(str(ROOT / 'scripts' / 'segzero'), *map(str, words))


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    """Return what an unsuccessful program wrote, which is one line and no traceback."""
    assert done.returncode in (1, 2), done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert 'Traceback' not in done.stdout
    return lines[0]


def users_extras() -> list[str]:
    return [extra for extra in extras() if extra not in OF_DEVELOPERS]


@pytest.mark.parametrize('extra', ['', *users_extras(), 'ros'])
def test_every_module_is_imported_or_names_its_extra(tiers, extra):
    done = tiers(*filter(None, [extra])).run('-c', IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    failed = json.loads(done.stdout.splitlines()[-1])
    for module, said in failed.items():
        assert 'Traceback' not in said, f'{module}: {said}'
        assert re.search('install_models|ROS 2 is needed', said), f'{module}: {said}'
        # What this very extra is to bring cannot be what is missing.
        assert not extra or f'install_models {extra}.' not in said, f'{module}: {said}'
    for part in {*IMPORTABLE[''], *IMPORTABLE.get(extra, ())}:
        name = f'segzero_ros.{part}'
        path = ROOT / 'segzero_ros' / part.replace('.', '/')
        assert path.is_dir() or path.with_suffix('.py').is_file(), name
        missing = {each for each in failed if each == name or each.startswith(f'{name}.')}
        allowed = {each for other, of in OF_OTHERS.items() if other != extra for each in of}
        assert missing <= allowed, {each: failed[each] for each in missing}


@pytest.mark.parametrize('extra', ['', *users_extras()])
def test_every_command_has_help_and_every_node_its_sentence(tiers, extra):
    tier = tiers(*filter(None, [extra]))
    code = (
        'import contextlib, io, sys\n'
        'from segzero_ros.cli.main import main\n'
        'for words in [[], *([name] for name in sys.argv[1:])]:\n'
        '    with contextlib.redirect_stdout(io.StringIO()) as said:\n'
        '        try: main([*words, "--help"])\n'
        '        except SystemExit as end: assert end.code == 0, words\n'
        '    assert "usage: segzero" in said.getvalue(), words\n'
    )
    done = tier.run('-c', code, *COMMANDS)
    assert done.returncode == 0, done.stderr
    for node in NODES:
        said = one_sentence(tier.run(str(ROOT / 'scripts' / node)))
        assert said.startswith(f'{node}: ROS 2 is needed'), said


def test_without_extras_the_offline_profile_answers(tiers, tmp_path):
    done = segzero(
        tiers(), 'evaluate', 'tabletop', *OFFLINE, '--scenes', 1, '-o', tmp_path / 'run', '-q'
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / 'run').iterdir())


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (('ask', 'the mug'), 'ROS 2 is needed'),
        (('demo', '--output', 'out'), 'ROS 2 is needed'),
        (('mcp',), 'ROS 2 is needed'),
        (('replay', 'BAG', '--query', 'x', *OFFLINE), 'install_models bags'),
        (('evaluate', 'BAG', '--truth', 'BAG', *OFFLINE), 'install_models bags'),
        (('evaluate', 'owner/name', *OFFLINE), 'install_models data'),
        (('annotate', 'owner/name', '-o', 'out', *OFFLINE), 'install_models data'),
        (('evaluate', 'tabletop', '--profile', 'mini'), 'install_models models'),
        (('evaluate', 'tabletop', '--profile', 'robot'), 'install_models models'),
        (('evaluate', 'tabletop', '--profile', 'remote'), 'install_models openai'),
        (('train', '--model', 'mini', '--data', 'scenes', '-p', 'steps:=1', '-o', 'out'),
         'install_models models data training'),
    ],
)  # fmt: skip
def test_without_extras_each_command_names_the_one_it_needs(tiers, bag, tmp_path, words, said):
    words = [str(bag) if word == 'BAG' else word for word in words]
    if '-o' not in words and words[0] == 'evaluate':
        words += ['-o', str(tmp_path / 'run')]
    assert said in one_sentence(segzero(tiers(), *words))


@pytest.mark.parametrize('extra', ['', *users_extras()])
def test_the_doctor_tells_which_extras_are_there(tiers, extra):
    tier = tiers(*filter(None, [extra]))
    done = segzero(tier, 'doctor', '--no-ros', '--json', *OFFLINE)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {each['what']: each['said'] for each in json.loads(done.stdout)}
    for name in EXTRAS:
        there = found[f'extra {name}'] == 'installed'
        assert there or f'install_models {name}' in found[f'extra {name}']
    assert not extra or found[f'extra {extra}'] == 'installed', found[f'extra {extra}']


def test_with_bags_a_bag_is_replayed(tiers, bag, tmp_path):
    out = tmp_path / 'out'
    done = segzero(
        tiers('bags'), 'replay', bag, '--query', 'the mug', *OFFLINE, '-o', out, '-q'
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert any(out.iterdir())


def test_with_models_the_small_reasoner_answers(tiers, tmp_path):
    done = segzero(tiers('models'), 'evaluate', 'tabletop', '--profile', 'mini', '--scenes', 1,
                   '--limit', 1, '-o', tmp_path / 'run', '-q')  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_with_openai_a_server_is_asked(tiers, tmp_path):
    with running() as server:
        url = f'http://127.0.0.1:{server.server_port}/v1'
        done = segzero(
            tiers('openai'), 'evaluate', 'tabletop', '--profile', 'remote', '--scenes', 1,
            '--limit', 1, '-p', 'segmenter.backend:=grabcut', '-p', f'server.base_url:={url}',
            '-p', f'reasoner.model:={MODEL}', '-o', tmp_path / 'run', '-q',
        )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ('extra', 'words', 'said'),
    [
        ('quantization', ('--profile', 'mini', '-p', 'reasoner.quantization:=int8'), 'models'),
        ('models', ('--profile', 'mini', '-p', 'reasoner.quantization:=int8'), 'quantization'),
        ('models', ('--profile', 'mini', '-p', 'reasoner.quantization:=bnb8'), 'quantization'),
    ],
)
def test_an_extra_without_its_neighbour_names_it(tiers, tmp_path, extra, words, said):
    done = segzero(
        tiers(extra), 'evaluate', 'tabletop', '--scenes', 1, '-q', *words, '-o', tmp_path / 'run'
    )
    assert f'install_models {said}' in one_sentence(done)


def test_a_server_without_a_segmenter_names_its_extra(tiers, tmp_path):
    with running() as server:
        url = f'server.base_url:=http://127.0.0.1:{server.server_port}/v1'
        done = segzero(
            tiers('openai'), 'evaluate', 'tabletop', '--profile', 'remote', '-p', url,
            '-p', f'reasoner.model:={MODEL}', '--scenes', 1, '-o', tmp_path / 'run', '-q',
        )  # fmt: skip
    assert 'install_models models' in one_sentence(done)


@contextmanager
def program(
    tier: Tier, name: str, *words: str, folder: Path
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run a node until Ctrl-C, if it does not end before; give it and the file with its words."""
    log = folder / f'{name}.log'
    with log.open('w') as stream:
        process = subprocess.Popen(
            [str(tier.python), str(ROOT / 'scripts' / name), '--ros-args', *words],
            env=tier.environment(), stdout=stream, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            yield process, log
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


@pytest.fixture
def ros(tiers, monkeypatch):
    """The environment with ROS alone, in a domain of its own."""
    pytest.importorskip('rclpy', reason='needs ROS 2')
    if 'ros-rclpy' not in installed():
        pytest.skip('ROS 2 is no wheel here')
    domain, lock = free_domain()
    monkeypatch.setenv('ROS_DOMAIN_ID', str(domain))
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    yield tiers('ros')
    lock.close()


def test_with_ros_alone_a_camera_is_asked_about(ros, tmp_path):
    camera = ('-r', '__ns:=/tier', '-p', 'source:=scene', '-p', 'item:=scene_3')
    node = ('-r', '__ns:=/tier', '--params-file', str(ROOT / 'config' / 'offline.yaml'))
    with (
        program(ros, 'camera_sim', *camera, folder=tmp_path),
        program(ros, 'perception_node', *node, folder=tmp_path) as (_, log),
    ):
        done = segzero(ros, 'ask', 'both mugs', '--namespace', 'tier', '--wait', 300, '--json')
    assert done.returncode == 0, done.stdout + done.stderr + log.read_text()
    assert json.loads(done.stdout)['status'] == 'OK'


@pytest.mark.parametrize(
    ('node', 'words', 'said'),
    [
        ('voice_node', (), 'install_models voice'),
        ('voice_node', ('engine:=faster_whisper',), 'install_models whisper'),
        ('camera_sim', ('source:=bag', 'path:=nothing'), 'install_models bags'),
        ('camera_sim', ('source:=photograph',), 'install_models demo'),
    ],
)
def test_with_ros_alone_a_node_names_the_extra(ros, tmp_path, node, words, said):
    given = [part for word in words for part in ('-p', word)]
    with program(ros, node, *given, folder=tmp_path) as (process, log):
        assert process.wait(120)
    text = log.read_text()
    assert said in text
    assert 'Traceback' not in text


def test_with_voice_a_recording_is_heard(tiers, tmp_path):
    samples, rate = speech('both yellow plates')
    path = write_wav(tmp_path / 'said.wav', samples, rate)
    code = (
        'import sys; from pathlib import Path\n'
        'from segzero_ros.speech.recogniser_loop import (\n'
        '    RecogniserLoop, SpeechCallbacks, WakePhrase\n'
        ')\n'
        'from segzero_ros.speech.pocketsphinx_recogniser import PocketsphinxRecogniser\n'
        'from segzero_ros.speech.wav_source import WavSource\n'
        'callbacks = SpeechCallbacks(print, lambda text: None, lambda *why: None)\n'
        'source = WavSource(Path(sys.argv[1]), real_time=False)\n'
        'RecogniserLoop(PocketsphinxRecogniser(), WakePhrase()).run(source, callbacks)\n'
    )
    done = tiers('voice').run('-c', code, str(path))
    # Whether pocketsphinx hears the last s depends on espeak-ng's sound.
    (heard,) = done.stdout.splitlines()
    assert 'yellow plate' in heard, done.stderr


def test_with_whisper_alone_speech_is_found_and_a_missing_model_is_one_sentence(tiers, tmp_path):
    samples, rate = speech('the red ball', seed=0)
    path = write_wav(tmp_path / 'said.wav', samples, rate)
    code = (
        'import sys; from pathlib import Path\n'
        'from segzero_ros.speech.voice_activity import UtteranceSegmenter\n'
        'from segzero_ros.speech.base import SpeechError, Utterance\n'
        'from segzero_ros.speech.wav_source import WavSource\n'
        'from segzero_ros.speech.whisper_recogniser import SileroDetector, WhisperRecogniser\n'
        'ends = UtteranceSegmenter(SileroDetector())\n'
        'blocks = WavSource(Path(sys.argv[1]), real_time=False).blocks()\n'
        'pieces = [piece for block in blocks for piece in ends.feed(block)]\n'
        'print(sum(isinstance(piece, Utterance) for piece in [*pieces, *ends.end()]))\n'
        'try: WhisperRecogniser("tiny.en")\n'
        'except SpeechError as error: print(error)\n'
    )
    done = tiers('whisper').run('-c', code, str(path))
    lines = done.stdout.splitlines()
    assert lines[0] == '1', done.stderr
    assert 'The Whisper model tiny.en cannot be loaded' in lines[1]


def imported(path: Path) -> set[str]:
    """Return the packages that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition('.')[0])
    return names - set(sys.stdlib_module_names) - {'segzero_ros', 'benchmarks', '__future__'}


@cache
def providers() -> dict[str, set[str]]:
    """Return which distributions bring each package, by the name that is imported."""
    found: dict[str, set[str]] = {}
    for name, distribution in installed().items():
        for file in (distribution.read_text('RECORD') or '').splitlines():
            top = file.partition('/')[0].partition(',')[0].removesuffix('.py')
            found.setdefault(top, set()).add(name)
    return found


def test_all_that_is_imported_is_declared():
    declared = set().union(*(requirements(extra) for extra in ['', *extras()]))
    # Only measured beside this package, where it is installed.
    declared |= {'onnxruntime'}
    files = [*ROOT.glob('segzero_ros/**/*.py'), *ROOT.glob('benchmarks/**/*.py')]
    for path in files:
        for name in imported(path):
            brings = providers().get(name, set())
            of_ros = any(each.startswith('ros-') for each in brings) or not brings
            assert of_ros or brings & declared, f'{path} imports {name}, of {brings}'


def test_the_table_of_extras_is_that_of_the_package():
    assert set(EXTRAS) == set(users_extras())
    for extra, names in EXTRAS.items():
        for name in names:
            if (SITE / name).exists():
                assert providers()[name] & requirements(extra), f'{extra} does not bring {name}'


def test_every_ros_package_that_is_imported_stands_in_the_manifest():
    manifest = (ROOT / 'package.xml').read_text()
    for path in (*ROOT.glob('segzero_ros/ros/*.py'), *ROOT.glob('launch/*.py')):
        for name in imported(path):
            brings = providers().get(name, set())
            if any(each.startswith('ros-') for each in brings):
                assert f'>{name}<' in manifest, f'{path} imports {name}'


def test_nothing_advises_an_index_where_nobody_published_this_package():
    files = subprocess.check_output(['git', 'ls-files', '-z'], cwd=ROOT, text=True).split('\0')
    advice = re.compile(r'pip\s+install\s+[\'"]?segzero.ros')
    for name in filter(None, files):
        path = ROOT / name
        if path.suffix in ('.py', '.md', '.rst', '.yaml', '.toml', '') and path.is_file():
            text = path.read_text(errors='replace')
            assert not advice.search(text), f'{name} advises an index'


def test_the_rehearsal_of_an_installation_needs_only_what_builds_and_tests(tiers):
    """`make test-install` on a fresh machine, which has nothing else."""
    rehearsal = str(ROOT / 'test' / 'install' / 'rehearsal.py')
    done = tiers('bags', 'build', 'ros', 'test').run(
        '-m',
        'pytest',
        '--collect-only',
        '-q',
        '-p',
        'no:cacheprovider',
        '--rootdir',
        str(ROOT),
        '-c',
        str(ROOT / 'pyproject.toml'),
        rehearsal,
    )
    assert done.returncode == 0, done.stdout + done.stderr
