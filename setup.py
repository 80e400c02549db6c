"""Hand the package to pip; everything else it says stands in pyproject.toml."""

from pathlib import Path

from setuptools import setup


def files(folder: str, pattern: str) -> tuple[str, list[str]]:
    """Return where a folder's files are installed, and the files."""
    return f'share/segzero_ros/{folder}', [
        str(path) for path in sorted(Path(folder).glob(pattern))
    ]


# What is read without a ROS installation: the profiles, what training is configured with, and the
# definitions of what a bag holds.
setup(
    data_files=[
        files('config', '*.yaml'),
        files('config/training', '*.yaml'),
        files('msg', '*.msg'),
    ]
)
