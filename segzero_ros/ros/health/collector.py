"""Collection of the node's health for `/diagnostics`."""

from __future__ import annotations

import time
from typing import Any

from segzero_ros import hub
from segzero_ros.gpus import gpu_memory
from segzero_ros.loading_steps import current_step
from segzero_ros.rgbd.message_buffer import read_frame_id
from segzero_ros.ros.camera.rgbd_subscriber import RgbdSubscriber
from segzero_ros.ros.health.process_memory import process_memory
from segzero_ros.ros.health.rates import MedianRate
from segzero_ros.ros.health.snapshot import (
    CameraHealth,
    Health,
    ModelHealth,
    ModelState,
    QueryHealth,
    TrackingHealth,
)
from segzero_ros.ros.lifecycle import AsyncLifecycleNode
from segzero_ros.ros.perception.model_loader import ModelLoader
from segzero_ros.ros.perception.query_queue import QueryPolicy
from segzero_ros.ros.perception.query_server import QueryServer
from segzero_ros.ros.perception.standing_query import StandingQuery


class HealthCollector:
    """Collects the health of the perception node from its parts.

    Attributes:
        usual_rate: median of the camera's rate; to be reset when the camera may be another one.

    Args:
        node: its state and parameters are reported.
        query_server: its camera, queue, statistics and tracking are reported.
        model_loader: its errors are reported.
        standing_query: its text and count are reported.
    """

    def __init__(
        self,
        node: AsyncLifecycleNode,
        query_server: QueryServer,
        model_loader: ModelLoader,
        standing_query: StandingQuery,
    ) -> None:
        self.usual_rate = MedianRate()
        self._node = node
        self._query_server = query_server
        self._model_loader = model_loader
        self._standing_query = standing_query

    def collect(self) -> Health:
        """Return the health now; to be called once a second, as `usual_rate` expects."""
        return Health(self._models(), self._camera(), self._queries(), self._tracking())

    def _value(self, name: str) -> Any:
        return self._node.get_parameter(name).value

    def _models(self) -> ModelHealth:
        pipeline = self._query_server.pipeline
        return ModelHealth(
            state=self._model_state(),
            reasoner=pipeline.reasoner.name if pipeline else self._value('reasoner.backend'),
            segmenter=pipeline.segmenter.name if pipeline else self._value('segmenter.backend'),
            error=self._model_loader.error,
            progress=str(hub.progress() or current_step() or ''),
            server_error=self._model_loader.server_monitor.error,
            process_memory=process_memory(),
            gpu=gpu_memory(),
        )

    def _model_state(self) -> ModelState:
        if self._node.state == 'configuring':
            return ModelState.LOADING
        if self._query_server.pipeline is not None:
            return ModelState.READY
        return ModelState.FAILED if self._model_loader.error else ModelState.UNLOADED

    def _camera(self) -> CameraHealth:
        topic = self._node.resolve_topic_name('image')
        max_age = self._query_server.max_image_age
        camera = self._query_server.camera
        if camera is None:
            return CameraHealth(topic, stale_after_s=max_age)
        rate = camera.buffer.rate()
        return CameraHealth(
            topic,
            active=True,
            encoding=camera.encoding,
            image_size=camera.size,
            qos=camera.qos,
            age_s=camera.age(),
            depth_age_s=camera.depth_age(),
            stale_after_s=max_age,
            stale_reason=camera.no_image_reason(max_age),
            rate_hz=rate,
            usual_rate_hz=self.usual_rate.update(rate),
            error=camera.error or camera.no_image_reason(0.0),
            warning=' '.join(filter(None, (camera.warning(), self._transform_warning(camera)))),
        )

    def _transform_warning(self, camera: RgbdSubscriber) -> str:
        """Return why nothing is published in the target frame; empty if all is well."""
        newest = camera.buffer.newest()
        frame_id = '' if newest is None else read_frame_id(newest.data)
        return self._query_server.target_frame.warning(frame_id)

    def _queries(self) -> QueryHealth:
        queue, stats = self._query_server.queue, self._query_server.stats
        return QueryHealth(
            waiting=queue.waiting,
            queue_size=queue.queue_size if queue.policy is QueryPolicy.QUEUE else 0,
            answered=stats.answered,
            failed=stats.failed,
            timing=stats.last_timing,
            p95_s=stats.p95,
            slow_after_s=self._value('advanced.latency_warning'),
            last_error=stats.last_error,
            last_error_age_s=time.monotonic() - stats.failed_at,
            standing_query=self._standing_query.query,
            own_queries=self._standing_query.submitted,
        )

    def _tracking(self) -> TrackingHealth:
        tracking = self._query_server.tracking
        return TrackingHealth(tracking.object_count, tracking.rate.per_second(), tracking.lag)
