"""An answer's geometry in the frame that it is published in (the parameter `target_frame`).

Poses and clouds are found in the camera's optical frame. Whatever is published in 3-D is made from
`Placed.geometry` and `Placed.cloud`, so that all of it is in the same frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from segzero_ros.rotations import rotated, Vector
from segzero_ros.spatial.clouds import Cloud, cloud_of
from segzero_ros.spatial.transforms import Transform
from segzero_ros.types import Answer, Segment

# Up in an optical frame, whose y axis points down.
_UP: Vector = (0.0, -1.0, 0.0)


@dataclass(frozen=True, eq=False)
class Placed:
    """An answer, and its geometry in the frame that it is published in.

    Attributes:
        answer: as published on `result` and `tracked`, with poses in the camera's optical frame.
        geometry: the same answer with poses in the published frame, which is its frame's
            frame_id; make everything that is published in 3-D from it. None if nothing may be
            published in 3-D, for lack of a transform; the answer's message then gives the reason.
        transform: of points in the optical frame into the published one; None if they are the
            same.
    """

    answer: Answer
    geometry: Answer | None
    transform: Transform | None = None

    @property
    def up(self) -> Vector:
        """The unit vector in the published frame that points up in the image."""
        return _UP if self.transform is None else rotated(self.transform.rotation, _UP)

    def cloud(self) -> Cloud | PlacedCloud | None:
        """Return the frame's points in the published frame.

        Returns:
            None without depth, fitting intrinsics or a transform.
        """
        if self.geometry is None or self.geometry.frame is None:
            return None
        cloud = cloud_of(self.geometry.frame, self.geometry.segments)
        if cloud is None or self.transform is None:
            return cloud
        return PlacedCloud(cloud, self.transform)


@dataclass(frozen=True, eq=False)
class PlacedCloud:
    """The points of a frame in another frame; used as `Cloud` is.

    Attributes:
        cloud: the points in the optical frame.
        transform: of points in the optical frame into the other one.
    """

    cloud: Cloud
    transform: Transform

    @property
    def object_ids(self) -> NDArray[np.uint16]:
        """(H, W), an object's id at its points; 0 elsewhere."""
        return self.cloud.object_ids

    def write_rows(self, first: int, last: int, xyz: NDArray[np.float32]) -> None:
        """Write the points of some rows: metres, NaN where there is no depth.

        Args:
            first: index of the first row.
            last: index behind the last row.
            xyz: (3, last - first, W) float32, to be written.
        """
        self.cloud.write_rows(first, last, xyz)
        xyz[:] = self.transform.points(xyz)


def in_camera_frame(answer: Answer) -> Placed:
    """Return an answer whose geometry is published in the camera's optical frame."""
    return Placed(answer, answer)


def in_frame(answer: Answer, frame_id: str, transform: Transform) -> Placed:
    """Return an answer whose geometry is published in another frame.

    Args:
        answer: with a frame, and poses in its optical frame.
        frame_id: the frame to publish in.
        transform: of points in the optical frame into that frame.
    """
    assert answer.frame is not None
    frame = replace(answer.frame, frame_id=frame_id)
    segments = tuple(_moved(segment, transform) for segment in answer.segments)
    return Placed(answer, replace(answer, frame=frame, segments=segments), transform)


def without_geometry(answer: Answer, reason: str) -> Placed:
    """Return an answer of which nothing is published in 3-D.

    Args:
        answer: the answer.
        reason: a sentence, added to the answer's message.
    """
    return Placed(replace(answer, message=f'{answer.message} {reason}'.strip()), None)


def has_geometry(answer: Answer) -> bool:
    """Return whether anything about an answer could be published in 3-D."""
    frame = answer.frame
    return frame is not None and (
        frame.depth is not None or any(segment.pose is not None for segment in answer.segments)
    )


def _moved(segment: Segment, transform: Transform) -> Segment:
    return segment if segment.pose is None else replace(segment, pose=transform.pose(segment.pose))
