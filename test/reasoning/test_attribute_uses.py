"""What shapes are for: sentences that no generator wrote find the objects that serve."""

from dataclasses import replace

import pytest

from segzero_ros.reasoning.attribute_reasoner import AttributeReasoner
from segzero_ros.reasoning.attributes.language import parse_query
from segzero_ros.simulation import make_scene
from segzero_ros.simulation.affordances import _USES
from segzero_ros.types import Query

# Sentences that the evaluation does not contain, and the shapes that serve, best first.
HELD_OUT = {
    'something to drink from': ['mug', 'bottle', 'can', 'bowl'],
    'what could I sip my espresso from?': ['mug', 'bowl', 'bottle'],
    'what would hold my morning cocoa?': ['mug', 'bowl', 'bottle'],
    'something I could have my latte in': ['mug', 'bowl', 'bottle'],
    'I am thirsty': ['bottle', 'can', 'mug'],
    'could you bring me a cold drink': ['bottle', 'can', 'mug'],
    'what can I write with': ['stick'],
    'what do I use to jot down a phone number?': ['stick'],
    'something for signing the contract': ['stick'],
    'which one would a student take notes with?': ['stick'],
    'I need to draw a sketch, what can I use?': ['stick'],
    'something to write Japanese calligraphy with': ['stick'],
    'something to write on': ['book', 'sheet'],
    'what could I browse on a rainy evening?': ['book'],
    'something with chapters': ['book'],
    'something to read on the train to Boston': ['book'],
    'which of these is for eating porridge?': ['bowl', 'plate'],
    'what do you eat cornflakes out of': ['bowl', 'plate'],
    'where do I put the yoghurt?': ['bowl', 'plate', 'mug'],
    'where do I put the apple': ['bowl', 'plate'],
    'what should I put the sandwich on?': ['plate', 'bowl'],
    'where does the pizza go?': ['plate', 'bowl'],
    'something to serve pancakes on': ['plate', 'bowl'],
    'what could the kids play catch with?': ['ball'],
    'what can be kicked around': ['ball'],
    'what does lemonade come in?': ['bottle', 'can', 'mug'],
    'something with a cork': ['bottle'],
    'something to pour water from': ['bottle', 'can', 'mug'],
    'what are beans sold in?': ['can'],
    'something that is opened with a tin opener': ['can'],
    'where can I put my keys?': ['bowl', 'box', 'mug', 'can'],
    'somewhere to keep the toys': ['box'],
    'where does the pen go?': ['mug', 'box', 'can'],
    'what do I need to fill in a form': ['stick'],
    'which object would you use to take notes in a meeting': ['stick'],
    'give me something for drinking': ['mug', 'bottle', 'can', 'bowl'],
    'something for a hot drink': ['mug', 'bowl', 'bottle'],
    'a container for my juice': ['mug', 'bottle', 'can', 'bowl'],
    'what can I put the cookies on': ['plate', 'bowl'],
    'an object to put flowers in': ['bottle', 'mug'],
    'what is suitable for holding pens': ['mug', 'box', 'can'],
    'what could I stack to build a tower?': ['box', 'book', 'can'],
}
# Where the words do not say what serves, and the words that are named.
UNUSABLE = {
    'something to cut bread with': ('cut', 'bread'),
    'what can I play the guitar on': ('play', 'guitar'),
    'something to catch fish with': ('catch', 'fish'),
    'something to eat': ('eat',),
    'what tells the time?': ('tells', 'time'),
    'something that keeps me warm': ('keeps', 'warm'),
    'something to read the temperature from': ('read', 'temperature'),
    'where do I put the gizmo': ('gizmo',),
    # A content or a part is no object to point at.
    'find the banana': ('banana',),
    'where is the spoon?': ('spoon',),
    'hold the key': ('key',),
    'give me the coffee': ('coffee',),
    'the handle': ('handle',),
}


def uses_of(sentence):
    """Return the parsed query, its phrase and the shapes that its use allows."""
    request = parse_query(sentence)
    assert not request.unknown
    assert not request.problem
    (phrase,) = request.phrases
    return request, phrase, [list(q.names) for q in phrase.qualities if q.kind == 'use']


def test_the_held_out_sentences_are_not_the_evaluations():
    generated = {text.lower() for texts, *_ in _USES for text in texts}
    assert not generated & {sentence.lower() for sentence in HELD_OUT}


@pytest.mark.parametrize('sentence', HELD_OUT)
def test_a_sentence_about_use_tells_which_shapes_serve(sentence):
    _, phrase, uses = uses_of(sentence)
    assert uses == [HELD_OUT[sentence]]
    assert phrase.count == 0  # everything that serves
    assert not phrase.relations


@pytest.mark.parametrize('sentence', UNUSABLE)
def test_words_that_say_no_use_are_named_and_nothing_is_found(sentence):
    request = parse_query(sentence)
    assert request.unknown == UNUSABLE[sentence]
    assert not request.phrases


def test_words_that_do_not_matter_are_named_and_passed_over():
    assert uses_of('something to read to the astronaut')[0].ignored == ('astronaut',)
    assert uses_of('something to read before going to sleep')[0].ignored == ()


@pytest.mark.parametrize(
    ('sentence', 'qualities', 'relations'),
    [
        ('something red to drink from', ['colour'], []),
        ('the thing on the left to write with', ['place'], []),
        ('what can I write with left of the box', [], ['left_of']),
        ('something to drink from that is blue', ['colour'], []),
        ('something to put red wine in', [], []),
        ('what goes under a steak at dinner?', [], []),
    ],
)
def test_other_conditions_stay(sentence, qualities, relations):
    _, phrase, _ = uses_of(sentence)
    assert [q.kind for q in phrase.qualities if q.kind != 'use'] == qualities
    assert [relation.kind for relation in phrase.relations] == relations


def test_a_noun_of_its_own_says_what_is_meant():
    (phrase,) = parse_query('the red mug that I drink tea from').phrases
    assert (phrase.kind, phrase.count) == ('mug', 1)
    assert [quality.kind for quality in phrase.qualities] == ['colour']


@pytest.mark.parametrize(
    ('sentence', 'told'),
    [
        ('where do I put the plate?', 'where a plate goes'),
        ('something not to write with', 'what does not'),
    ],
)
def test_what_the_table_does_not_say_is_admitted(sentence, told):
    request = parse_query(sentence)
    assert told in request.problem
    assert not request.phrases


# For each class some held-out sentences, and the classes that would serve as well.
ON_SCENES = {
    'mug': (('what could I sip my espresso from?',), {'bowl', 'bottle', 'can'}),
    'pen': (('something for signing the contract', 'what can I write with'), {'cable'}),
    'book': (('something with chapters', 'what could I browse on a rainy evening?'), {'napkin'}),
    'bowl': (('what do you eat cornflakes out of', 'where do I put the apple'), {'plate', 'mug'}),
    'plate': (('where does the pizza go?',), {'bowl'}),
    'ball': (('what could the kids play catch with?',), set()),
    'bottle': (('something with a cork', 'what does lemonade come in?'), {'can', 'mug'}),
    'can': (('what are beans sold in?',), {'box', 'bottle'}),
}


def test_held_out_sentences_find_the_right_objects_on_scenes():
    reasoner = AttributeReasoner()
    asked = right = 0
    for seed in range(700_000, 700_016):
        scene = make_scene(seed, sentences=False)
        there = {item.kind for item in scene.objects if item.area}
        for kind, (sentences, others) in ON_SCENES.items():
            meant = {i for i, item in enumerate(scene.objects) if item.kind == kind and item.area}
            clear = all(scene.objects[i].visible > 0.5 for i in meant)
            if not meant or not clear or there & others:
                continue
            for sentence in sentences:
                grounding = reasoner.reason(scene.frame, Query(sentence))
                found = {
                    scene.labels[int(y), int(x)] - 1
                    for o in grounding.objects
                    for x, y in o.points
                }
                asked += 1
                right += found == meant
    assert asked > 20
    assert right >= 0.85 * asked


def test_the_reasoning_tells_what_the_shape_is_for():
    scene = next(
        scene
        for scene in (make_scene(seed, sentences=False) for seed in range(700_000, 700_050))
        if any(item.kind == 'mug' and item.visible > 0.9 for item in scene.objects)
    )
    grounding = AttributeReasoner().reason(scene.frame, Query('something to drink from'))
    assert 'I look for something to drink from' in grounding.reasoning
    assert "an upright cylinder, open at the top and of a hand's size" in grounding.reasoning
    assert 'something to drink from' in grounding.reasoning
    assert {found.label for found in grounding.objects} == {'thing to drink from'}


def test_without_depth_it_says_that_it_cannot_tell_what_a_thing_is_good_for():
    frame = replace(make_scene(200000).frame, depth=None)
    grounding = AttributeReasoner().reason(frame, Query('something to drink from'))
    assert grounding.objects == ()
    assert 'no depth image with this picture' in grounding.note


def test_the_next_best_serves_where_the_best_is_not_there():
    for seed in range(700_000, 700_060):
        scene = make_scene(seed, sentences=False)
        clear = {item.kind for item in scene.objects if item.visible > 0.9}
        if 'mug' not in {item.kind for item in scene.objects} and 'bottle' in clear:
            break
    grounding = AttributeReasoner().reason(scene.frame, Query('something to drink from'))
    found = {
        scene.objects[scene.labels[int(y), int(x)] - 1].kind
        for o in grounding.objects
        for x, y in o.points
    }
    assert found == {'bottle'}
    assert 'nothing that serves better is there' in grounding.reasoning


def test_nothing_that_serves_is_said():
    scene = next(
        scene
        for scene in (make_scene(seed, sentences=False) for seed in range(700_000, 700_050))
        if not {'pen', 'cable'} & {item.kind for item in scene.objects}
    )
    grounding = AttributeReasoner().reason(scene.frame, Query('something to write with'))
    assert grounding.objects == ()
    assert 'I looked for something to write with' in grounding.note
