"""The optional packages: which extra of pyproject.toml brings each, and the command that does.

Whatever finds a package missing says it by `lacking`, so that all name the same command. Imports
the standard library only, and so can be used where hardly anything is installed.
"""

from __future__ import annotations

from pathlib import Path
import re
import shlex
import sys

# By extra, the packages that this one imports of those that it brings, by import name.
EXTRAS = {
    'bags': ('mcap', 'rosbags', 'zstandard'),
    'data': ('huggingface_hub', 'pyarrow', 'pycocotools'),
    'demo': ('skimage',),
    'models': (
        'accelerate',
        'huggingface_hub',
        'hydra',
        'omegaconf',
        'PIL',
        'sam2',
        'safetensors',
        'tokenizers',
        'torch',
        'torchvision',
        'tqdm',
        'transformers',
    ),
    'openai': ('openai', 'PIL'),
    'quantization': ('bitsandbytes', 'torchao'),
    'training': ('datasets', 'matplotlib', 'peft', 'scipy', 'tensorboard', 'trl'),
    'voice': ('pocketsphinx', 'sounddevice', 'soxr'),
    'whisper': ('faster_whisper', 'sounddevice', 'soxr'),
}
# The first Python that pocketsphinx has no wheel for.
NO_POCKETSPHINX = (3, 14)
_OF_ROS = re.compile(
    r'(rclpy|rpyutils|rosidl\w*|ament_\w+|launch\w*|cv_bridge|\w+_msgs|\w+_interfaces|'
    r'segzero_ros\.(msg|srv|action))(\.|$)'
)
# How NumPy, and what was compiled for another, word it.
_NUMPY_ABI = re.compile(r'numpy\.?_?core|multiarray|compiled using NumPy|numpy\.dtype size')


def install_command(*extras: str) -> str:
    """Return the command that installs extras, as it is typed on this machine.

    It is the script of the checkout that this package is run from; a copy that colcon or pip has
    made does not know where that is, and names the script alone.
    """
    script = Path(__file__).resolve().parent.parent / 'scripts' / 'install_models'
    if script.is_file():
        return ' '.join([shlex.quote(str(script)), *extras])
    return ' '.join(["in segzero_ros' checkout, scripts/install_models", *extras])


def lacking(need: str, error: ImportError, *extras: str) -> str:
    """Return what an import that failed for want of extras means; without the full stop.

    Args:
        need: what it is for, with its verb: `Bags need`.
        error: what Python said.
        extras: those that bring the package, and what belongs to it.
    """
    name = _top(error)
    if name == 'pocketsphinx' and sys.version_info >= NO_POCKETSPHINX:
        return (
            f'{need} pocketsphinx, which has no wheel for Python '
            f'{".".join(map(str, sys.version_info[:2]))}: take engine:=faster_whisper '
            f'({install_command("whisper")})'
        )
    if isinstance(error, ModuleNotFoundError):
        return f'{need} {name or error}, which is not installed: {install_command(*extras)}'
    return f'{need} {name or "a package"}, which cannot be imported ({error}): ' + install_command(
        *extras
    )


def explain(error: ImportError) -> str:
    """Return one sentence on an import that ended a program; empty where nothing is known."""
    if not isinstance(error, ModuleNotFoundError) and _NUMPY_ABI.search(str(error)):
        return (
            f'NumPy is not the one that {_top(error) or "a package"} was compiled for ({error}): '
            f'{install_command("models")} brings one that fits; "segzero doctor" says more.'
        )
    name = error.name or ''
    if _OF_ROS.match(name):
        return (
            f'ROS 2 is needed, and {name} cannot be imported ({error}): source it and the '
            'workspace (. /opt/ros/<distro>/setup.bash && . install/setup.bash), and run this '
            'with the Python of that ROS, or an environment that install_models made of it.'
        )
    extra = extra_of(_top(error))
    return f'{lacking("This needs", error, extra)}.' if extra else ''


def extra_of(package: str) -> str:
    """Return the first extra that brings a package, by its import name; empty for none."""
    return next((extra for extra, names in EXTRAS.items() if package in names), '')


def _top(error: ImportError) -> str:
    return (error.name or '').partition('.')[0]
