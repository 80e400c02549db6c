"""Run llama.cpp's converter on a checkpoint with a tokenizer of its own.

    python convert.py CONVERTER_FOLDER ARGUMENTS …

Published tokenizers it knows by a hash; of one that was trained for a test it has to be told that
it splits texts as Qwen2's.
"""

import runpy
import sys

folder = sys.argv.pop(1)
sys.path[:0] = [folder, f'{folder}/gguf-py']

from conversion import base

base.TextModel.get_vocab_base_pre = lambda *_: 'qwen2'
runpy.run_path(f'{folder}/convert_hf_to_gguf.py', run_name='__main__')
