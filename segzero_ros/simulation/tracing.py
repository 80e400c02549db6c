"""Ray casting: depth, instance, normal and paint of each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segzero_ros.simulation.solids import Array
from segzero_ros.simulation.things import Camera, Thing

TABLE, FLOOR, WALL = 0, -1, -2


@dataclass(frozen=True)
class Room:
    """The surroundings of the table top, which is the rectangle |x| <= half_width, y <= edge.

    Attributes:
        half_width: of the table, metres.
        edge: the table's far edge, metres.
        wall: y of the wall behind it, metres.
        floor: the floor's height, metres, below 0.
    """

    half_width: float
    edge: float
    wall: float
    floor: float


@dataclass(frozen=True, eq=False)
class View:
    """The visible surface of each pixel.

    Attributes:
        depth: (H, W) metres along the optical axis, float64.
        labels: (H, W) int16: the thing's number from 1, or TABLE, FLOOR, WALL.
        normals: (H, W, 3) float32, in the world, towards the camera.
        paint: (H, W) uint8, the thing's paint.
        points: (H, W, 3) float64, in the world.
        amodal: number of pixels of each object without occlusion.
    """

    depth: Array
    labels: NDArray[np.int16]
    normals: NDArray[np.float32]
    paint: NDArray[np.uint8]
    points: Array
    amodal: tuple[int, ...]


def trace(camera: Camera, room: Room, things: Sequence[Thing]) -> View:
    """Cast a ray through each pixel."""
    k = camera.intrinsics
    rows, columns = np.mgrid[0 : k.height, 0 : k.width].astype(np.float64)
    rays = camera.rays(columns, rows)
    depth, labels, normals = _surroundings(camera, room, rays)
    paint = np.zeros(labels.shape, np.uint8)
    amodal = []
    for number, thing in enumerate(things, start=1):
        window = image_window(camera, thing.corners)
        seen = rays[window].reshape(-1, 3)
        if not len(seen):
            amodal.append(0)
            continue
        hits = thing.hit(camera.position[None], seen)
        amodal.append(int(np.isfinite(hits.distance).sum()))
        shape = depth[window].shape
        nearer = hits.distance.reshape(shape) < depth[window]
        facing = np.where((hits.normals * seen).sum(axis=1) > 0, -1.0, 1.0)
        depth[window][nearer] = hits.distance.reshape(shape)[nearer]
        labels[window][nearer] = number
        paint[window][nearer] = hits.paint.reshape(shape)[nearer]
        turned = (hits.normals * facing[:, None]).reshape((*shape, 3))
        normals[window][nearer] = turned[nearer]
    points = camera.position + rays * depth[..., None]
    return View(depth, labels, normals, paint, points, tuple(amodal))


def image_window(camera: Camera, corners: Array) -> tuple[slice, slice]:
    """Return the image window (rows, columns) of the projection of (N, 3) corners."""
    k = camera.intrinsics
    pixels = camera.project(corners)
    left, top = np.floor(pixels.min(axis=0)).astype(int)
    right, bottom = np.ceil(pixels.max(axis=0)).astype(int) + 1
    rows = slice(int(np.clip(top, 0, k.height)), int(np.clip(bottom, 0, k.height)))
    return rows, slice(int(np.clip(left, 0, k.width)), int(np.clip(right, 0, k.width)))


def _surroundings(
    camera: Camera, room: Room, rays: Array
) -> tuple[Array, NDArray[np.int16], NDArray[np.float32]]:
    x, y, z = camera.position
    with np.errstate(divide='ignore'):
        table = np.where(rays[..., 2] < 0, -z / rays[..., 2], np.inf)
        floor = np.where(rays[..., 2] < 0, (room.floor - z) / rays[..., 2], np.inf)
        wall = np.where(rays[..., 1] > 0, (room.wall - y) / rays[..., 1], np.inf)
    with np.errstate(invalid='ignore'):
        on_table = (np.abs(x + table * rays[..., 0]) <= room.half_width) & (
            y + table * rays[..., 1] <= room.edge
        )
    on_floor = ~on_table & (floor < wall)
    depth = np.select([on_table, on_floor], [table, floor], wall)
    labels = np.select([on_table, on_floor], [TABLE, FLOOR], WALL).astype(np.int16)
    normals = np.zeros((*labels.shape, 3), np.float32)
    normals[..., 2] = labels != WALL
    normals[..., 1] = -(labels == WALL).astype(np.float32)
    return depth, labels, normals
