"""SAM 2's image encoder and mask decoder on a CPU by OpenVINO, with torch's masks.

Both are converted from the loaded network and compiled once for each checkpoint, which takes about
a minute, and are then read from a cache on disk. Prompts, memory and upsampling stay in torch.
OpenVINO computes in bfloat16 where the processor has instructions for it, else in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
import logging
from typing import Any
import warnings

import torch
from torch import nn, Tensor

from segzero_ros.cancellation import Check
from segzero_ros.loading_steps import loading_step
from segzero_ros.segmentation.compiled_cache import (
    CacheError,
    entry_key,
    file_checksum,
    read_entry,
    write_entry,
)
from segzero_ros.segmentation.openvino_import import openvino
from segzero_ros.segmentation.sam2_checkpoint import Sam2Checkpoint

PRECISIONS = {torch.bfloat16: 'bf16', torch.float32: 'f32'}
# Largest difference to torch's output, in shares of the largest value: rounding to bfloat16 gives
# 2 %. More means that the model was converted wrongly.
TOLERANCE = {'bf16': 0.1, 'f32': 0.001}
# Milliseconds between two calls of `check`. A cancelled request ends after the current layer.
CHECK_PERIOD = 20
# Part of a cache entry's key: to be raised with every change to what is compiled.
_FORMAT = 1
_ENCODER, _DECODER = 'encoder.blob', 'decoder.blob'

_logger = logging.getLogger(__name__)


class ConversionError(Exception):
    """The compiled model does not compute what torch does."""


class OpenVinoSam2:
    """The compiled encoder and decoder, used by one thread at a time.

    Attributes:
        precision: `bf16` or `f32`.
    """

    def __init__(self, model: Any, checkpoint: Sam2Checkpoint, dtype: str, threads: int) -> None:
        """Read the compiled models from the cache, or convert and compile them.

        Args:
            model: the `SAM2Base` network on the CPU.
            checkpoint: the files that it was loaded from.
            dtype: `auto` (bfloat16 where the processor has it), `bfloat16` or `float32`.
            threads: number of threads.

        Raises:
            Exception: any that torch's tracing or OpenVINO raises, and ConversionError.
        """
        self._model = model
        self._core = openvino.Core()
        self.precision = self._choose_precision(dtype)
        self._config = {
            'INFERENCE_PRECISION_HINT': self.precision,
            'PERFORMANCE_HINT': 'LATENCY',
            'INFERENCE_NUM_THREADS': threads,
        }
        encoder, decoder = self._compiled(self._key(checkpoint))
        self._encoder = encoder.create_infer_request()
        self._decoder = decoder.create_infer_request() if decoder is not None else None
        self._positions = self._positional_encodings(encoder)

    @property
    def name(self) -> str:
        """Name, version and number format, for messages."""
        return f'OpenVINO {openvino.__version__.partition("-")[0]} in {self.precision}'

    @property
    def decodes(self) -> bool:
        """Whether `decode` may be called: the network has finer feature maps for the decoder."""
        return self._decoder is not None

    def forward_image(self, pixels: Tensor, check: Check | None) -> dict[str, Any]:
        """Return what `SAM2Base.forward_image` returns for one image (1, 3, S, S) float32."""
        maps = _infer(self._encoder, [pixels], check)
        return {
            'vision_features': maps[-1],
            'vision_pos_enc': list(self._positions),
            'backbone_fpn': maps,
        }

    def decode(
        self,
        sparse: Tensor,
        features: Tensor,
        high_resolution: Sequence[Tensor],
        check: Check | None,
    ) -> tuple[Tensor, Tensor]:
        """Return three masks' logits (1, 3, h, w) and their scores (1, 3) for one object.

        Args:
            sparse: (1, prompts, C) embedded prompts.
            features: (1, C, h, w) image embedding.
            high_resolution: two finer feature maps, the finest first.
            check: called repeatedly.
        """
        logits, scores = _infer(self._decoder, [sparse, features, *high_resolution], check)
        return logits, scores

    def _choose_precision(self, dtype: str) -> str:
        if dtype != 'auto':
            return PRECISIONS[getattr(torch, dtype)]
        capabilities = self._core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
        return 'bf16' if 'BF16' in capabilities else 'f32'

    def _key(self, checkpoint: Sam2Checkpoint) -> str:
        """Return the cache's key: weights, configuration, versions, processor and precision."""
        return entry_key(
            str(_FORMAT),
            file_checksum(checkpoint.weights),
            file_checksum(checkpoint.config),
            openvino.__version__,
            torch.__version__,
            str(self._core.get_property('CPU', 'FULL_DEVICE_NAME')),
            str(sorted(self._core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES'))),
            self.precision,
        )

    def _compiled(self, key: str) -> tuple[Any, Any]:
        """Return the compiled encoder and decoder; the decoder may be None."""
        try:
            cached = read_entry(key)
            if cached is not None:
                return self._read(cached[_ENCODER]), self._read(cached.get(_DECODER))
        except (CacheError, KeyError, RuntimeError) as error:
            _logger.warning(
                "OpenVINO's cache cannot be used, and SAM 2 is converted again: %s", error
            )
        with loading_step('converting SAM 2 for OpenVINO, once for each checkpoint'):
            encoder, decoder = self._converted()
            exported = {_ENCODER: encoder.export_model().getvalue()}
            if decoder is not None:
                exported[_DECODER] = decoder.export_model().getvalue()
        try:
            write_entry(key, exported)
        except CacheError as error:
            _logger.warning('SAM 2 is converted again at the next start: %s', error)
        return encoder, decoder

    def _read(self, blob: bytes | None) -> Any:
        return None if blob is None else self._core.import_model(blob, 'CPU', self._config)

    def _converted(self) -> tuple[Any, Any]:
        model = self._model
        size = model.image_size
        # Any values: smooth ones are closest to an image.
        row = torch.linspace(-2, 2, size).expand(1, 3, size, size)
        pixels = (row + row.transpose(2, 3)).contiguous() / 2
        encoder, maps = self._converted_part(_Encoder(model), [pixels], [pixels.shape])
        if not model.use_high_res_features_in_sam:
            return encoder, None
        prompts = torch.linspace(-1, 1, 3 * model.hidden_dim).view(1, 3, -1)
        inputs = [prompts, maps[-1], *maps[:-1]]
        shapes = [(1, -1, model.hidden_dim), *(values.shape for values in inputs[1:])]
        decoder, _ = self._converted_part(_Decoder(model), inputs, shapes)
        return encoder, decoder

    def _converted_part(
        self, part: nn.Module, inputs: list[Tensor], shapes: Sequence[Sequence[int]]
    ) -> tuple[Any, list[Tensor]]:
        """Return a compiled part, and torch's outputs for the inputs, which it also computes."""
        part.eval()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            expected = part(*inputs)
            converted = _convert(part, tuple(inputs))
        converted.reshape(
            {index: openvino.PartialShape(list(shape)) for index, shape in enumerate(shapes)}
        )
        compiled = self._core.compile_model(converted, 'CPU', self._config)
        computed = _infer(compiled.create_infer_request(), inputs, None)
        for ours, theirs in zip(computed, expected, strict=True):
            error = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6))
            if not error <= TOLERANCE[self.precision]:
                raise ConversionError(
                    f"the converted model's output differs from torch's by {error:.1%}"
                )
        return compiled, list(expected)

    def _positional_encodings(self, encoder: Any) -> list[Tensor]:
        """Return the neck's positional encodings, which are the same for every image."""
        encode = self._model.image_encoder.neck.position_encoding
        with torch.inference_mode():
            return [encode(torch.empty(tuple(output.shape))) for output in encoder.outputs]


class _Encoder(nn.Module):
    """(1, 3, S, S) pixels to feature maps, finest first."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.forward_image(pixels)['backbone_fpn'])


class _Decoder(nn.Module):
    """Embedded prompts and feature maps to three masks and their scores, for one object."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, sparse: Tensor, features: Tensor, finest: Tensor, finer: Tensor
    ) -> tuple[Tensor, Tensor]:
        prompts = self.model.sam_prompt_encoder
        logits, scores, _, _ = self.model.sam_mask_decoder(
            image_embeddings=features,
            image_pe=prompts.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=prompts.no_mask_embed.weight.reshape(1, -1, 1, 1),
            multimask_output=True,
            repeat_image=False,
            high_res_features=[finest, finer],
        )
        return logits, scores


def _convert(part: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """Return OpenVINO's model of a torch module, traced with the inputs.

    By the frontend, because `openvino.convert_model` also reports its use: see `openvino_import`.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    decoder = TorchScriptPythonDecoder(
        part, example_input=inputs, trace_kwargs={'check_trace': False}
    )
    frontend = FrontEndManager().load_by_framework('pytorch')
    return frontend.convert(frontend.load(decoder))


def _infer(request: Any, inputs: Sequence[Tensor], check: Check | None) -> list[Tensor]:
    """Return copies of a request's outputs; an exception of `check` aborts it."""
    arrays = {index: values.contiguous().numpy() for index, values in enumerate(inputs)}
    if check is not None:
        check()
    request.start_async(arrays, share_inputs=True)
    try:
        while not request.wait_for(CHECK_PERIOD):
            if check is not None:
                check()
    except BaseException:
        # The arrays must outlive the request's use of them.
        request.cancel()
        # It reports that it was cancelled.
        with suppress(RuntimeError):
            request.wait()
        raise
    return [torch.from_numpy(tensor.data.copy()) for tensor in request.output_tensors]
