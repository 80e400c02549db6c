"""Hand the package to pip; everything it says stands in pyproject.toml."""

from setuptools import setup

setup()
