"""The node's health at one moment, as the diagnostics report it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
import math

from segzero_ros.gpus import GpuMemory
from segzero_ros.types import Timing

# Default age of an image and 95th percentile of the latency with a warning, seconds.
STALE_AFTER = 1.0
SLOW_AFTER = 30.0


class ModelState(str, Enum):
    """State of the models."""

    UNLOADED = 'unloaded'
    LOADING = 'loading'
    READY = 'ready'
    FAILED = 'failed'


@dataclass(frozen=True)
class ModelHealth:
    """The models and the memory they need.

    Attributes:
        state: state of the models.
        reasoner: name of the loaded or configured reasoner.
        segmenter: name of the loaded or configured segmenter.
        error: why the models could not be loaded.
        progress: of their download, or the step of loading them; empty while there is none.
        server_error: why the reasoning model's server cannot be reached, with a hint.
        process_memory: resident set size in bytes; 0 if unknown.
        gpu: memory of the GPU; None if none is used.
    """

    state: ModelState = ModelState.UNLOADED
    reasoner: str = ''
    segmenter: str = ''
    error: str = ''
    progress: str = ''
    server_error: str = ''
    process_memory: int = 0
    gpu: GpuMemory | None = None


@dataclass(frozen=True)
class CameraHealth:
    """The subscribed camera.

    Attributes:
        topic: topic of the images.
        active: whether the node is active, and so subscribed.
        encoding: of the last decoded image; empty before.
        image_size: width and height of that image.
        qos: reliability of the subscription, such as `reliable`.
        age_s: seconds since the newest image was taken; NaN while there is none.
        depth_age_s: seconds since the newest depth image was taken; NaN while there is none.
        stale_after_s: maximum `age_s` without a warning; 0 for any age.
        stale_reason: why the newest image is too old, if known.
        rate_hz: images per second.
        usual_rate_hz: median of that over the last minute; 0 if unknown.
        error: why there is no image, or why the last one could not be used.
        warning: what is wrong with depth, intrinsics or stamps.
    """

    topic: str = ''
    active: bool = False
    encoding: str = ''
    image_size: tuple[int, int] = (0, 0)
    qos: str = ''
    age_s: float = math.nan
    depth_age_s: float = math.nan
    stale_after_s: float = STALE_AFTER
    stale_reason: str = ''
    rate_hz: float = 0.0
    usual_rate_hz: float = 0.0
    error: str = ''
    warning: str = ''


@dataclass(frozen=True)
class QueryHealth:
    """The queries so far.

    Attributes:
        waiting: number of waiting queries.
        queue_size: how many may wait; 0 if the policy is not `queue`.
        answered: number of queries answered OK or NOT_FOUND.
        failed: number of queries with any other status.
        timing: of the last query that the models answered; None before the first.
        p95_s: 95th percentile of the last latencies without queueing, seconds; NaN before any.
        slow_after_s: maximum `p95_s` without a warning; 0 for any time.
        last_error: message of the last query if it failed, else empty.
        last_error_age_s: seconds since that failure.
        standing_query: text of the standing query; empty for none.
        own_queries: number of queries that the node submitted by itself.
    """

    waiting: int = 0
    queue_size: int = 0
    answered: int = 0
    failed: int = 0
    timing: Timing | None = None
    p95_s: float = math.nan
    slow_after_s: float = SLOW_AFTER
    last_error: str = ''
    last_error_age_s: float = 0.0
    standing_query: str = ''
    own_queries: int = 0


@dataclass(frozen=True)
class TrackingHealth:
    """Tracking of the last answer's objects.

    Attributes:
        objects: number of tracked objects.
        rate_hz: tracked frames per second.
        lag_s: seconds between the last tracked frame and the camera's newest.
    """

    objects: int = 0
    rate_hz: float = 0.0
    lag_s: float = 0.0


@dataclass(frozen=True)
class Health:
    """The health of all parts of the node."""

    models: ModelHealth = ModelHealth()
    camera: CameraHealth = CameraHealth()
    queries: QueryHealth = QueryHealth()
    tracking: TrackingHealth = TrackingHealth()
