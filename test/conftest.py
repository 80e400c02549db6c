"""What tests of several rooms share: small models of the real architectures, each made once."""

from collections.abc import Callable, Iterator
from functools import cache
import importlib.util
import os
from pathlib import Path
import re
import signal
import sys
import tempfile
from types import ModuleType

from made_once import made_once
import own_network
import pytest
from ray_cluster import Cluster
from scripted_server import transformers_serve
from task_pairs import task_pairs

# Where scripts run in the background Ctrl-C is ignored, and every child inherits that; a handler
# of one's own is not inherited, so the children of the tests hear it again.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Compile each module once, not in every process: an environment made by uv has no bytecode, and
# some machines are told to write none.
BYTECODE = Path(__file__).resolve().parent.parent / 'build' / 'pycache'
sys.dont_write_bytecode, sys.pycache_prefix = False, str(BYTECODE)
os.environ |= {'PYTHONDONTWRITEBYTECODE': '', 'PYTHONPYCACHEPREFIX': str(BYTECODE)}

# What tests leave in caches goes into the build folder, not into the home folder.
HOME_CACHE = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
for tool in ('uv', 'pip'):
    os.environ.setdefault(f'{tool.upper()}_CACHE_DIR', str(HOME_CACHE / tool))
os.environ['XDG_CACHE_HOME'] = str(BYTECODE.with_name('test_cache'))

# Where several workers run tests at a time, each computes in one thread, and so do their children.
if 'PYTEST_XDIST_WORKER' in os.environ:
    os.environ.setdefault('OMP_NUM_THREADS', '1')

TEST = Path(__file__).resolve().parent
SCRIPTS = TEST.parent / 'scripts'
_ROS_FOLDERS = {'install', 'ros', 'servers', 'tiers'}
_ROS = re.compile(r'\brclpy\b|segzero_ros\.(ros|msg|srv|action)\b|\b(sensor|std)_msgs\.msg\b')
_MODELS = re.compile(
    r'\btorch\b|\btiny_|\btransformers_server\b|\bload_reasoner\b|\bSam[23]'
    r'|(from|import) transformers\b'
)
# A minute and more each: begun first, they do not keep one worker busy when the other is done.
_LONG = {
    'cli/test_demo.py',
    'evaluation/test_end_to_end.py',
    'reasoning/test_fast_path.py',
    'reasoning/test_transformers_reasoner.py',
    'ros/test_doctor.py',
    'ros/test_node_checkpoints.py',
    'ros/test_remote_profile.py',
    'ros/test_voice_topic.py',
    'segmentation/test_sam2_segmenter.py',
    'test_published_procedure.py',
    'tiers/test_tiers.py',
    'training/test_mini.py',
    'training/test_train.py',
}


@cache
def kind_of(path: Path) -> str:
    """Return the marker of a file of tests, by what its tests need."""
    text = path.read_text(encoding='utf-8')
    if path.relative_to(TEST).parts[0] in _ROS_FOLDERS or _ROS.search(text):
        return 'ros'
    return 'models' if _MODELS.search(text) else 'unit'


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m unit` or `-m alone`, do not import what is not wanted: it takes a minute."""
    if config.option.markexpr == 'alone' and collection_path.name.startswith('test_'):
        return 'mark.alone' not in collection_path.read_text(encoding='utf-8') or None
    if 'unit' not in config.option.markexpr.split():
        return None
    if collection_path.is_dir():
        return collection_path.name in _ROS_FOLDERS or None
    return (
        collection_path.name.startswith('test_') and kind_of(collection_path) != 'unit'
    ) or None


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark each test by what it needs."""
    item.add_marker(kind_of(item.path))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let workers begin with the long files; without workers the order stays."""
    if 'PYTEST_XDIST_WORKER' in os.environ:
        items.sort(key=lambda item: item.path.relative_to(TEST).as_posix() not in _LONG)


def script(name: str) -> ModuleType:
    """Import a script as a module."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='session')
def cluster() -> Iterator[Cluster]:
    """A Ray cluster of two nodes with a CPU each, one says a GPU; in a network of its own."""
    own_network.start_loopback()
    path = os.pathsep.join([str(TEST / 'sharding'), str(TEST.parent), *sys.path])
    # The paths of Ray's sockets have room for a short folder only.
    with tempfile.TemporaryDirectory(prefix='ray') as folder:
        made = Cluster(folder, path)
        with made.head(), made.another(gpus=1):
            yield made


@pytest.fixture(scope='session')
def make_tiny_checkpoints() -> ModuleType:
    """The module that makes small checkpoints and knows what they answer."""
    return script('make_tiny_checkpoints')


@pytest.fixture(scope='session')
def tiny_qwen2_5_vl(make_tiny_checkpoints) -> Path:
    """Folder of a small Qwen2.5-VL that knows the answers of `example_pairs`."""
    return made_once('qwen2_5_vl', make_tiny_checkpoints.make_tiny_qwen)


@pytest.fixture(scope='session')
def tiny_qwen2_vl(make_tiny_checkpoints) -> Path:
    """Folder of a small Qwen2-VL that knows the answers of `example_pairs`."""
    make = make_tiny_checkpoints.make_tiny_qwen
    return made_once('qwen2_vl', lambda folder: make(folder, 'qwen2_vl'))


@pytest.fixture(scope='session')
def tiny_qwen3_vl(make_tiny_checkpoints) -> Path:
    """Folder of a small Qwen3-VL with deepstack that knows the answers of `qwen3_pairs`."""
    make = make_tiny_checkpoints.make_tiny_qwen
    return made_once('qwen3_vl', lambda folder: make(folder, 'qwen3_vl'))


@pytest.fixture(scope='session')
def tiny_qwen3_5(make_tiny_checkpoints) -> Path:
    """Folder of a small Qwen3.5, one layer of it recurrent, that knows `qwen3_pairs`."""
    make = make_tiny_checkpoints.make_tiny_qwen
    return made_once('qwen3_5', lambda folder: make(folder, 'qwen3_5'))


@pytest.fixture(scope='session')
def tiny_of_tasks(make_tiny_checkpoints) -> Callable[[str], Path]:
    """Give the folder of a small checkpoint that knows `task_pairs` of an architecture."""
    module = make_tiny_checkpoints

    def make(architecture: str) -> Path:
        pairs = task_pairs(module, architecture)
        return made_once(
            f'{architecture}_tasks',
            lambda folder: module.make_tiny_qwen(folder, architecture, pairs),
        )

    return make


@pytest.fixture(scope='session')
def tiny_sam2() -> Path:
    """Path of a SAM 2 with random weights; its configuration lies beside it, suffix .yaml."""
    module = script('make_tiny_sam2')
    return made_once('sam2', module.make_tiny_sam2) / f'{module.STEM}.pt'


@pytest.fixture(scope='session')
def tiny_sam3() -> Path:
    """Folder of a SAM 3 with random weights, in the published layout."""
    return made_once('sam3', script('make_tiny_sam3').make_tiny_sam3)


@pytest.fixture(scope='session')
def transformers_server(tiny_qwen2_5_vl, tmp_path_factory) -> Iterator[str]:
    """Address of a real server, with the small Qwen2.5-VL, in a process of its own."""
    with transformers_serve(tiny_qwen2_5_vl, tmp_path_factory.mktemp('server')) as url:
        yield url
