"""ReasonSeg as it was first published: pictures with polygons beside them, and ignored regions.

Each `x.jpg` has an `x.json` with `shapes` (a label and a polygon each) and `text`. Imports
`samples`, NumPy and OpenCV.
"""

from __future__ import annotations

from collections.abc import Iterator
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segzero_ros.evaluation.samples import DataError, decode_picture, Sample

_TARGET, _IGNORE = 1, 255
_PICTURES = ('.jpg', '.jpeg', '.png')


class LisaFolder:
    """Samples of a folder, in the order of their names."""

    def __init__(self, folder: Path) -> None:
        """List the folder; raise DataError when it holds no pair of picture and polygons."""
        self.name = folder.name
        self._pairs = find_pairs(folder)
        if not self._pairs:
            raise DataError(f'{folder} holds no picture with a .json file of the same name.')

    def __len__(self) -> int:
        return len(self._pairs)

    def read(self, indices: range) -> Iterator[tuple[int, Sample]]:
        """Yield the samples of ascending indices."""
        for index in indices:
            yield index, _sample(*self._pairs[index])


def find_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Return the pictures of a folder with their polygons, by name."""
    pairs = []
    for polygons in sorted(folder.glob('*.json')):
        pictures = (polygons.with_suffix(ending) for ending in _PICTURES)
        picture = next((path for path in pictures if path.is_file()), None)
        if picture is not None:
            pairs.append((picture, polygons))
    return pairs


def _sample(picture: Path, polygons: Path) -> Sample:
    image = decode_picture(picture.read_bytes(), str(picture))
    content = _read(polygons)
    try:
        text = content['text']
        # Of several questions the first is asked, as the published set does.
        text = text if isinstance(text, str) else text[0]
        values = draw_shapes(content['shapes'], image.shape[0], image.shape[1])
    except (KeyError, IndexError, TypeError, ValueError, cv2.error) as error:
        raise DataError(f'{polygons} is not laid out as ReasonSeg: {error!r}') from error
    ignore = values == _IGNORE
    return Sample(
        image=image,
        text=text,
        mask=values == _TARGET,
        ignore=ignore if ignore.any() else None,
        image_id=picture.stem,
        ann_id=picture.stem,
    )


def _read(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    try:
        # Some of the published files are in the code page of Windows.
        text = data.decode('utf-8') if _is_utf8(data) else data.decode('cp1252')
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f'{path} is no JSON: {error}') from error
    if not isinstance(content, dict):
        raise DataError(f'{path} is not laid out as ReasonSeg: it holds no object.')
    return content


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode('utf-8')
    except UnicodeDecodeError:
        return False
    return True


def draw_shapes(shapes: list[dict[str, Any]], height: int, width: int) -> NDArray[np.uint8]:
    """Return (height, width) uint8: 1 where something is meant, 255 where it is ignored, else 0.

    Larger polygons are drawn first and their outlines with them, coordinates cut to whole pixels,
    as the published code draws them; labels that say `flag` are left out.
    """
    kept = [shape for shape in shapes if shape['label'].lower() != 'flag']
    areas = [int(_drawn(np.zeros((height, width), np.uint8), shape, 1).sum()) for shape in kept]
    values = np.zeros((height, width), np.uint8)
    # The very order of the published code, also among equal areas.
    for index in np.argsort(areas)[::-1].tolist() if areas else ():
        value = _IGNORE if 'ignore' in kept[index]['label'].lower() else _TARGET
        _drawn(values, kept[index], value)
    return values


def _drawn(values: NDArray[np.uint8], shape: dict[str, Any], value: int) -> NDArray[np.uint8]:
    polygon = [np.array(shape['points'], dtype=np.int32)]
    cv2.polylines(values, polygon, isClosed=True, color=value, thickness=1)
    cv2.fillPoly(values, polygon, value)
    return values
