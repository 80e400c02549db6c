"""Optional packages: the extra of pyproject.toml that installs each, and the install command.

All error messages about missing packages are made by `lacking`, so that they name the same
command. It needs only the standard library.
"""

from __future__ import annotations

from pathlib import Path
import re
import shlex
import sys

# For each extra, its packages that are imported here, by import name.
EXTRAS = {
    'bags': ('mcap', 'rosbags', 'zstandard'),
    'data': ('huggingface_hub', 'pyarrow', 'pycocotools'),
    'demo': ('skimage',),
    'mcp': ('anyio', 'mcp'),
    'models': (
        'accelerate',
        'huggingface_hub',
        'hydra',
        'jinja2',
        'omegaconf',
        'PIL',
        'sam2',
        'safetensors',
        'threadpoolctl',
        'tokenizers',
        'torch',
        'torchvision',
        'tqdm',
        'transformers',
    ),
    'openai': ('openai', 'PIL'),
    'openvino': ('openvino',),
    'quantization': ('bitsandbytes', 'torchao'),
    'ray': ('ray',),
    'training': ('datasets', 'matplotlib', 'peft', 'scipy', 'tensorboard', 'trl'),
    'voice': ('pocketsphinx', 'sounddevice', 'soxr'),
    'whisper': ('faster_whisper', 'sounddevice', 'soxr'),
}
# The first Python version without a pocketsphinx wheel.
NO_POCKETSPHINX = (3, 14)
_ROS_MODULE = re.compile(
    r'(rclpy|rpyutils|rosidl\w*|ament_\w+|launch\w*|cv_bridge|tf2_\w+|\w+_(msgs|srvs|interfaces)|'
    r'segzero_ros\.(msg|srv|action))(\.|$)'
)
# Error messages of NumPy, and of libraries compiled for another NumPy.
_NUMPY_ABI = re.compile(r'numpy\.?_?core|multiarray|compiled using NumPy|numpy\.dtype size')


def install_command(*extras: str) -> str:
    """Return the command that installs extras.

    It is the script of the checkout that this package runs from. A copy installed by colcon or pip
    does not know the checkout's path, and names only the script.
    """
    script = Path(__file__).resolve().parent.parent / 'scripts' / 'install_models'
    if script.is_file():
        return ' '.join([shlex.quote(str(script)), *extras])
    return ' '.join(["in segzero_ros' checkout, scripts/install_models", *extras])


def lacking(need: str, error: ImportError, *extras: str) -> str:
    """Return the error message for a failed import of an optional package; without full stop.

    Args:
        need: the feature with its verb: `Bags need`.
        error: the import error.
        extras: the extras that install the package.
    """
    name = _package(error)
    if name == 'pocketsphinx' and sys.version_info >= NO_POCKETSPHINX:
        return (
            f'{need} pocketsphinx, which has no wheel for Python '
            f'{".".join(map(str, sys.version_info[:2]))}: use engine:=faster_whisper '
            f'({install_command("whisper")})'
        )
    if isinstance(error, ModuleNotFoundError):
        return f'{need} {name or error}, which is not installed: {install_command(*extras)}'
    return f'{need} {name or "a package"}, which cannot be imported ({error}): ' + install_command(
        *extras
    )


def explain(error: ImportError) -> str:
    """Return one sentence about a failed import with a hint; empty for an unknown package."""
    if not isinstance(error, ModuleNotFoundError) and _NUMPY_ABI.search(str(error)):
        return (
            f'{_package(error) or "A package"} was compiled for another NumPy ({error}): '
            f'{install_command("models")} installs a compatible one; see "segzero doctor".'
        )
    name = error.name or ''
    if _ROS_MODULE.match(name):
        return (
            f'ROS 2 is needed, and {name} cannot be imported ({error}): source it and the '
            'workspace (. /opt/ros/<distro>/setup.bash && . install/setup.bash), and use the '
            'Python of that ROS, or an environment that install_models created with it.'
        )
    extra = extra_of(_package(error))
    return f'{lacking("This needs", error, extra)}.' if extra else ''


def extra_of(package: str) -> str:
    """Return the first extra that installs a package, by its import name; empty if none does."""
    return next((extra for extra, names in EXTRAS.items() if package in names), '')


def _package(error: ImportError) -> str:
    return (error.name or '').partition('.')[0]
