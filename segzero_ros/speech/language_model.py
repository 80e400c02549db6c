"""Trigram language model in ARPA format, with Witten-Bell smoothing (1991)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
import math

_BEGIN, _END = '<s>', '</s>'
_ORDER = 3
# Log probability of an impossible token.
_NEVER = -99.0

Gram = tuple[str, ...]


def arpa(sentences: Iterable[str]) -> str:
    """Return the ARPA text of a model of sentences, whose words are separated by spaces."""
    counts: list[Counter[Gram]] = [Counter() for _ in range(_ORDER)]
    for sentence in sentences:
        tokens = (_BEGIN, *sentence.split(), _END)
        for size in range(1, _ORDER + 1):
            counts[size - 1].update(tokens[at : at + size] for at in range(len(tokens) - size + 1))
    del counts[0][(_BEGIN,)]
    levels = [dict(counts[0]), *map(dict, counts[1:])]
    model = _Model(levels)
    lines = ['\\data\\']
    lines += [f'ngram {size}={len(model.grams(size))}' for size in range(1, _ORDER + 1)]
    for size in range(1, _ORDER + 1):
        lines += ['', f'\\{size}-grams:']
        for gram in sorted(model.grams(size)):
            weight = f'\t{model.backoff(gram):.4f}' if size < _ORDER else ''
            lines.append(f'{model.log_probability(gram):.4f}\t{" ".join(gram)}{weight}')
    return '\n'.join([*lines, '', '\\end\\', ''])


class _Model:
    def __init__(self, levels: list[dict[Gram, int]]) -> None:
        self._levels = levels
        self._total: Counter[Gram] = Counter()
        self._kinds: Counter[Gram] = Counter()
        for level in levels:
            for gram, count in level.items():
                self._total[gram[:-1]] += count
                self._kinds[gram[:-1]] += 1

    def grams(self, size: int) -> list[Gram]:
        found = list(self._levels[size - 1])
        return [(_BEGIN,), *found] if size == 1 else found

    def probability(self, gram: Gram) -> float:
        context = gram[:-1]
        if not context:
            return self._levels[0].get(gram, 0) / self._total[()]
        seen = self._levels[len(gram) - 1].get(gram, 0)
        total, kinds = self._total[context], self._kinds[context]
        if not total:
            return self.probability(gram[1:])
        return (seen + kinds * self.probability(gram[1:])) / (total + kinds)

    def log_probability(self, gram: Gram) -> float:
        return _NEVER if gram == (_BEGIN,) else math.log10(self.probability(gram))

    def backoff(self, context: Gram) -> float:
        """Return the logarithm of the back-off weight of a context."""
        total, kinds = self._total[context], self._kinds[context]
        return math.log10(kinds / (total + kinds)) if total else 0.0
