"""The reasoning text: what was seen, which regions match and which do not.

Every sentence states what was measured: counts, colours, shapes, positions. Without depth, shapes
are only outlines, and regions are called patches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from segzero_ros.reasoning.attributes.affordances import SHAPES
from segzero_ros.reasoning.attributes.matching import Match, Step
from segzero_ros.reasoning.attributes.phrases import Phrase, Pick, Quality, Relation, Request
from segzero_ros.reasoning.attributes.regions import Region, View
from segzero_ros.reasoning.attributes.words import number_word, plural_of

CAN_READ = (
    'I can read colours, shapes, sizes, positions, relations such as "left of the blue box", '
    'ordinals and counts, and what everyday shapes are for, such as "something to drink from".'
)
_THINGS = {
    'stick': 'stick-shaped thing', 'sheet': 'flat sheet', 'can': 'cylinder', 'book': 'flat box',
    'ball': 'ball', 'box': 'box', 'mug': 'mug', 'cone': 'cone', 'bottle': 'bottle', 'bowl': 'bowl',
    'plate': 'plate',
}  # fmt: skip
# Objects, and colours or words, that a sentence lists before it counts the rest.
_MAX_LISTED = 8
_MAX_WORDS = 5

_RELATIONS = {
    'left_of': 'left of', 'right_of': 'right of', 'above': 'above', 'below': 'below',
    'behind': 'further up in the picture than', 'in_front': 'further down in the picture than',
    'near': 'nearest to', 'far': 'farthest from', 'between': 'between', 'on': 'on', 'in': 'in',
    'larger': 'larger in the picture than', 'smaller': 'smaller in the picture than',
    'same_colour': 'of the same colour as',
}  # fmt: skip
_MEASURES = {
    ('x', -1): 'furthest to the left', ('x', 1): 'furthest to the right',
    ('y', -1): 'highest in the picture', ('y', 1): 'lowest in the picture',
    ('size', 1): 'largest in the picture', ('size', -1): 'smallest in the picture',
    ('length', 1): 'longest', ('length', -1): 'shortest', ('height', 1): 'tallest',
    ('height', -1): 'lowest', ('thickness', 1): 'thickest', ('thickness', -1): 'thinnest',
    ('roundness', 1): 'roundest', ('flatness', 1): 'flattest', ('brightness', 1): 'brightest',
    ('brightness', -1): 'darkest', ('depth', -1): 'nearest to the camera',
    ('depth', 1): 'farthest from the camera', ('centrality', 1): 'nearest to the middle',
    ('centrality', -1): 'farthest from the middle', ('middle', 1): 'in the middle of their row',
}  # fmt: skip
_ORDINALS = ('', 'first', 'second', 'third', 'fourth', 'fifth', 'sixth', 'seventh', 'eighth')


def unreadable(request: Request) -> str:
    """Return why a query cannot be answered."""
    if request.problem:
        return f'{request.problem} {CAN_READ}'
    return f'I do not know {_words(request.unknown)}. {CAN_READ}'


def _words(unknown: Sequence[str]) -> str:
    named = [f'"{_shortened(word)}"' for word in unknown[:_MAX_WORDS]]
    more = len(unknown) - len(named)
    listed = ', '.join(named) + (f' and {more} more' if more else '')
    return f'the {"word" if len(unknown) == 1 else "words"} {listed}'


def ignored(request: Request) -> str:
    """Return which words were not used; empty if all were."""
    if not request.ignored:
        return ''
    return f'I do not know {_words(request.ignored)} and go by the rest.'


def overview(view: View) -> str:
    """Return the sentence about all regions."""
    count = len(view.regions)
    if view.on_surface:
        seen = f'By depth, {_count(count, "thing")} {_stands(count)} on the surface'
    else:
        why = _why_flat(view)
        out = f'{_stands(count)} out from what lines the picture'
        seen = f'{why}, so I go by colour: {_count(count, "patch")} {out}'
    if not count:
        return f'{seen}.'
    if count > _MAX_LISTED:
        return f'{seen}; by colour, {_colours(view)}.'
    listed = [_article(name_of(region, view)) for region in view.regions]
    return f'{seen}; from the left: {_list(listed)}.'


def findings(match: Match, view: View) -> Iterator[str]:
    """Yield a sentence for each condition of a phrase, and the conclusion."""
    for step in match.steps:
        if not step.count_before:
            break
        yield _finding(step, view)
    yield conclusion(match, view)


def conclusion(match: Match, view: View) -> str:
    """Return the conclusion of a phrase."""
    if match.problem:
        return match.problem
    if not match.chosen:
        return f'So I find no {match.phrase.text.removeprefix("the ")}.'
    named = [f'the {name_of(region, view)} {_where(region)}' for region in match.chosen]
    if len(named) > _MAX_LISTED:
        return f'So I mean {_count(len(named), "thing")}.'
    others = match.fitting - len(match.chosen)
    rest = ''
    if others > 0 and match.phrase.count == 1 and not match.phrase.picks:
        fit = 'fits' if others == 1 else 'fit'
        rest = f'; {number_word(others)} more {fit} too, but less well or smaller'
    return f'So I mean {_list(named)}{rest}.'


def _why_flat(view: View) -> str:
    return 'The depth shows no surface' if view.has_depth else 'There is no depth'


def shape_warning(matches: Sequence[Match], view: View) -> str:
    """Return that a number may be wrong because shapes were told by outlines; else empty."""
    if view.on_surface or not any(match.phrase.kind for match in matches):
        return ''
    return (
        f'{_why_flat(view)}, so I tell shapes by their outlines, and many look alike: the number '
        'may be wrong.'
    )


def counted(matches: Sequence[Match], view: View) -> str:
    """Return the answer to "how many"."""
    del view
    found = [_count(len(match.chosen), match.phrase.label) for match in matches]
    return f'I count {_list(found)}.'


def not_found(match: Match, view: View) -> str:
    """Return the note for a phrase without a match: the target and the reason."""
    looked = f'I looked for {target_of(match.phrase)}'
    if match.problem:
        return f'{looked}. {match.problem}'
    if not view.regions:
        return f'{looked}, but nothing stands out in this picture.'
    empty = next((step for step in match.steps if not step.remaining), None)
    reason = f' {_finding(empty, view)}' if empty else ''
    return f'{looked}, but found none.{reason}'


def count_note(match: Match) -> str:
    """Return the note for a match with another count than the query's; else empty."""
    asked, got = match.phrase.count, len(match.chosen)
    if asked > 1 and got < asked:
        return f'You asked for {number_word(asked)}, but I find only {number_word(got)}.'
    if asked > 1 and match.fitting > asked and not match.phrase.picks:
        return f'You asked for {number_word(asked)}, but {number_word(match.fitting)} fit.'
    return ''


def name_of(region: Region, view: View) -> str:
    """Return a region's name: "dark red ball", "white patch"."""
    if not view.on_surface:
        return f'{region.colour.described} patch'
    return f'{region.colour.described} {_THINGS.get(region.shape.kind, "thing")}'


def _finding(step: Step, view: View) -> str:
    condition = step.condition
    if isinstance(condition, Relation):
        return _relation(step, condition, view)
    if isinstance(condition, Pick):
        return _pick(step, condition, view)
    if isinstance(condition, Quality):
        return _quality(step, condition, view)
    if step.kind == 'except':
        return f'Without the {condition.text}, {_remaining(step)}.'
    one, many = f'{_article(condition.noun)} by shape', f'{plural_of(condition.noun)} by shape'
    return f'{_share(step, one, many)}.'


def _quality(step: Step, quality: Quality, view: View) -> str:
    word = f'not {quality.word}' if quality.negated else quality.word
    if quality.kind == 'use':
        return _use(step, quality, view)
    if step.kind == 'part':
        named = [f'one {_where(region.region)}' for region in step.remaining[:_MAX_LISTED]]
        count = len(step.remaining)
        return f'But {_count(count, "part")} of them {_is(count)} {word}: {_list(named)}.'
    if step.kind == 'best' and step.remaining and step.count_before > 1:
        name = name_of(step.remaining[0].region, view)
        return (
            f'Of {_count(step.count_before, "thing")}, the {name} is {_place(word)} most clearly.'
        )
    if step.kind == 'best':
        return f'{_share(step, _place(word), _place(word))}.'
    if quality.kind == 'colour' and not step.remaining and not quality.negated:
        return f'{_share(step, word, word)}; by colour, I see {_colours(view)}.'
    return f'{_share(step, word, word)}{_listed(step, view, quality)}.'


def _use(step: Step, quality: Quality, view: View) -> str:
    """Return which shape serves, or which would have."""
    kinds = [kind for tier in quality.names for kind in tier.split()]
    if not step.remaining:
        wanted = ' or '.join(_article(_THINGS[kind]) for kind in kinds)
        serves = f'by shape {wanted}'
        return f'Something {quality.word}: {_share(step, serves, serves)}.'
    shapes = ' or '.join(SHAPES[kind] for kind in kinds)
    one = ' or '.join(_article(_THINGS[kind]) for kind in kinds)
    many = ' or '.join(plural_of(_THINGS[kind]) for kind in kinds)
    better = ', as nothing that serves better is there' if step.kind == 'second use' else ''
    found = _share(step, f'by shape {one}', f'by shape {many}')
    what = f'{shapes}: something {quality.word}{better}'
    return f'{found}{_listed(step, view)}. By shape that is {what}.'


def _place(word: str) -> str:
    """Return a position with a preposition: "left" of "the left ball" is "at the left"."""
    if word.split()[0] in ('in', 'on', 'at', 'to', 'towards', 'toward', 'near', 'by', 'along'):
        return word
    return f'at the {word.removeprefix("the ")}'


def _relation(step: Step, relation: Relation, view: View) -> str:
    anchors = [f'the {name_of(region, view)} {_where(region)}' for region in step.anchors]
    how = ('not ' if relation.negated else '') + _RELATIONS[relation.kind]
    where = f'{how} {_list(anchors)}'
    return f'{_share(step, where, where)}{_listed(step, view)}.'


def _pick(step: Step, pick: Pick, view: View) -> str:
    what = _MEASURES[pick.measure, pick.sign]
    if pick.rank > 1:
        what = f'the {_ordinal(pick.rank)} in order, counted from the one {what}'
        if not step.remaining:
            only = f'{_count(step.count_before, "thing")} {_fits(step.count_before)}'
            return f'There is no {_ordinal(pick.rank)}: only {only}.'
    if not step.remaining:
        return f'Nothing is left to choose the one {what} from.'
    named = [f'the {name_of(candidate.region, view)}' for candidate in step.remaining]
    return f'Of {_count(step.count_before, "thing")}, {_list(named)} {_is(len(named))} {what}.'


def _share(step: Step, one: str, many: str) -> str:
    remaining = len(step.remaining)
    if not step.count_before:
        return f'Nothing is left that could be {one}'
    if not remaining:
        nobody = 'it is not' if step.count_before == 1 else 'none of them is'
        return f'Of {_count(step.count_before, "thing")}, {nobody} {one}'
    if remaining == step.count_before == 1:
        return f'The one that is left is {one}'
    what = one if remaining == 1 else many
    some = number_word(remaining).capitalize()
    return f'{some} of {number_word(step.count_before)} {_is(remaining)} {what}'


def _listed(step: Step, view: View, quality: Quality | None = None) -> str:
    if not 0 < len(step.remaining) <= 4 or len(step.remaining) == step.count_before:
        return ''
    named = [
        f'the {name_of(c.region, view)} {_where(c.region)}{_reservation(c.region, quality)}'
        for c in step.remaining
    ]
    return f': {_list(named)}'


def _reservation(region: Region, quality: Quality | None) -> str:
    """Return a qualification where a colour fits that is not the region's main colour."""
    if quality is None or quality.kind != 'colour' or quality.negated:
        return ''
    names = {name.rpartition(' ')[2] for name in quality.names}
    if region.colour.name in names or names & {'light', 'dark', 'bright'}:
        return ''
    partly = max(region.colour.share(name) for name in quality.names) >= 0.15
    return f', which is {"partly" if partly else "nearly"} {quality.word}'


def _colours(view: View) -> str:
    """Count the regions by colour, most frequent first."""
    colours = Counter(region.colour.name for region in view.regions)
    seen = [f'{number_word(count)} {name}' for name, count in colours.most_common(_MAX_WORDS)]
    more = len(view.regions) - sum(count for _, count in colours.most_common(_MAX_WORDS))
    return _list([*seen, f'{number_word(more)} others'] if more else seen)


def _remaining(step: Step) -> str:
    return f'{_count(len(step.remaining), "thing")} {_is(len(step.remaining))} left'


def _where(region: Region) -> str:
    x, y = region.centre
    across = 'left' if x < 0.37 else 'right' if x > 0.63 else ''
    along = 'upper' if y < 0.37 else 'lower' if y > 0.63 else ''
    if across and along:
        return f'at the {along} {across}'
    if across:
        return f'on the {across}'
    return {'upper': 'at the top', 'lower': 'at the bottom'}.get(along, 'in the middle')


def _count(count: int, noun: str) -> str:
    if count == 1:
        return f'one {noun}'
    return f'{number_word(count) if count else "no"} {plural_of(noun)}'


def _list(items: Iterable[str]) -> str:
    listed = list(items)
    if len(listed) < 2:
        return ''.join(listed)
    return f'{", ".join(listed[:-1])} and {listed[-1]}'


def _article(noun: str) -> str:
    return f'{"an" if noun[:1] in "aeiou" else "a"} {noun}'


def _ordinal(rank: int) -> str:
    return _ORDINALS[rank] if rank < len(_ORDINALS) else f'{rank}th'


def _shortened(word: str) -> str:
    return word if len(word) <= 30 else f'{word[:29]}…'


def _is(count: int) -> str:
    return 'is' if count == 1 else 'are'


def _fits(count: int) -> str:
    return 'fits' if count == 1 else 'fit'


def _stands(count: int) -> str:
    return 'stands' if count == 1 else 'stand'


def target_of(phrase: Phrase) -> str:
    """Return the target of a phrase, with an article."""
    text = phrase.text.removeprefix('the ')
    if phrase.plural or not phrase.count:
        return text
    return _article(text) if not phrase.picks else f'the {text}'
