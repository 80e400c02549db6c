"""Query a running node about an image, and outline the objects with OpenCV.

    python3 examples/ask_with_opencv.py kitchen.png 'the red mug' answer.png

exits with 0 if objects were found, 1 if not, 2 for a file that is not an image.
"""

from __future__ import annotations

import sys

import cv2
import numpy as np

from segzero_ros.ros.client import PerceptionClient


def main(picture: str, query: str, output: str, namespace: str = 'segzero') -> int:
    """Write the image with outlines; return the exit code."""
    image = cv2.imread(picture)
    if image is None:
        print(f'{picture} is not an image that OpenCV can read')
        return 2
    with PerceptionClient(namespace) as client:
        client.wait_for_node()
        # bgr8 is OpenCV's channel order.
        reply = client.ask(query, image, order='bgr8')
    print(reply.answer.status.name, reply.answer.reasoning)
    for segment in reply.answer.segments:
        mask = segment.full_mask(*image.shape[:2]).astype(np.uint8)
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(image, outlines, -1, (0, 255, 0), 2)
    cv2.imwrite(output, image)
    return 0 if reply.answer.segments else 1


if __name__ == '__main__':
    raise SystemExit(main(*sys.argv[1:]))
