"""Print how a replay's answers differ from accepted ones."""

from __future__ import annotations

from pathlib import Path
import sys
from typing import TYPE_CHECKING

from segzero_ros.conversions.text import printable

if TYPE_CHECKING:
    from segzero_ros.replay.output import ReplayOutput

DIFFERENT = 1
# Differences to print; a changed model changes every answer.
_MAX_DIFFERENCES = 40


def print_differences(folder: ReplayOutput, golden: Path, min_iou: float) -> int:
    """Compare the answers of a replay with accepted ones; return 1 if they differ.

    Args:
        folder: of the replay.
        golden: file with the accepted answers.
        min_iou: minimum IoU of a mask with the accepted one, 0 to 1.

    Raises:
        NoGolden: the file is missing or cannot be read.
    """
    from segzero_ros.replay.regression import compare, read_golden

    result = compare(read_golden(golden), folder.records(), min_iou)
    for difference in result.differences[:_MAX_DIFFERENCES]:
        print(printable(str(difference)))
    if len(result.differences) > _MAX_DIFFERENCES:
        print(f'… and {len(result.differences) - _MAX_DIFFERENCES} more differences')
    if result.differences:
        print(
            f'{result.differing} of {result.compared} answers differ from {golden}',
            file=sys.stderr,
        )
        return DIFFERENT
    print(f'All {result.compared} answers match {golden}')
    return 0
