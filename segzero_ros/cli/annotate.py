"""`segzero annotate`: turn accepted answers about a bag, or a data set, into training rows."""

from __future__ import annotations

import argparse
from pathlib import Path
import sys

from segzero_ros.cli.model_arguments import add_model_arguments, BadArgument, read_parameters
from segzero_ros.config import segmenter_options

EPILOG = """\
sources:
  BAG --truth results.jsonl    a bag, and the answers of a replay that a person has accepted
  FILE.json                    COCO layout with one text per annotation (also RefCOCO)
  FOLDER                       ReasonSeg, LISA or labelme: images with .json files beside them
  owner/name                   a published evaluation set on the Hugging Face Hub

examples:
  segzero replay kitchen.mcap --accept kitchen.jsonl
  segzero annotate kitchen.mcap --truth kitchen.jsonl -o kitchen
  segzero annotate kitchen.mcap --truth kitchen.jsonl --corrections masks -o kitchen
  segzero annotate instances.json --pictures val2017 --unchecked -o coco

Each object's box and point are given to the profile's segmenter. A row is skipped if the resulting
mask does not match the object (IoU below 0.6), as in the published sets.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    parser.add_argument('source', help='the data to annotate; see below')
    parser.add_argument('-o', '--output', type=Path, required=True, help='folder for the rows')
    parser.add_argument('--truth', type=Path, help='accepted answers about a bag')
    parser.add_argument('--image', default='', help='image topic of a bag; default: detected')
    parser.add_argument(
        '--pictures', type=Path, help='folder that the file names in a JSON file are relative to'
    )
    parser.add_argument(
        '--corrections', type=Path, metavar='FOLDER', help='corrected masks, NUMBER.png from 0.png'
    )
    parser.add_argument(
        '--form',
        choices=('vision_reasoner', 'seg_zero'),
        default='vision_reasoner',
        help='answer format of the solutions; default: %(default)s',
    )
    parser.add_argument(
        '--unchecked', action='store_true', help='do not check the rows with a segmenter'
    )
    parser.add_argument('--limit', type=int, metavar='N', help='only the first N samples')
    add_model_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Annotate."""
    from segzero_ros.evaluation.datasets import open_dataset
    from segzero_ros.loading import load_segmenter
    from segzero_ros.reasoning.dialects import dialect_named
    from segzero_ros.training.annotation import make_rows, write_rows

    if options.limit is not None and options.limit < 1:
        raise BadArgument('--limit must be 1 or more.')
    if options.corrections is not None and not options.corrections.is_dir():
        raise BadArgument(f'--corrections: there is no folder {options.corrections}.')
    if (Path(options.source) / 'replay.json').is_file():
        raise BadArgument(
            f'{options.source} is the output of a replay, which has no images: give its bag, and '
            f'--truth {options.source}/results.jsonl.'
        )
    samples = open_dataset(
        options.source, pictures=options.pictures, truth=options.truth, image=options.image
    )
    total = min(len(samples), options.limit or len(samples))
    segmenter = None
    if not options.unchecked:
        parameters = read_parameters(options)
        segmenter = load_segmenter(segmenter_options(parameters.__getitem__))

    def report(index: int) -> None:
        if (index + 1) % 20 == 0 or index + 1 == total:
            print(f'{index + 1} of {total} samples read', file=sys.stderr)

    try:
        rows = make_rows(
            samples.read(range(total)),
            dialect_named(options.form),
            segmenter,
            options.corrections,
            report,
        )
        count, skipped = write_rows(rows, options.output)
    finally:
        if segmenter is not None:
            segmenter.close()
    for reason, number in skipped.items():
        print(f'{number} skipped: {reason}', file=sys.stderr)
    print(f'{options.output}: {count} rows. Next: segzero train --data {options.output}')
    return 0
