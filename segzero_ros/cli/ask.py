"""`segzero ask`: query a running node; stream its reasoning, print and draw the result."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
import time
from typing import Any, TYPE_CHECKING

from segzero_ros.conversions.text import printable
from segzero_ros.types import RgbImage, Segment, SegZeroError, Stage, Status, Task, TASK_NAMES

if TYPE_CHECKING:
    from segzero_ros.ros.client import PerceptionClient, Progress, Reply

EXIT_CODES = {Status.OK: 0, Status.NOT_FOUND: 1, Status.CANCELED: 130}
OTHER_STATUS = 3

EPILOG = """\
exit codes:
  0    found
  1    no such object in the image, or the query was not understood (NOT_FOUND)
  2    no node, no answer in time, or a file that cannot be read or written
  3    another status: NO_IMAGE, REJECTED, TIMEOUT, ERROR ...
  130  cancelled with Ctrl-C

examples:
  segzero ask "the red cup"
  segzero ask "the largest book" --image table.png --output answer.png
  segzero ask "both eggs" --json | jq '.objects[].mask_pixels'
  segzero ask "how many mugs are there?" --task auto
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = EPILOG
    parser.add_argument('query', help='what to look for')
    parser.add_argument(
        '--namespace', default='segzero', help='namespace of the node (default: %(default)s)'
    )
    parser.add_argument(
        '--image', type=Path, help='query this image file instead of the latest camera frame'
    )
    parser.add_argument(
        '--task',
        choices=TASK_NAMES,
        default='segment',
        help='what is wanted; auto: the node decides by the sentence (default: %(default)s)',
    )
    parser.add_argument('--output', type=Path, help='save the overlay image to this file')
    parser.add_argument(
        '--timeout',
        type=float,
        default=120.0,
        help='seconds to wait for the answer (default: %(default)g)',
    )
    parser.add_argument(
        '--wait',
        type=float,
        default=5.0,
        help='seconds to wait for the node, and for its first image (default: %(default)g)',
    )
    parser.add_argument('--json', action='store_true', help='print only the answer, as JSON')


def run(options: argparse.Namespace) -> int:
    """Query the node, print and save the answer; return the exit code."""
    from segzero_ros.ros.camera_sim.sources import read_image
    from segzero_ros.ros.client import ignore, PerceptionClient

    image = None if options.image is None else read_image(options.image)
    if options.output:
        prepare_output(options.output)
    with PerceptionClient(options.namespace, overlays=options.output is not None) as client:
        deadline = time.monotonic() + options.wait
        client.wait_for_node(options.wait)
        stream = None if options.json else ReasoningStream()
        on_progress = stream.show if stream else ignore
        reply = client.ask(options.query, image, on_progress, options.timeout, task=options.task)
        # Node and camera may just be starting.
        if reply.answer.status is Status.NO_IMAGE and client.wait_for_image(
            deadline - time.monotonic()
        ):
            reply = client.ask(
                options.query, image, on_progress, options.timeout, task=options.task
            )
        if stream:
            stream.finish(reply.answer.reasoning)
        if options.json:
            print(json.dumps(as_dictionary(reply), ensure_ascii=False, indent=2))
        else:
            no_image = reply.answer.status is Status.NO_IMAGE
            show(reply, client.image_topics() if no_image else [])
        if options.output:
            save_image(options.output, overlay_of(client, reply))
    return EXIT_CODES.get(reply.answer.status, OTHER_STATUS)


class ReasoningStream:
    """Prints the reasoning while it is generated."""

    def __init__(self) -> None:
        self._printed = ''

    def show(self, progress: Progress) -> None:
        """Print the new text."""
        if progress.stage == Stage.REASONING and progress.text:
            self._printed += progress.text
            print(printable(progress.text), end='', flush=True)

    def finish(self, reasoning: str) -> None:
        """Print what the stream has not sent yet, and end the line."""
        if reasoning.startswith(self._printed):
            print(printable(reasoning[len(self._printed) :]), end='')
            self._printed = reasoning
        if self._printed:
            print('\n', flush=True)


def show(reply: Reply, image_topics: list[str]) -> None:
    """Print the status and a table of the objects.

    Args:
        reply: the node's answer.
        image_topics: topics to suggest for the node's `image`; empty for no suggestion.
    """
    from rich.console import Console

    console, answer = Console(highlight=False), reply.answer
    if answer.segments:
        console.print(object_table(reply))
    if answer.answer or answer.count is not None:
        console.print(printable(answer.answer or str(answer.count)), style='bold', markup=False)
    colour = {Status.OK: 'green', Status.NOT_FOUND: 'yellow'}.get(answer.status, 'red')
    console.print(f'[bold {colour}]{answer.status.name}[/]', end=' ')
    message = printable(answer.message)
    console.print(f'in {answer.timing.total * 1000:.0f} ms', message, markup=False)
    if image_topics:
        console.print(
            f'Images are published on {", ".join(image_topics)}: start the node with '
            f'image:={image_topics[0]}.',
            markup=False,
        )


def object_table(reply: Reply) -> Any:
    """Return a `rich` table of an answer's objects."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ('id', 'label', 'box x, y, w, h', 'mask', 'score', 'position (m)'):
        right = heading in ('id', 'mask', 'score')
        table.add_column(heading, justify='right' if right else 'left')
    for segment in reply.answer.segments:
        table.add_row(
            str(segment.id),
            Text(printable(segment.label)),
            ', '.join(map(str, segment.box)),
            f'{segment.mask.sum()} px' if reply.answer.task is Task.SEGMENT else '',
            '' if math.isnan(segment.score) else f'{segment.score:.2f}',
            ', '.join(f'{value:.3f}' for value in segment.pose.position) if segment.pose else '',
        )
    return table


def as_dictionary(reply: Reply) -> dict[str, Any]:
    """Return an answer for JSON, with the number of mask pixels instead of the masks."""
    answer = reply.answer
    return {
        'query_id': answer.query.id,
        'query': answer.query.text,
        'task': answer.task.name.lower(),
        'status': answer.status.name,
        'answer': answer.answer,
        'count': answer.count,
        'message': answer.message,
        'reasoning': answer.reasoning,
        'reasoner': answer.reasoner,
        'segmenter': answer.segmenter,
        'stamp_ns': reply.stamp_ns,
        'frame_id': reply.frame_id,
        'image_size': [reply.width, reply.height],
        'objects': [_object(segment) for segment in answer.segments],
        'seconds': {
            name: _number(getattr(answer.timing, name))
            for name in ('queued', 'reasoning', 'encoding', 'segmenting', 'total', 'frame_age')
        },
        'generated_tokens': answer.timing.generated_tokens,
    }


def _object(segment: Segment) -> dict[str, Any]:
    return {
        'id': segment.id,
        'label': segment.label,
        'score': _number(segment.score),
        'box': list(segment.box),
        'points': [list(point) for point in segment.points],
        'mask_pixels': int(segment.mask.sum()),
        'position': list(segment.pose.position) if segment.pose else None,
        'size': list(segment.pose.size) if segment.pose else None,
    }


def _number(value: float) -> float | None:
    """Return a float32 value rounded to its six significant digits; None for NaN."""
    return None if math.isnan(value) else float(f'{value:.6g}')


def overlay_of(client: PerceptionClient, reply: Reply) -> RgbImage:
    """Return an answer's overlay: from the node, or drawn here for an image from a file."""
    from segzero_ros.overlay import draw_overlay

    answer = reply.answer
    if answer.frame is None and answer.status in (Status.OK, Status.NOT_FOUND):
        return client.overlay(reply)
    return draw_overlay(answer)


def prepare_output(path: Path) -> None:
    """Create the folder of an image file; raise CannotWrite if the image cannot be written."""
    import cv2

    if not cv2.haveImageWriter(str(path)):
        raise CannotWrite(f'{path} has no image file extension, such as .png or .jpg.')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(f'{path} cannot be written: {error.strerror}.') from error


def save_image(path: Path, image: RgbImage, *, quality: int = 92) -> None:
    """Write an image in the format of the file's extension; raise CannotWrite if it fails.

    Args:
        path: the file; its folder is created.
        image: (H, W, 3) uint8 RGB.
        quality: JPEG quality, up to 100.
    """
    import cv2

    prepare_output(path)
    is_jpeg = path.suffix.lower() in ('.jpg', '.jpeg')
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality] if is_jpeg else []
    _, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), flags)
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise CannotWrite(f'{path} cannot be written: {error.strerror}.') from error


class CannotWrite(SegZeroError):
    """A file cannot be written."""
