"""Train the mini reasoner: `python -m segzero_ros.training.mini out/mini`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
import logging
from pathlib import Path
import sys

from segzero_ros.training.mini.recipe import make, Recipe
from segzero_ros.types import SegZeroError

# Earlier names of options, which docs/measurements still use.
_OLD_NAMES = {
    'packed': ('pages',),
    'vision_steps': ('eyes',),
    'language_steps': ('words',),
    'vision_rate': ('eyes_rate',),
    'language_rate': ('words_rate',),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Train the mini reasoner, or resume its training."""
    parser = argparse.ArgumentParser(prog='python -m segzero_ros.training.mini')
    parser.description = 'Train the mini reasoner from scratch; run it again to resume.'
    parser.add_argument('folder', type=Path, help='output folder')
    for field in fields(Recipe):
        if field.name != 'folder':
            names = [f'--{name}' for name in (field.name, *_OLD_NAMES.get(field.name, ()))]
            parser.add_argument(
                *names, dest=field.name, type=type(field.default), default=field.default
            )
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    recipe = Recipe(**vars(parser.parse_args(argv)))
    try:
        logging.info('the checkpoint is in %s', make(recipe))
    except SegZeroError as error:
        sys.exit(str(error))


if __name__ == '__main__':
    main()
