"""Image sources of the simulated camera: photographs, a folder, generated scenes.

Each source returns Frames without a stamp.
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

# A topic and the message to publish on it.
TopicMessage = tuple[str, Any]
PHOTOGRAPHS = ('coffee', 'astronaut', 'chelsea', 'rocket', 'stereo_motorcycle')
_IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')


class CameraError(SegZeroError):
    """The source or its item is not available; the text gives the reason and a hint."""


class Source(Protocol):
    """A source of images, by items."""

    def items(self) -> Sequence[str]:
        """Return the names of the items, the default first."""
        ...

    def frame(self, item: str) -> Frame:
        """Return the image of an item; raise CameraError if there is none."""
        ...


class Photographs:
    """Photographs from scikit-image's data; `stereo_motorcycle` has measured depth."""

    def items(self) -> Sequence[str]:
        """Return their names."""
        return PHOTOGRAPHS

    def frame(self, item: str) -> Frame:
        """Return a photograph by its name."""
        if item not in PHOTOGRAPHS:
            raise CameraError(
                f'There is no photograph {item!r}; the photographs are {", ".join(PHOTOGRAPHS)}.'
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
    """Return an RGB-D frame from the left image and disparity of the Middlebury 2014 pair.

    Z = f · B / (d + doffs), with the calibration in scikit-image's docstring (for these images):
    f 994.978 px, principal point (311.193, 254.877) px, B 193.001 mm, doffs 31.086 px.

    Args:
        left: (H, W, 3) uint8 RGB.
        disparity: (H, W) float32 pixels; infinite where unknown, which gives no depth.
    """
    known = np.isfinite(disparity) & (disparity > 0)
    depth = np.full(disparity.shape, np.nan, np.float32)
    depth[known] = 994.978 * 0.193001 / (disparity[known] + 31.086)
    height, width = left.shape[:2]
    intrinsics = Intrinsics(994.978, 994.978, 311.193, 254.877, width, height)
    return Frame(np.ascontiguousarray(left), depth=depth, intrinsics=intrinsics)


class ImageFolder:
    """The images in a folder, by file name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.is_dir():
            raise CameraError(f'{path} is not a folder; set `path` to a folder with images.')
        self._items = sorted(p.name for p in path.iterdir() if p.suffix.lower() in _IMAGE_SUFFIXES)
        if not self._items:
            raise CameraError(f'{path} contains no images ({", ".join(_IMAGE_SUFFIXES)}).')

    def items(self) -> Sequence[str]:
        """Return the file names."""
        return self._items

    def frame(self, item: str) -> Frame:
        """Return the image in a file."""
        if item not in self._items:
            raise CameraError(f'{self._path} contains no image {item!r}.')
        return Frame(read_image(self._path / item))


def read_image(path: Path) -> RgbImage:
    """Read an image file as (H, W, 3) uint8 RGB; raise CameraError if it cannot be decoded."""
    try:
        image = decode_file(path.read_bytes())
    except OSError as error:
        raise CameraError(f'{path} cannot be read: {error.strerror}.') from error
    if image is None:
        raise CameraError(f'{path} is not an image that OpenCV can decode.')
    return image


class Scenes:
    """Generated table-tops with depth; the item `scene_7` is the scene of seed 7."""

    def items(self) -> Sequence[str]:
        """Return some of them; every non-negative integer is a seed."""
        return tuple(f'scene_{seed}' for seed in range(10))

    def frame(self, item: str) -> Frame:
        """Return the scene of a seed."""
        return _scene(self._seed(item))

    def motion_frames(self, item: str, frames: int, rate: float) -> Iterator[Frame]:
        """Yield the frames of a scene in motion: objects slide and the camera sways.

        Args:
            item: the scene.
            frames: their number.
            rate: frames per second.
        """
        return (scene.frame for scene in make_motion(self._seed(item), frames, rate=rate))

    @staticmethod
    def _seed(item: str) -> int:
        seed = item.removeprefix('scene_')
        if not seed.isdecimal():
            raise CameraError(
                f'A generated scene is named by its seed, such as scene_7, not {item!r}.'
            )
        return int(seed)


@lru_cache(maxsize=8)
def _scene(seed: int) -> Frame:
    return make_scene(seed, sentences=False).frame


def open_source(name: str, path: str) -> Source:
    """Return a source.

    Args:
        name: `photograph`, `folder` or `scene`.
        path: of the folder.

    Raises:
        CameraError: it is not available.
    """
    sources: dict[str, Callable[[], Source]] = {
        'photograph': Photographs,
        'folder': lambda: ImageFolder(Path(path).expanduser()),
        'scene': Scenes,
    }
    if name not in sources:
        raise CameraError(
            f'There is no source {name!r}; the sources are {", ".join(sources)} and bag.'
        )
    return sources[name]()
