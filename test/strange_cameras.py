"""Intrinsics and depth images as no camera should send them, drawn by Hypothesis.

They come as the fields of the messages, about one generated scene.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

from hypothesis import strategies as st
import numpy as np

from segzero_ros.simulation import make_scene

SCENE = make_scene(3, width=160, height=120, sentences=False)
WIDTH, HEIGHT = SCENE.frame.width, SCENE.frame.height
assert SCENE.frame.depth is not None and SCENE.frame.intrinsics is not None
GOOD_K = SCENE.frame.intrinsics
ENCODINGS = ('16UC1', 'mono16', '32FC1', '64FC1', 'mono8', 'rgb8', '16SC1', '', '32FC1 ')
BYTES = {'16UC1': 2, 'mono16': 2, '32FC1': 4}
UINT32 = st.integers(0, 2**32 - 1)
# Of every magnitude, or none at all.
NUMBERS = st.integers(-323, 308).map(lambda power: 10.0**power) | st.sampled_from(
    (0.0, -0.0, -1.0, -1e300, math.nan, math.inf, -math.inf)
)
# As large as the picture, mostly, half as large, or nonsense.
SIZES = st.sampled_from(((WIDTH, HEIGHT), (WIDTH, HEIGHT), (WIDTH // 2, HEIGHT // 2))) | st.tuples(
    st.integers(0, 2 * WIDTH) | UINT32, st.integers(0, 2 * HEIGHT) | UINT32
)


@st.composite
def infos(draw: st.DrawFn) -> Any:
    """Return a CameraInfo with any number of fields that no camera has."""
    k = [GOOD_K.fx, 0.0, GOOD_K.cx, 0.0, GOOD_K.fy, GOOD_K.cy, 0.0, 0.0, 1.0]
    p = [*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0]
    for matrix, places in ((k, (0, 2, 4, 5)), (p, (0, 2, 5, 6))):
        changed = st.dictionaries(st.sampled_from(places), NUMBERS, max_size=2)
        for place, number in draw(changed).items():
            matrix[place] = number
    width, height = draw(SIZES)
    # Of these seldom anything but zeros, or no size would fit.
    binning, offset, size = draw(
        st.just(((0, 0),) * 3) | st.tuples(*[st.tuples(UINT32, UINT32)] * 3)
    )
    return SimpleNamespace(
        width=width,
        height=height,
        k=k,
        p=p,
        d=draw(st.lists(NUMBERS, max_size=20)),
        binning_x=binning[0],
        binning_y=binning[1],
        roi=SimpleNamespace(x_offset=offset[0], y_offset=offset[1], width=size[0], height=size[1]),
    )


@st.composite
def measurements(draw: st.DrawFn) -> np.ndarray:
    """Return (H, W) float32 depth: the scene's, with numbers in it that no camera measures."""
    assert SCENE.frame.depth is not None
    depth = SCENE.frame.depth.copy()
    with np.errstate(over='ignore'):
        depth *= np.float32(draw(st.sampled_from((1.0, 1.0, 1e-30, 1e-3, 1e3, 1e30))))
        for number in draw(st.lists(NUMBERS, max_size=3)):
            share = draw(st.sampled_from((0.02, 0.5, 1.0)))
            depth[np.random.default_rng(0).random(depth.shape) < share] = number
    return depth


@st.composite
def depth_images(draw: st.DrawFn) -> Any:
    """Return a depth image in any encoding, of any size and step, whole or cut short."""
    encoding = draw(st.sampled_from(ENCODINGS))
    big_endian = draw(st.booleans())
    dtype = np.dtype(np.uint16 if BYTES.get(encoding) == 2 else np.float32)
    depth = draw(measurements())
    with np.errstate(invalid='ignore', over='ignore'):
        pixels = (depth * 1000 if dtype.itemsize == 2 else depth).astype(dtype)
    rows = pixels.astype(dtype.newbyteorder('>' if big_endian else '<')).view(np.uint8)
    padding = draw(st.just(0) | st.integers(0, 9))
    padded = np.pad(rows.reshape(HEIGHT, -1), ((0, 0), (0, padding)))
    lie = draw(st.none() | UINT32 | st.integers(0, 2 * padded.shape[1]))
    data = padded.tobytes()
    width, height = draw(SIZES)
    return SimpleNamespace(
        width=width,
        height=height,
        encoding=encoding,
        is_bigendian=big_endian,
        step=padded.shape[1] if lie is None else lie,
        data=data[: draw(st.just(len(data)) | st.integers(0, len(data)))],
    )
