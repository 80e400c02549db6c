"""The user message of a query to a server."""

from __future__ import annotations

import base64
from typing import Any

import cv2

from segzero_ros.types import RgbImage


def user_message(image: RgbImage, text: str) -> Any:
    """Return the messages of a query: one user message, the image before the text.

    Args:
        image: (h, w, 3) uint8, RGB.
        text: the prompt.
    """
    image_part = {'type': 'image_url', 'image_url': {'url': png_url(image)}}
    return [{'role': 'user', 'content': [image_part, {'type': 'text', 'text': text}]}]


def png_url(image: RgbImage) -> str:
    """Return an image, (h, w, 3) uint8 RGB, as a lossless data URL."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    # OpenCV's own settings: half the time of a compression level, and smaller.
    _, file = cv2.imencode('.png', bgr)
    return f'data:image/png;base64,{base64.b64encode(file.tobytes()).decode()}'
