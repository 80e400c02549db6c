"""What the simulated camera looks at: photographs, pictures in a folder, generated scenes.

Each source gives Frames without a stamp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from segzero_ros.conversions.image_file import decode_file
from segzero_ros.extras import lacking
from segzero_ros.simulation import make_motion, make_scene
from segzero_ros.types import DepthImage, Frame, Intrinsics, RgbImage, SegZeroError

# A message to publish, and on which topic.
Shown = tuple[str, Any]
PHOTOGRAPHS = ('coffee', 'astronaut', 'chelsea', 'rocket', 'stereo_motorcycle')
_PICTURES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')


class CameraError(SegZeroError):
    """There is nothing to look at; the text names the cause and the cure."""


class Source(Protocol):
    """Something to look at, by items."""

    def items(self) -> Sequence[str]:
        """Return the names of what there is to see, the first one first."""
        ...

    def frame(self, item: str) -> Frame:
        """Return the picture of an item; raise CameraError if there is none."""
        ...


class Photographs:
    """Real photographs that scikit-image carries; `stereo_motorcycle` with measured depth."""

    def items(self) -> Sequence[str]:
        """Return their names."""
        return PHOTOGRAPHS

    def frame(self, item: str) -> Frame:
        """Return a photograph by its name."""
        if item not in PHOTOGRAPHS:
            raise CameraError(
                f'There is no photograph {item!r}; there are {", ".join(PHOTOGRAPHS)}.'
            )
        try:
            from skimage import data
        except ImportError as error:
            raise CameraError(f'{lacking("The photographs need", error, "demo")}.') from error
        if item == 'stereo_motorcycle':
            left, _, disparity = data.stereo_motorcycle()
            return motorcycle(left, disparity)
        return Frame(np.ascontiguousarray(getattr(data, item)()))


def motorcycle(left: RgbImage, disparity: DepthImage) -> Frame:
    """Turn the Middlebury 2014 pair's left picture and its measured disparity into a RGB-D frame.

    Z = f · B / (d + doffs), with the calibration in scikit-image's docstring (for these pictures):
    f 994.978 px, principal point (311.193, 254.877) px, B 193.001 mm, doffs 31.086 px. What has no
    measured disparity (infinite) has no depth.
    """
    known = np.isfinite(disparity) & (disparity > 0)
    depth = np.full(disparity.shape, np.nan, np.float32)
    depth[known] = 994.978 * 0.193001 / (disparity[known] + 31.086)
    height, width = left.shape[:2]
    intrinsics = Intrinsics(994.978, 994.978, 311.193, 254.877, width, height)
    return Frame(np.ascontiguousarray(left), depth=depth, intrinsics=intrinsics)


class Folder:
    """The pictures in a folder, by file name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.is_dir():
            raise CameraError(f'{path} is no folder; set `path` to one that holds pictures.')
        self._items = sorted(p.name for p in path.iterdir() if p.suffix.lower() in _PICTURES)
        if not self._items:
            raise CameraError(f'{path} holds no pictures ({", ".join(_PICTURES)}).')

    def items(self) -> Sequence[str]:
        """Return the names of the files."""
        return self._items

    def frame(self, item: str) -> Frame:
        """Return the picture in a file."""
        if item not in self._items:
            raise CameraError(f'{self._path} holds no picture {item!r}.')
        return Frame(read_picture(self._path / item))


def read_picture(path: Path) -> RgbImage:
    """Read a picture file as (H, W, 3) uint8 RGB; raise CameraError if it is none."""
    try:
        picture = decode_file(path.read_bytes())
    except OSError as error:
        raise CameraError(f'{path} cannot be read: {error.strerror}.') from error
    if picture is None:
        raise CameraError(f'{path} is no picture that OpenCV can decode.')
    return picture


class Scenes:
    """Generated table-tops with depth; the item `scene_7` is the scene of seed 7."""

    def items(self) -> Sequence[str]:
        """Return some of them; every whole number is a seed."""
        return tuple(f'scene_{seed}' for seed in range(10))

    def frame(self, item: str) -> Frame:
        """Return the scene of a seed."""
        return _scene(self._seed(item))

    def film(self, item: str, frames: int, rate: float) -> Iterator[Frame]:
        """Give the pictures of the seed's film: things slide, the camera sways."""
        return (scene.frame for scene in make_motion(self._seed(item), frames, rate=rate))

    @staticmethod
    def _seed(item: str) -> int:
        seed = item.removeprefix('scene_')
        if not seed.isdecimal():
            raise CameraError(f'A generated scene is named by its seed, as scene_7, not {item!r}.')
        return int(seed)


@lru_cache(maxsize=8)
def _scene(seed: int) -> Frame:
    return make_scene(seed, sentences=False).frame


def open_source(name: str, path: str) -> Source:
    """Return a source by its name; raise CameraError if it cannot be had."""
    sources: dict[str, Callable[[], Source]] = {
        'photograph': Photographs,
        'folder': lambda: Folder(Path(path).expanduser()),
        'scene': Scenes,
    }
    if name not in sources:
        raise CameraError(f'There is no source {name!r}; there are {", ".join(sources)} and bag.')
    return sources[name]()
