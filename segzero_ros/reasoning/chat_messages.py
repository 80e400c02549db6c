"""What goes to a server as one user message."""

from __future__ import annotations

import base64
from typing import Any

import cv2

from segzero_ros.types import RgbImage

# Of zlib's levels the first: a tenth larger than the best, and four times as fast.
PNG_FAST = [cv2.IMWRITE_PNG_COMPRESSION, 1]


def user_message(image: RgbImage, text: str) -> Any:
    """Return the messages of a query: one of the user's, the picture before the text."""
    picture = {'type': 'image_url', 'image_url': {'url': png_url(image)}}
    return [{'role': 'user', 'content': [picture, {'type': 'text', 'text': text}]}]


def png_url(image: RgbImage) -> str:
    """Return a picture, (h, w, 3) uint8, as a data URL; lossless, the model sees these pixels."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, file = cv2.imencode('.png', bgr, PNG_FAST)
    return f'data:image/png;base64,{base64.b64encode(file.tobytes()).decode()}'
