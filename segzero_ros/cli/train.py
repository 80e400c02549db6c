"""`segzero train`: train a reasoner by GRPO or SFT; writes a folder for `reasoner_model:=`."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings

from segzero_ros.cli.model_arguments import read_overrides
from segzero_ros.extras import lacking
from segzero_ros.types import SegZeroError

EPILOG = """\
data (also --validation):
  owner/name              a training set on the Hugging Face Hub in the published schema
  FOLDER, FILE.parquet    the same schema on this machine; "segzero annotate" writes it
  scenes, scenes:SEED     generated table-tops, as many as the steps need
  shapes, shapes:SEED     flat shapes on photographs: another domain, to measure generalisation

examples:
  segzero train --config robot --model Ricky06662/VisionReasoner-7B --data kitchen -o out/kitchen
  segzero train --config mini --model mini --steps 200 -o out/better
  segzero train --config vision_reasoner --sft --model Qwen/Qwen2.5-VL-7B-Instruct -o out/sft
  accelerate launch -m segzero_ros.cli.train ...      several GPUs

The trained model is OUTPUT/checkpoint: ros2 launch ... reasoner_model:=OUTPUT/checkpoint
exit codes: 0 finished, 2 an error, 130 Ctrl-C (run the same command again to resume from the last
checkpoint)
"""
# Each is a setting of the same name.
_NAMED = {
    'model': (str, 'folder or Hub name of the base model'),
    'data': (str, 'training data; see below'),
    'validation': (str, 'validation data; see below'),
    'steps': (int, 'optimizer steps; default: one epoch'),
    'seed': (int, 'for data order and sampling'),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        '--config',
        default='vision_reasoner',
        help='seg_zero, vision_reasoner, robot, mini, or a YAML file; default: %(default)s',
    )
    for name, (kind, purpose) in _NAMED.items():
        parser.add_argument(f'--{name}', type=kind, help=purpose)
    parser.add_argument('-o', '--output', help='output folder')
    parser.add_argument('--sft', action='store_true', help="supervised, on the rows' answers")
    parser.add_argument(
        '-p',
        '--param',
        action='append',
        default=[],
        metavar='NAME:=VALUE',
        help='any other setting, such as lora_rank:=64; repeatable',
    )
    parser.add_argument('--restart', action='store_true', help='do not resume an interrupted run')
    parser.add_argument('-q', '--quiet', action='store_true', help='no progress')


def run(options: argparse.Namespace) -> int:
    """Train."""
    from segzero_ros.training.settings import load_settings

    overrides = {
        name: getattr(options, name)
        for name in (*_NAMED, 'output')
        if getattr(options, name) is not None
    }
    if options.sft:
        overrides['method'] = 'sft'
    settings = load_settings(options.config, read_overrides(options.param) | overrides)
    # The libraries warn about their own deprecated names once a step, and about peft's imports.
    warnings.filterwarnings('ignore', category=FutureWarning)
    for library in ('transformers', 'torch.utils._pytree'):
        logging.getLogger(library).setLevel(logging.ERROR)
    logging.getLogger('bitsandbytes.backends').setLevel(logging.CRITICAL)

    try:
        from segzero_ros.training.trainer import train
    except ImportError as error:
        needed = lacking('Training needs', error, 'models', 'data', 'training')
        raise SegZeroError(f'{needed}.') from error

    def report(text: str) -> None:
        if not options.quiet:
            print(text, file=sys.stderr, flush=True)

    folder = train(settings, report, restart=options.restart)
    print(f'{folder}: reasoner_model:={folder} dialect:={settings.dialect}')
    return 0


if __name__ == '__main__':
    # accelerate and torchrun start a module on each GPU.
    from segzero_ros.cli.main import main

    sys.exit(main(['train', *sys.argv[1:]]))
