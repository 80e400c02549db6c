"""Tokenizer of the mini reasoner, with one token for each coordinate.

Known words, numbers and pieces of the answer format are single tokens; other text is tokenized by
bytes.
"""

from __future__ import annotations

import re
from typing import Any

from segzero_ros.simulation import colours, relations
from segzero_ros.simulation.describing import ANYTHING, NOUNS, SHAPES
from segzero_ros.training.mini.geometry import SIDE

PAD, END = '<|endoftext|>', '<|im_end|>'
START = '<|im_start|>'
VISION_START, VISION_END = '<|vision_start|>', '<|vision_end|>'
IMAGE, VIDEO = '<|image_pad|>', '<|video_pad|>'
SPECIAL = (PAD, START, END, VISION_START, VISION_END, IMAGE, VIDEO)
# Pieces of the answer format, longest first.
PIECES = (
    '</think><answer>[', ']</answer>', '{"bbox_2d": [', '], "point_2d": [', ']}, {"bbox_2d": [',
    ']}', '<think>', ' [',
)  # fmt: skip
_WORDS = (
    'the a an find where is are show me pick up please segment point at i need can you see give '
    'all every both two three four five six of in on to from left right top bottom upper lower '
    'largest biggest smallest tiniest larger bigger big smaller small little leftmost rightmost '
    'topmost lowest far edge picture corner middle centre side nearest closest next behind above '
    'front below between and first second third fourth fifth farthest most distant camera one '
    'something none near user assistant which what so'
)  # fmt: skip
_STRANGERS = 'banana scissors laptop teddy bear key spoon flower shoe'
_USES = (
    'drink coffee would pour hot tea into write with have sign letter do read before going '
    'sleep has pages eat soup does breakfast cereal go serve slice cake goes under steak '
    'dinner toy that bounces child throw catch neck cap holds wine sold food keeps for years '
    'without fridge needs opener'
)  # fmt: skip
_PUNCTUATION = ('?', ',', '.', ':', ';', '!', '-', '\n', ' ', ']')


def make_tokenizer() -> Any:
    """Return the tokenizer, which is lossless."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers, Regex, Tokenizer
    from transformers import PreTrainedTokenizerFast

    vocabulary: dict[str, int] = {}
    for token in (*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *map(_bytes, _texts())):
        vocabulary.setdefault(token, len(vocabulary))
    # Complete pieces are looked up first; unknown ones are split into bytes.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    pieces = '|'.join(re.escape(piece) for piece in PIECES)
    split = Regex(f'{pieces}|(, )?[0-9]+| ?[A-Za-z-]+|.|\\n')
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(split, 'isolated'),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    make: Any = PreTrainedTokenizerFast
    return make(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, padding_side='left')


def number_ids(tokenizer: Any) -> list[list[int]]:
    """Return the token ids of the coordinates 0 to SIDE, as first and as later list items."""
    return [
        [
            tokenizer.convert_tokens_to_ids(_bytes(number(value, first)))
            for value in range(SIDE + 1)
        ]
        for first in (True, False)
    ]


def number(value: int, first: bool) -> str:
    """Return the text of a coordinate's token, as first or as later item of a list."""
    return str(value) if first else f', {value}'


def _texts() -> list[str]:
    words = [*_WORDS.split(), *_STRANGERS.split(), *SHAPES, *relations.ORDINALS[1:]]
    for noun, (plural, _, _) in (NOUNS | ANYTHING).items():
        words += [noun, plural]
    for said in colours.WORDS.values():
        words += [part for word, _ in said for part in word.split()]
    words += _USES.split()
    known = dict.fromkeys(words)
    spoken = [text for word in known for text in (word, f' {word}')]
    numbers = [number(value, first) for first in (True, False) for value in range(SIDE + 1)]
    return [*PIECES, *_PUNCTUATION, *numbers, *spoken]


def _bytes(text: str) -> str:
    """Return text in the byte-level alphabet."""
    from tokenizers import pre_tokenizers

    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return ''.join(piece for piece, _ in level.pre_tokenize_str(text))
