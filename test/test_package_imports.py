"""Packages import only what the architecture allows, without cycles, and the core stays light."""

import ast
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
import subprocess
import sys

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / 'segzero_ros'

# For each package, the packages it may import; a top-level module counts as a package.
OUTER = {
    'pipeline',
    'reasoning',
    'segmentation',
    'spatial',
    'types',
    'loading',
    'config',
    'parameter_table',
}
OUTER |= {'loading_steps', 'segmented_mask', 'sharding'}
OUTER |= {'cancellation', 'conversions', 'extras', 'gpus', 'hub', 'overlay', 'rgbd', 'tracking'}
# What runs models.
MODELS = {'cancellation', 'extras', 'gpus', 'hub', 'loading_steps', 'onednn', 'types'}
ALLOWED = {
    'types': set(),
    'extras': set(),
    'programs': {'extras', 'ros'},
    'spatial': {'quantiles', 'rotations', 'types'},
    'segments': {'segmented_mask', 'spatial', 'types'},
    'segmented_mask': {'types'},
    'candidates': {'overlay', 'segments', 'types'},
    'cancellation': set(),
    'gpus': {'types'},
    'hub': {'types'},
    'loading_steps': set(),
    'quantiles': set(),
    'text_drawing': set(),
    'onednn': set(),
    'background_thread': set(),
    'rotations': set(),
    'overlay': {'overlay_layout', 'segmented_mask', 'text_drawing', 'types'},
    'overlay_layout': {'rotations', 'text_drawing', 'types'},
    'serving': {'types'},
    'reasoning': MODELS | {'quantiles'},
    'segmentation': MODELS | {'segmented_mask'},
    'loading': {
        'extras',
        'gpus',
        'loading_steps',
        'pipeline',
        'reasoning',
        'segmentation',
        'tracking',
        'types',
    },
    'sharding': {'extras', 'loading', 'types'},
    'config': {'loading', 'parameter_table', 'pipeline', 'types'},
    'parameter_table': {'conversions', 'loading', 'types'},
    'pipeline': {
        'candidates',
        'segments',
        'cancellation',
        'reasoning',
        'segmentation',
        'background_thread',
        'spatial',
        'types',
    },
    'tracking': {'onednn', 'segmentation', 'spatial', 'types'},
    'conversions': {'overlay_layout', 'rotations', 'spatial', 'types'},
    'rgbd': {'conversions', 'types'},
    'simulation': {'rotations', 'types'},
    'doctor': {'extras', 'gpus', 'hub', 'loading', 'reasoning', 'segmentation', 'types'},
    'speech': {'extras', 'reasoning', 'types'},
    'ros': OUTER | {'doctor', 'segments', 'simulation', 'replay', 'speech'},
    'replay': OUTER,
    'evaluation': OUTER | {'replay', 'segments', 'simulation'},
    'training': OUTER | {'replay', 'simulation', 'evaluation'},
    'cli': OUTER | {'doctor', 'ros', 'replay', 'evaluation', 'training', 'simulation'},
}
# Each heavy library, and the packages that may import it.
HEAVY = {
    'rclpy': {'ros'},
    'cv_bridge': {'ros'},
    'torch': {'doctor', 'gpus', 'onednn', 'reasoning', 'segmentation', 'tracking', 'training'},
    'torchvision': {'reasoning', 'segmentation', 'training'},
    'transformers': {'reasoning', 'segmentation', 'training'},
    'accelerate': {'reasoning', 'training'},
    'sam2': {'segmentation', 'tracking'},
    'openai': {'reasoning'},
    'openvino': {'segmentation'},
    'rosbags': {'replay'},
    'mcap': {'replay'},
    'zstandard': {'replay'},
    'skimage': {'ros', 'cli', 'training'},
    'pyarrow': {'evaluation', 'training'},
    'pycocotools': {'evaluation'},
    'scipy': {'training'},
    'trl': {'training'},
    'peft': {'training'},
    'datasets': {'training'},
    'matplotlib': {'training'},
    'pocketsphinx': {'speech'},
    'tokenizers': {'reasoning', 'training'},
    'safetensors': {'reasoning', 'segmentation', 'training'},
    'jinja2': {'reasoning'},
    'threadpoolctl': {'reasoning'},
    'sounddevice': {'speech'},
    'soxr': {'speech'},
    'faster_whisper': {'speech'},
    'ray': {'sharding'},
}
MESSAGE_PACKAGES = {
    'sensor_msgs',
    'std_msgs',
    'geometry_msgs',
    'diagnostic_msgs',
    'lifecycle_msgs',
    'visualization_msgs',
    'vision_msgs',
    'moveit_msgs',
    'audio_common_msgs',
    'rcl_interfaces',
    'action_msgs',
    'builtin_interfaces',
}


def package_of(path: Path) -> str:
    """Return the package that a module belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def imports_of(path: Path) -> set[str]:
    """Return the dotted names of all modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path} imports relatively'
            names |= {f'{node.module}.{alias.name}' for alias in node.names}
    return names


MODULES = sorted(path for path in PACKAGE.rglob('*.py') if path != PACKAGE / '__init__.py')


def test_there_are_modules_to_check():
    assert len(MODULES) > 10


@pytest.mark.parametrize('path', MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_only_what_its_package_may(path):
    package = package_of(path)
    assert package in ALLOWED, f'{package} is not in the architecture'
    for name in imports_of(path):
        top, _, rest = name.partition('.')
        if top == 'segzero_ros':
            other = rest.split('.')[0]
            if other in {'msg', 'srv', 'action'}:
                assert package == 'ros', f'{path.name} imports {name}'
            elif other != package:
                assert other in ALLOWED[package], f'{path.name} imports {name}'
        elif top in MESSAGE_PACKAGES:
            assert package == 'ros', f'{path.name} imports {name}'
        elif top in HEAVY:
            assert package in HEAVY[top], f'{path.name} imports {name}'


def imports_between_packages() -> dict[str, dict[str, str]]:
    """Return, for each package, the packages it imports, each with one module that does."""
    graph: dict[str, dict[str, str]] = {}
    for path in MODULES:
        package = package_of(path)
        imported = graph.setdefault(package, {})
        for name in imports_of(path):
            top, _, rest = name.partition('.')
            other = rest.split('.')[0]
            if top == 'segzero_ros' and other in ALLOWED and other != package:
                imported[other] = str(path.relative_to(PACKAGE))
    return graph


def test_packages_import_each_other_without_a_cycle():
    graph = imports_between_packages()
    assert 'types' in graph['pipeline']
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        # Each package of the cycle is imported by the next one.
        cycle = error.args[1]
        steps = [
            f'{graph[importer][imported]} imports {imported}'
            for imported, importer in pairwise(cycle)
        ]
        pytest.fail(f'Import cycle: {", ".join(steps)}')


def test_the_allowed_imports_have_no_cycle():
    TopologicalSorter(ALLOWED).prepare()


def loaded_after(statement: str) -> set[str]:
    """Return the top-level modules loaded in a fresh interpreter after a statement."""
    code = f'{statement}; import sys; print(*{{name.partition(".")[0] for name in sys.modules}})'
    return set(
        subprocess.run(
            [sys.executable, '-c', code], capture_output=True, text=True, check=True
        ).stdout.split()
    )


def test_the_pipeline_loads_no_model_library_and_no_ros():
    loaded = loaded_after('import segzero_ros.pipeline, segzero_ros.loading')
    assert not loaded & (set(HEAVY) | MESSAGE_PACKAGES)


@pytest.mark.parametrize('module', ['cli.main', 'simulation', 'overlay'])
def test_light_entry_points_load_no_model_library_and_no_ros(module):
    loaded = loaded_after(f'import segzero_ros.{module}')
    assert not loaded & (set(HEAVY) | MESSAGE_PACKAGES)


HUGE = set(HEAVY) - {'rclpy', 'cv_bridge'} | {'sympy', 'torchao', 'httpx', 'IPython'}


@pytest.mark.parametrize(
    'module',
    [
        'ros.perception.node',
        'ros.camera_sim.node',
        'ros.client',
        'ros.client.agent_client',
        'ros.voice.node',
        'cli.ask',
        'cli.doctor',
        'cli.replay',
        'cli.evaluate',
    ],
)
def test_programs_start_without_any_model_library(module):
    if 'ros' in module or module == 'cli.ask':
        pytest.importorskip('rclpy')
    assert not loaded_after(f'import segzero_ros.{module}') & HUGE
