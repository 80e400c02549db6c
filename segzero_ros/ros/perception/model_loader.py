"""Loading and freeing the models, in the worker's thread."""

from __future__ import annotations

from collections.abc import Callable
import gc
import logging

from rclpy.node import Node

from segzero_ros.loading import load_tracker, ReasonerOptions, SegmenterOptions
from segzero_ros.pipeline import Pipeline
from segzero_ros.ros.health.process_memory import freeze_long_lived_objects
from segzero_ros.ros.health.server_monitor import ServerMonitor
from segzero_ros.ros.perception.query_server import QueryServer
from segzero_ros.ros.perception.worker import Worker
from segzero_ros.ros.perception.worker_future import run_in_worker
from segzero_ros.types import ReasonerUnavailable, SegmenterUnavailable, SegZeroError

Load = Callable[[ReasonerOptions, SegmenterOptions], Pipeline]

LOADING, FREEING = 'loading the models', 'freeing the models'
RELOADING = (
    'The models did not finish and are being reloaded; send the query again when the node is '
    'active.'
)
REMOTE = 'the profile `remote` (a reasoning model behind an OpenAI-compatible server) and '
OFFLINE = (
    'the profile `offline` (no weights, no GPU): profile:=offline with ros2 launch, or '
    '--params-file <share of segzero_ros>/config/offline.yaml.'
)
_logger = logging.getLogger(__name__)


class NotConfigured(SegZeroError):
    """No models are loaded; the text gives the reason and what to do."""


class ModelLoader:
    """Loads the pipeline into the query server and frees it again.

    Attributes:
        error: why the last attempt to load failed; empty if it succeeded.
        server_monitor: polls the reasoning model's server while it is in use.

    Args:
        node: its executor awaits the worker.
        load: makes the pipeline.
        query_server: uses the pipeline.
        worker: its thread owns the models.
    """

    def __init__(self, node: Node, load: Load, query_server: QueryServer, worker: Worker) -> None:
        self.error = ''
        self.server_monitor = ServerMonitor()
        self._node = node
        self._load = load
        self._query_server = query_server
        self._worker = worker

    async def load(self, reasoner: ReasonerOptions, segmenter: SegmenterOptions) -> None:
        """Load both models.

        Args:
            reasoner: which reasoning model, and how.
            segmenter: which segmenter, and how.

        Raises:
            NotConfigured: a model is not available.
            Exception: whatever else the libraries raise.
        """
        _logger.info('Loading %s and %s', reasoner.backend, segmenter.backend)
        try:
            pipeline = await run_in_worker(
                self._node, self._worker, lambda: self._loaded(reasoner, segmenter), LOADING
            )
        except (ReasonerUnavailable, SegmenterUnavailable) as error:
            self.error = f'{error} {lighter_profiles(reasoner, segmenter)}'.rstrip()
            raise NotConfigured(self.error) from error
        except Exception as error:
            self.error = f'{type(error).__name__}: {error}'
            raise
        self.error = ''
        self._query_server.pipeline = pipeline
        self._query_server.tracking.make_tracker = lambda: load_tracker(
            segmenter, pipeline.segmenter
        )
        self.server_monitor.watch(reasoner.base_url if reasoner.backend == 'openai' else '')

    async def free(self) -> None:
        """Free the models and await it."""
        self.server_monitor.watch('')
        await run_in_worker(self._node, self._worker, self._free, FREEING)

    def free_later(self) -> None:
        """Free the models after the worker's other jobs, without awaiting it."""
        self._worker.submit(self._free, FREEING)

    def _loaded(self, reasoner: ReasonerOptions, segmenter: SegmenterOptions) -> Pipeline:
        """Load both models; in the worker's thread."""
        pipeline = self._load(reasoner, segmenter)
        freeze_long_lived_objects()
        return pipeline

    def _free(self) -> None:
        """Close tracker and pipeline; in the worker's thread."""
        # So that reference cycles of the closed models are collected too.
        gc.unfreeze()
        # Read both first: if this job is abandoned, it must not touch what is loaded afterwards.
        tracking = self._query_server.tracking
        pipeline, self._query_server.pipeline = self._query_server.pipeline, None
        tracking.stop()
        if pipeline is not None:
            pipeline.close()


def lighter_profiles(reasoner: ReasonerOptions, segmenter: SegmenterOptions) -> str:
    """Return a sentence with the profiles that need less than these models; empty if none does."""
    if reasoner.backend == 'attributes' and segmenter.backend == 'grabcut':
        return ''
    return f'Needs less: {REMOTE if reasoner.backend == "transformers" else ""}{OFFLINE}'
