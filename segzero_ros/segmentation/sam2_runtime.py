"""What runs SAM 2's encoder and decoder: torch, or on a CPU OpenVINO where it is installed."""

from __future__ import annotations

import logging
from typing import Any, TYPE_CHECKING

import torch

from segzero_ros.extras import lacking
from segzero_ros.segmentation.sam2_checkpoint import Sam2Checkpoint

if TYPE_CHECKING:
    from segzero_ros.segmentation.openvino_sam2 import OpenVinoSam2

_logger = logging.getLogger(__name__)


def load_runtime(
    name: str, model: Any, checkpoint: Sam2Checkpoint, device: torch.device, dtype: str
) -> OpenVinoSam2 | None:
    """Return the runtime of this name for a loaded network; None for torch.

    Whatever keeps OpenVINO from being used is one warning, and torch is used.

    Args:
        name: `torch`, `openvino`, or `auto`: OpenVINO on a CPU where it is installed.
        model: the `SAM2Base` network.
        checkpoint: its files.
        device: of the network.
        dtype: as in `torch_model.DTYPES`; OpenVINO is not used for float16.
    """
    if name == 'torch' or (name == 'auto' and device.type != 'cpu'):
        return None
    if device.type != 'cpu' or dtype == 'float16':
        _logger.warning(
            'SAM 2 runs by torch: OpenVINO is only for a CPU in float32 or bfloat16, not for %s%s',
            device,
            ' in float16' if dtype == 'float16' else '',
        )
        return None
    try:
        from segzero_ros.segmentation.openvino_sam2 import OpenVinoSam2
    except ImportError as error:
        if name == 'auto' and isinstance(error, ModuleNotFoundError) and error.name == 'openvino':
            return None
        _logger.warning(
            'SAM 2 runs by torch: %s', lacking('the runtime openvino needs', error, 'openvino')
        )
        return None
    try:
        runtime = OpenVinoSam2(model, checkpoint, dtype, torch.get_num_threads())
    # Converting runs much of two libraries, and all of their errors have the same remedy.
    except Exception as error:
        reason = str(error).strip().partition('\n')[0]
        _logger.warning(
            'SAM 2 runs by torch: OpenVINO cannot run %s (%s: %s)',
            checkpoint.name,
            type(error).__name__,
            reason,
        )
        return None
    _logger.info('SAM 2 runs by %s', runtime.name)
    return runtime
