"""Colours get the names that people give them, in light and in shadow."""

import cv2
import numpy as np
import pytest

from segzero_ros.reasoning.attributes.colours import classify_pixels, NAMES, summarise

# sRGB of well-known colours, and names that people give them.
PEOPLE_SAY = {
    'red': [(255, 0, 0), (220, 20, 60), (178, 34, 34), (139, 0, 0)],
    'orange': [(255, 140, 0), (255, 120, 20), (230, 110, 30)],
    'yellow': [(255, 255, 0), (240, 220, 40), (255, 215, 0)],
    'green': [(0, 128, 0), (34, 139, 34), (50, 205, 50), (128, 200, 60)],
    'turquoise': [(64, 224, 208), (0, 170, 170), (32, 178, 170)],
    'blue': [(0, 0, 255), (30, 90, 200), (0, 0, 128), (100, 150, 240)],
    'purple': [(128, 0, 128), (110, 50, 170), (148, 80, 200)],
    'pink': [(255, 182, 193), (255, 150, 190), (240, 130, 170)],
    'brown': [(139, 69, 19), (101, 67, 33), (110, 70, 45)],
    'beige': [(222, 200, 165), (240, 220, 180)],
    'white': [(255, 255, 255), (240, 240, 235)],
    'grey': [(128, 128, 128), (100, 102, 105)],
    'black': [(0, 0, 0), (20, 20, 22)],
}


def summary(rgb):
    """Sum up an (N, 3) list of pixels."""
    picture = np.asarray(rgb, np.uint8)[None]
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)
    return summarise(classify_pixels(picture)[0], picture[0], lab[0])


@pytest.mark.parametrize(
    ('name', 'rgb'), [(name, rgb) for name, several in PEOPLE_SAY.items() for rgb in several]
)
def test_a_plain_colour_has_the_name_that_people_give_it(name, rgb):
    assert NAMES[classify_pixels(np.full((1, 1, 3), rgb, np.uint8))[0, 0]] == name
    assert summary([rgb] * 30).fit(name) >= 0.5


@pytest.mark.parametrize('name', ['red', 'green', 'blue', 'purple', 'yellow', 'turquoise'])
def test_a_shaded_ball_keeps_its_colour(name):
    light = np.linspace(0.25, 1.0, 200)[:, None]
    shaded = summary(np.array(PEOPLE_SAY[name][0]) * light)
    assert shaded.name == name
    others = set(NAMES) - {name}
    assert all(shaded.fit(other) < 0.5 for other in others)


def test_a_white_thing_with_a_shadow_side_is_white_and_a_shiny_black_one_black():
    shadow = np.full((60, 3), 130)
    assert summary([*np.full((60, 3), 235), *shadow]).name == 'white'
    assert summary([*np.full((90, 3), 18), *np.full((30, 3), 200)]).name == 'black'


def test_a_label_does_not_hide_what_colour_a_can_is():
    can = summary([*np.full((40, 3), (30, 90, 200)), *np.full((60, 3), 235)])
    assert can.name == 'blue'
    assert can.described == 'blue and white'
    assert can.share('white') == pytest.approx(0.6)


def test_a_bowl_that_is_white_inside_is_still_of_its_own_colour():
    bowl = summary([*np.full((85, 3), 225), *np.full((15, 3), (20, 130, 40))])
    assert bowl.fit('green') >= 0.5
    assert bowl.fit('red') < 0.5


@pytest.mark.parametrize(
    ('term', 'rgb', 'fits'),
    [
        ('dark blue', (20, 25, 80), True),
        ('light blue', (20, 25, 80), False),
        ('light blue', (150, 190, 240), True),
        ('dark blue', (150, 190, 240), False),
        ('dark', (30, 30, 35), True),
        ('light', (30, 30, 35), False),
        ('bright red', (250, 20, 20), True),
    ],
)
def test_light_and_dark_are_told_apart(term, rgb, fits):
    assert (summary([rgb] * 30).fit(term) >= 0.5) == fits
