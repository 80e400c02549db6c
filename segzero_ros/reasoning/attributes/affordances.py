"""What household shapes are for: a table of everyday activities, contents and parts.

General knowledge, written by hand: no lexical resource on the package index is small, kept up and
knows what things are for. Shapes are the kinds of `shapes`, best first; a string of several kinds
stands for kinds that serve equally well.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

Kinds = tuple[str, ...]


class Activity(NamedTuple):
    """What somebody does with an object.

    Attributes:
        purpose: in words: "to drink from".
        kinds: the shapes that serve; empty where only the contents decide.
        contents: `served` or `stored` where the contents decide, else empty.
        words: its verbs and nouns.
    """

    purpose: str
    kinds: Kinds
    contents: str
    words: str


class Content(NamedTuple):
    """What is put into or onto an object.

    Attributes:
        served: the shapes that hold it on a table.
        stored: the shapes that it is kept or sold in.
        words: its nouns.
    """

    served: Kinds
    stored: Kinds
    words: str


ACTIVITIES: dict[str, Activity] = {
    'drink': Activity('to drink from', ('mug', 'bottle', 'can', 'bowl'), 'served', """
        drink drinks drinking drank drunk sip sips sipping sipped gulp slurp swig swallow quench
        quenches quenching"""),
    'thirst': Activity('for the thirsty', ('bottle', 'can', 'mug'), '', """
        thirsty thirst parched dehydrated hydrate refreshment"""),
    'eat': Activity('to eat from', ('bowl', 'plate'), 'served', """
        eat eats eating ate eaten dine dining munch nibble nibbling slurping"""),
    'serve': Activity('to serve it on', ('plate', 'bowl'), 'served', """
        serve serves serving served offer offering plated"""),
    'pour': Activity('to pour it into', ('mug', 'bowl', 'bottle'), 'served', """
        pour pours pouring poured ladle fill filled filling refill"""),
    'pour_out': Activity('to pour from', ('bottle', 'can', 'mug'), '', ''),
    'put': Activity('to put it into or onto', (), 'served', """
        place places goes belong belongs lay laid set rest rests drop"""),
    'hold': Activity('to hold it', (), 'served', """
        holds holding contain contains containing carry carries carrying transport"""),
    'store': Activity('to keep it in', (), 'stored', """
        store stores stored storing keep keeps keeping kept save saving stow pack packed packing
        sell sells sold selling buy buys bought come comes shipped delivered collect collecting
        tidy"""),
    'preserve': Activity('to preserve food', ('can',), '', """
        preserve preserved preserves preserving canned tinned conserve conserved unspoiled"""),
    'write': Activity('to write with', ('stick',), '', """
        write writes writing written wrote sign signs signing signed draw draws drawing drew
        sketch sketches sketching scribble scribbling jot jotting doodle doodling underline
        underlining autograph autographs scrawl inscribe annotate handwriting handwrite
        calligraphy take_notes make_notes take_a_note note_down write_down jot_down fill_in
        fill_out"""),
    'write_on': Activity('to write on', ('book', 'sheet'), '', ''),
    'read': Activity('to read', ('book',), '', """
        read reads reading study studies studying browse browsing leaf leafing bookworm reader
        literature"""),
    'boredom': Activity('against boredom', ('book', 'ball'), '', 'bored boredom'),
    'throw': Activity('to throw and catch', ('ball',), '', """
        throw throws throwing thrown toss tosses tossed tossing catch caught catches catching
        juggle juggles juggling bounce bounces bouncing bounced kick kicks kicked kicking dribble
        dribbling volley bouncy football soccer basketball tennis volleyball"""),
    'play': Activity('to play with', ('ball', 'box', 'cone'), '', """
        play plays playing played plaything"""),
    'roll': Activity('that rolls', ('ball', 'can stick', 'bottle'), '', """
        roll rolls rolling rolled"""),
    'build': Activity('to build with', ('box', 'book', 'can'), '', """
        build builds building built stack stacks stacking stacked stackable pile piling"""),
    'stir': Activity('to stir with', ('stick',), '', """
        stir stirs stirring poke poking prod prodding"""),
    'wipe': Activity('to wipe with', ('sheet',), '', 'wipe wipes wiping blot'),
}  # fmt: skip
# Activities with objects that do not decide which shape serves: to write anything with a pen.
ANY_OBJECT = frozenset(('write', 'write_on', 'drink', 'eat', 'serve', 'stir', 'thirst'))
# Activities that mean another thing with food or drink: to catch fish.
NO_CONTENTS = frozenset(('throw', 'play', 'roll', 'build'))

CONTENTS: dict[str, Content] = {
    'hot drink': Content(('mug', 'bowl', 'bottle'), ('can', 'box'), """
        hot_drink hot_drinks coffee coffees hot_chocolate tea teas espresso cappuccino latte
        cocoa mocha chai macchiato brew"""),
    'drink': Content(('mug', 'bottle', 'can', 'bowl'), ('bottle', 'can', 'mug'), """
        water juice milk lemonade cola coke soda squash smoothie beverage beverages liquid
        liquids milkshake drink drinks"""),
    'alcohol': Content(('mug', 'bottle', 'can'), ('bottle', 'can'), """
        wine beer champagne cider whisky whiskey rum vodka gin liquor lager ale prosecco"""),
    'sauce': Content(('bowl', 'plate'), ('bottle', 'can'), """
        oil vinegar ketchup sauce dressing syrup mayonnaise gravy shampoo perfume medicine"""),
    'spoon food': Content(('bowl', 'plate', 'mug'), ('box', 'can'), """
        cereal cereals cornflakes muesli granola porridge oatmeal oats yoghurt yogurt pudding
        custard salad rice noodles ramen pasta spaghetti dessert"""),
    'soup': Content(('bowl', 'mug', 'plate'), ('can', 'box'), """
        soup soups stew broth chili chilli curry goulash chowder ice_cream"""),
    'meal': Content(('plate', 'bowl'), ('box', 'can'), """
        cake cakes steak steaks pizza sandwich sandwiches toast pancake pancakes meat fish
        chicken sausage sausages burger burgers fries egg eggs bacon pie tart omelette roast
        potato potatoes vegetables bread cheese cookie cookies biscuit biscuits waffle waffles
        croissant muffin pastry pastries ham turkey lasagna lasagne meal meals schnitzel"""),
    'snack': Content(('bowl', 'plate'), ('box', 'can'), """
        chocolate chips crisps nuts popcorn sweets candy candies peanuts olives pretzels snack
        snacks almonds raisins"""),
    'fruit': Content(('bowl', 'plate'), ('bowl', 'box'), """
        apple apples banana bananas oranges pear pears grape grapes cherry cherries berry berries
        strawberry strawberries peach peaches plum plums lemon lemons mango mangoes melon tomato
        tomatoes fruit fruits kiwi apricot apricots"""),
    'preserves': Content(('bowl', 'plate'), ('can',), """
        beans sardines tuna peas sweetcorn"""),
    'food': Content(('plate', 'bowl'), ('can', 'box'), 'food foods groceries goods'),
    'flowers': Content(('bottle', 'mug'), ('bottle',), """
        flower flowers bouquet rose roses tulip tulips daisy daisies"""),
    'small things': Content(('bowl', 'box', 'mug', 'can'), ('box', 'bowl', 'can', 'mug'), """
        key keys coin coins ring rings jewellery jewelry button buttons screw screws paperclip
        paperclips pins earrings necklace"""),
    'cutlery': Content(('mug', 'bowl', 'plate'), ('box', 'mug'), """
        spoon spoons fork forks knife knives cutlery teaspoon teaspoons"""),
    'goods': Content(('box', 'bowl'), ('box',), """
        toys gift gifts tools clothes shoes shoe belongings souvenirs"""),
}  # fmt: skip
# What goes into or under an object of a shape.
GOES_INTO: dict[str, Kinds] = {
    'ball': ('box', 'bowl'), 'stick': ('mug', 'box', 'can'), 'mug': ('plate',),
    'bowl': ('plate',), 'can': ('box',), 'bottle': ('box',), 'cone': ('box',), 'book': ('box',),
}  # fmt: skip
# Parts, and the shapes that have them.
PARTS: dict[Kinds, str] = {
    ('book',): 'page pages chapter chapters spine author authors paragraphs binding cover covers',
    ('mug',): 'handle handles',
    ('bottle',): 'neck cork corks stopper corkscrew screw_cap bottle_opener',
    ('bottle', 'stick'): 'cap caps',
    ('can',): 'can_opener tin_opener ring_pull pull_tab',
    ('can', 'box', 'bottle'): 'lid lids label labels',
    ('stick',): 'ink nib eraser graphite lead',
}
# Names of groups of objects.
GROUPS: dict[Kinds, str] = {
    ('stick',): 'stationery writing_instrument writing_implement writing_tool writing_utensil',
    ('bowl mug bottle can box',): 'container containers vessel vessels',
    ('mug', 'bottle'): 'drinking_vessel drinking_glass',
    ('mug bowl plate',): 'crockery tableware dinnerware dishes',
    ('book',): 'reading_material',
}
# Words beside an activity that do not change which shape serves.
_ASIDES = """
other others child children kid kids baby toddler friend friends guest guests somebody someone
man woman boy girl people person family grandma grandpa grandmother grandfather mother father mum
mom dad student students teacher artist visitor visitors everybody everyone customer pupil
breakfast lunch dinner supper brunch morning evening afternoon night noon bedtime bed sleep
sleeping asleep nap tonight today tomorrow yesterday year years month months week weeks day days
hour hours minute minutes time times party birthday trip journey picnic game match meeting school
class office enjoy enjoys somewhere dog dogs puppy cat cats number numbers open opens opened
opening rainy sunny holiday weekend fridge refrigerator cooler freezer kitchen garden home house
shelf pantry cupboard hot cold warm fresh cool nice good best better useful suitable proper
perfect ideal delicious tasty sweet favourite favorite slice slices bit lot whole made make use
uses used using useful usually normally often commonly typically generally meant intended
designed supposed going wants want need needs needed wanted allows allow lets helps able fun soft
during while when after before until till once because into letter letters note notes contract
contracts paper papers form forms cheque check card cards postcard postcards list lists homework
essay essays address signature document documents message messages poem poems story stories tale
tales word words line lines sentence phone exam test shopping down away onto
"""
# A shape in words.
SHAPES = {
    'mug': "an upright cylinder, open at the top and of a hand's size",
    'can': "an upright, closed cylinder of a hand's size",
    'bottle': 'a tall body with a narrow neck',
    'bowl': 'a wide and hollow shape',
    'plate': 'a flat, round shape',
    'book': "a flat box of a book's size",
    'stick': "a thin stick of a hand's length",
    'ball': 'a ball',
    'box': 'a box',
    'cone': 'a cone',
    'sheet': 'a thin sheet',
}


@cache
def use_words() -> dict[str, tuple[str, str]]:
    """Return the role and the name of every word about uses, lower-case; idioms have spaces.

    Roles are `activity`, `content`, `part`, `group` and `aside`.
    """
    rows = [('aside', '', _ASIDES)]
    rows += [('content', name, content.words) for name, content in CONTENTS.items()]
    rows += [('part', ','.join(kinds), spelt) for kinds, spelt in PARTS.items()]
    rows += [('group', ','.join(kinds), spelt) for kinds, spelt in GROUPS.items()]
    rows += [('activity', name, activity.words) for name, activity in ACTIVITIES.items()]
    return {
        word.replace('_', ' '): (role, name)
        for role, name, spelt in rows
        for word in spelt.split()
    }
