"""Tell a plain noun phrase, which SAM 3 finds by itself, from what needs a reasoner.

A plain noun phrase has at most MAX_WORDS words after its article, and none of them is a verb, a
relation, a number, a comparison, a pronoun or a conjunction: "the red mug", "coffee cups", "white
USB cable". SAM 3 marks everything that such a phrase names, and it knows neither "the mug left of
the plate" nor "the largest mug", "two mugs", "no mug" or "something to drink from". A phrase that
is taken by mistake costs little where SAM 3 finds nothing, for the reasoner is asked then; what
must not happen is that a condition is overlooked. So the rule refuses when in doubt.
"""

from __future__ import annotations

import re
import unicodedata

# Longer phrases mostly describe a relation, which SAM 3 does not resolve.
MAX_WORDS = 4

_ARTICLE = re.compile(r'^(?:the|an?) ', re.IGNORECASE)
# Words of letters, with hyphens and apostrophes inside.
_WORD = re.compile(r"[^\W\d_]+(?:[-'\u2019][^\W\d_]+)*")
_REFUSED_WORDS = (
    # articles further inside, verbs and polite words
    'a an the am are is was were be been being do does did done has have had having can could '
    'will would shall should may might must need needs want wants let lets please hey hi hello '
    'ok okay '
    'find locate search look looking see show give get take bring fetch pick grasp grab hold '
    'holds lift carry put place push pull press open opens close closes move turn point detect '
    'segment mark highlight count describe explain name list tell say read identify track follow '
    'choose select go goes stop use uses used make makes keep keeps contain contains wear '
    'wears sit sits stand stands lie lies hang hangs lean leans touch touches fit fits belong '
    'belongs eat eats drink drinks cut cuts write writes clean cleans cook cooks sleep seen known '
    'called made placed filled '
    # questions and relative clauses
    'what which who whom whose where when why how that than whether if '
    # relations
    'of in on at to from by for with without within into onto over under above below beneath '
    'beside besides between among behind near nearby next opposite inside outside around against '
    'across along through toward towards off up down out before after beyond amid past '
    'left right top bottom front back middle center centre corner side edge end upper lower '
    # comparisons and order
    'more most less least fewer bigger larger smaller taller shorter longer wider narrower '
    'thicker thinner higher nearer closer farther further older newer younger brighter darker '
    'lighter heavier fuller emptier cleaner better best worse worst '
    'first second third fourth fifth last final only same other another different similar '
    'matching odd '
    # numbers and amounts
    'zero one two three four five six seven eight nine ten eleven twelve dozen pair both either '
    'neither each every all any some none no not never many much few several half '
    # pronouns
    'i me my mine you your yours he him his she her hers it its we us our ours they them their '
    'theirs this these those here there something anything nothing everything someone anyone '
    'nobody somebody anybody everyone ones thing things stuff object objects item items '
    # conjunctions
    'and or but nor except as like while because so then just'
)
_REFUSED = frozenset(_REFUSED_WORDS.split())
# Other words with the end of a superlative are taken for one ("sharpest", "leftmost").
_SUPERLATIVE = re.compile(r'.{2,}(?:est|most)')
_NOUN_WORDS_IN_EST = (
    'armrest backrest breast chest conquest contest crest forest footrest guest '
    'harvest headrest inquest interest nest palmrest pest priest quest request rest tempest test '
    'vest west'
)
_NOUNS_IN_EST = frozenset(_NOUN_WORDS_IN_EST.split())
# A participle after its noun ("person holding …") is a condition; these are nouns.
_NOUN_WORDS_IN_ING = (
    'building ceiling clothing covering crossing earring flooring frosting housing icing king '
    'lighting opening packaging painting piping plumbing pudding railing ring roofing seasoning '
    'siding sibling sling spring stocking string stuffing swing topping wedding wing wiring '
    'wrapping'
)
_NOUNS_IN_ING = frozenset(_NOUN_WORDS_IN_ING.split())


def noun_phrase(text: str) -> str:
    """Return a query's plain noun phrase without its article; empty if it is not one.

    Args:
        text: of the query, in any case, with or without a full stop.
    """
    plain = ' '.join(unicodedata.normalize('NFC', text).split()).removesuffix('.')
    phrase = _ARTICLE.sub('', plain).strip()
    words = phrase.casefold().split(' ')
    if not 1 <= len(words) <= MAX_WORDS or not all(map(_WORD.fullmatch, words)):
        return ''
    parts = [part for word in words for part in (word, *re.split(r"[-'\u2019]", word))]
    if not _REFUSED.isdisjoint(parts):
        return ''
    if any(_SUPERLATIVE.fullmatch(part) and part not in _NOUNS_IN_EST for part in parts):
        return ''
    if any(word.endswith('ing') and word not in _NOUNS_IN_ING for word in words[1:]):
        return ''
    return phrase
