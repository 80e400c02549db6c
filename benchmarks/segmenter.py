"""SAM 2's time from image to encoding and from prompt to mask, beside the peers' in one run.

Run `python -m benchmarks.segmenter [--peer sam2 ...] [--size tiny] [--rounds 3] [--prompts 200]`.

All take the same random weights (see `random_checkpoints`) and the same photographs of
scikit-image, one after the other in every round; seconds are medians with the smallest and the
largest. `encode` is from an image's pixels to its feature maps, `prompt` from a box to a mask of
the image's size. `IoU` is that of the masks to float32 of the package `sam2`, of as many random
boxes as `--prompts`, over all photographs. Random weights make frayed masks, whose IoU falls with
the smallest rounding: a checkpoint's masks agree better. Memory is what loading and one encoding
add to the process.

    here            this project with `advanced.segmenter.runtime: auto`
    here_torch      the same by torch
    sam2            the package's SAM2ImagePredictor in float32
    sam2_bfloat16   the same under autocast, as its examples on a GPU
    sam2_compiled   the same in float32, its encoder compiled by torch.compile
    transformers_sam2   transformers' Sam2Model, of the same size with weights of its own
    openvino        the encoder by openvino.compile_model, the rest by the package
    onnxruntime     the encoder by ONNX Runtime, the rest by the package
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
import json
import os
from pathlib import Path
import statistics
import tempfile
import time
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
import torch

from benchmarks.machine import processor
from benchmarks.published import predictor_of
from benchmarks.random_checkpoints import make_random_sam2
from scripts.make_tiny_sam2 import make_tiny_sam2
from segzero_ros.loading import load_segmenter, SegmenterOptions
from segzero_ros.types import Frame, GroundedObject, Grounding, Mask, RgbImage

PEERS = (
    'here_torch',
    'sam2',
    'sam2_bfloat16',
    'sam2_compiled',
    'transformers_sam2',
    'openvino',
    'onnxruntime',
)
SIZES = {
    'tiny': 'sam2.1/sam2.1_hiera_t.yaml',
    'small': 'sam2.1/sam2.1_hiera_s.yaml',
    'base-plus': 'sam2.1/sam2.1_hiera_b+.yaml',
    'large': 'sam2.1/sam2.1_hiera_l.yaml',
}
PHOTOGRAPHS = ('coffee', 'astronaut', 'chelsea', 'rocket')
Box = tuple[float, float, float, float]


class Way(NamedTuple):
    """One implementation.

    Attributes:
        encode: encodes an image and keeps the encoding.
        prompt: returns the mask (H, W) of a box in the encoded image.
        seconds: to load it, without the imports.
        megabytes: what loading added to the process's memory.
    """

    encode: Callable[[RgbImage], object]
    prompt: Callable[[Box], Mask]
    seconds: float
    megabytes: float


def here(weights: Path, device: str, runtime: str = 'auto') -> tuple[Any, Any]:
    """This project."""
    segmenter: Any = load_segmenter(
        SegmenterOptions('sam2', str(weights), device=device, runtime=runtime)
    )
    kept: list[Any] = []

    def encode(image: RgbImage) -> None:
        kept[:] = [segmenter.encode(Frame(image))]

    def prompt(box: Box) -> Mask:
        grounding = Grounding('', (GroundedObject(box, ()),))
        mask: Mask = segmenter.segment(kept[0], grounding)[0].mask
        return mask

    print(f'here: {segmenter.runtime}')
    return encode, prompt


def package(weights: Path, device: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """The package `sam2`, as its examples use it."""
    return _by(predictor_of(weights, device), device, dtype)


def _by(predictor: Any, device: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    def context() -> Any:
        return torch.autocast(device.partition(':')[0], dtype, enabled=dtype != torch.float32)

    def encode(image: RgbImage) -> None:
        with torch.inference_mode(), context():
            predictor.set_image(image)

    def prompt(box: Box) -> Mask:
        with torch.inference_mode(), context():
            masks, scores, _ = predictor.predict(box=np.array(box))
        best: Mask = masks[np.argsort(scores)[::-1][0]].astype(bool)
        return best

    return encode, prompt


def compiled(weights: Path, device: str) -> tuple[Any, Any]:
    """The package with its encoder compiled."""
    predictor = predictor_of(weights, device)
    encoder = predictor.model.image_encoder
    encoder.forward = torch.compile(encoder.forward, fullgraph=True, dynamic=False)
    return _by(predictor, device)


def transformers_sam2(weights: Path, device: str) -> tuple[Any, Any]:
    """Transformers' classes; their default size is SAM 2.1 tiny."""
    from transformers import Sam2Config, Sam2ImageProcessorFast, Sam2Model, Sam2Processor

    torch.manual_seed(0)
    model: Any = Sam2Model(Sam2Config()).to(device).eval()
    processor: Any = Sam2Processor(Sam2ImageProcessorFast())
    kept: dict[str, Any] = {}

    def encode(image: RgbImage) -> None:
        with torch.inference_mode():
            pixels = processor(images=image, return_tensors='pt').to(device)
            kept['size'] = pixels['original_sizes']
            kept['maps'] = model.get_image_embeddings(pixels['pixel_values'])

    def prompt(box: Box) -> Mask:
        with torch.inference_mode():
            inputs = processor(
                input_boxes=[[list(box)]], original_sizes=kept['size'], return_tensors='pt'
            ).to(device)
            out = model(image_embeddings=list(kept['maps']), input_boxes=inputs['input_boxes'])
            masks = processor.post_process_masks(out.pred_masks.cpu(), kept['size'])[0]
        best: Mask = masks[0, int(out.iou_scores[0, 0].argmax())].numpy()
        return best

    return encode, prompt


class _Maps(torch.nn.Module):
    """The encoder with the decoder's two projections, as a module of tensors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.model.forward_image(pixels)['backbone_fpn'])


def _with_encoder(predictor: Any, infer: Callable[[Any], list[Any]]) -> tuple[Any, Any]:
    """Return the package's predictor with another encoder: (1, 3, S, S) to three arrays."""
    model = predictor.model
    positions = model.image_encoder.neck.position_encoding

    def forward_image(pixels: torch.Tensor) -> dict[str, Any]:
        maps = [torch.from_numpy(np.array(array)) for array in infer(pixels.numpy())]
        places = [positions(values) for values in maps]
        return {'vision_features': maps[-1], 'vision_pos_enc': places, 'backbone_fpn': maps}

    model.forward_image = forward_image
    return _by(predictor, 'cpu')


def openvino(weights: Path, device: str) -> tuple[Any, Any]:
    """OpenVINO as its manual shows it, in the precision that it chooses itself."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    from segzero_ros.segmentation.openvino_import import openvino as ov

    predictor = predictor_of(weights, 'cpu')
    size = predictor.model.image_size
    with torch.no_grad():
        traced = TorchScriptPythonDecoder(
            _Maps(predictor.model).eval(), example_input=(torch.zeros(1, 3, size, size),)
        )
    frontend = FrontEndManager().load_by_framework('pytorch')
    model = frontend.convert(frontend.load(traced))
    model.reshape([1, 3, size, size])
    request = ov.Core().compile_model(model, 'CPU').create_infer_request()

    def infer(pixels: Any) -> list[Any]:
        request.infer([pixels])
        return [tensor.data for tensor in request.output_tensors]

    return _with_encoder(predictor, infer)


def onnxruntime(weights: Path, device: str) -> tuple[Any, Any]:
    """ONNX Runtime on a model of torch's exporter."""
    import onnxruntime as ort

    predictor = predictor_of(weights, 'cpu')
    size = predictor.model.image_size
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'encoder.onnx'
        example = (torch.zeros(1, 3, size, size),)
        torch.onnx.export(_Maps(predictor.model).eval(), example, file, dynamo=True)
        session = ort.InferenceSession(str(file), providers=['CPUExecutionProvider'])
    name = session.get_inputs()[0].name
    return _with_encoder(predictor, lambda pixels: session.run(None, {name: pixels}))


WAYS: dict[str, Callable[[Path, str], tuple[Any, Any]]] = {
    'here': here,
    'here_torch': lambda weights, device: here(weights, device, 'torch'),
    'sam2': package,
    'sam2_bfloat16': lambda weights, device: package(weights, device, torch.bfloat16),
    'sam2_compiled': compiled,
    'transformers_sam2': transformers_sam2,
    'openvino': openvino,
    'onnxruntime': onnxruntime,
}
# With weights of its own, and so without common masks.
OTHER_WEIGHTS = {'transformers_sam2'}


def resident() -> float:
    """Return the process's resident memory in megabytes."""
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 1e6


def synchronize(device: str) -> None:
    """Wait for a GPU."""
    if device != 'cpu':
        torch.cuda.synchronize()


def load(name: str, weights: Path, device: str, image: RgbImage) -> Way:
    """Load one way and encode an image, which compiles what is compiled late."""
    before, started = resident(), time.perf_counter()
    encode, prompt = WAYS[name](weights, device)
    encode(image)
    prompt((1.0, 1.0, 9.0, 9.0))
    synchronize(device)
    return Way(encode, prompt, time.perf_counter() - started, resident() - before)


def photographs() -> list[RgbImage]:
    """Return scikit-image's photographs that are in its wheel, (H, W, 3) uint8."""
    import skimage.data

    return [np.ascontiguousarray(getattr(skimage.data, name)()) for name in PHOTOGRAPHS]


def boxes(image: RgbImage, count: int, random: np.random.Generator) -> Iterator[Box]:
    """Yield random boxes of an image, from a tenth to all of its width and height."""
    height, width = image.shape[:2]
    for _ in range(count):
        w, h = random.uniform(0.1, 1, 2) * (width - 1, height - 1)
        x, y = random.uniform(0, 1, 2) * (width - 1 - w, height - 1 - h)
        yield (float(x), float(y), float(x + w), float(y + h))


def iou(ours: Mask, theirs: Mask) -> float:
    """Return the IoU of two masks; 1 for two empty ones."""
    union = (ours | theirs).sum()
    return float((ours & theirs).sum() / union) if union else 1.0


def measure(
    ways: dict[str, Way], images: list[RgbImage], rounds: int, prompts: int, device: str
) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of encoding and prompting and the IoU to `sam2`, by way."""
    random = np.random.default_rng(0)
    found: dict[str, dict[str, list[float]]] = {
        name: {'encode': [], 'prompt': [], 'iou': []} for name in ways
    }
    per_image = -(-prompts // len(images))
    for number in range(max(rounds, len(images))):
        image = images[number % len(images)]
        masks: dict[str, list[Mask]] = {}
        asked = list(boxes(image, per_image if number < len(images) else 3, random))
        for name, way in ways.items():
            started = time.perf_counter()
            way.encode(image)
            synchronize(device)
            found[name]['encode'].append(time.perf_counter() - started)
            masks[name] = []
            for box in asked:
                started = time.perf_counter()
                masks[name].append(way.prompt(box))
                found[name]['prompt'].append(time.perf_counter() - started)
        for name in masks.keys() - OTHER_WEIGHTS:
            pairs = zip(masks[name], masks.get('sam2', ()), strict=False)
            found[name]['iou'] += [iou(ours, theirs) for ours, theirs in pairs]
    return found


def show(results: dict[str, Any], console: Console) -> None:
    """Print the table."""
    table = Table('', 'encode s', 'prompt s', 'IoU median (5 %)', 'load s', 'MB', 'x sam2')
    for name, row in results['ways'].items():
        spread = [
            f'{row[part][1]:.3f} ({row[part][0]:.3f} to {row[part][2]:.3f})'
            for part in ('encode', 'prompt')
        ]
        agreement = f'{row["iou"][0]:.4f} ({row["iou"][1]:.4f})' if row['iou'] else ''
        ratios = ', '.join(f'{ratio:.2f}' for ratio in row.get('times_sam2', ()))
        numbers = f'{row["load"]:.1f}', f'{row["megabytes"]:.0f}'
        table.add_row(name, *spread, agreement, *numbers, ratios)
    console.print(table)


def summarise(way: Way, found: dict[str, list[float]]) -> dict[str, Any]:
    """Return a way's figures: (smallest, median, largest) seconds, (median, 5 %) IoU."""
    row: dict[str, Any] = {
        part: (min(values), statistics.median(values), max(values))
        for part, values in found.items()
        if part != 'iou'
    }
    agreement = found['iou']
    row['iou'] = (
        [float(np.quantile(agreement, share)) for share in (0.5, 0.05)] if agreement else []
    )
    return row | {'load': way.seconds, 'megabytes': way.megabytes}


def main(words: list[str] | None = None) -> None:
    """Measure the given ways beside this project's, print the table and write it as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--peer', action='append', choices=PEERS, help='default: here_torch, sam2')
    parser.add_argument('--size', choices=('test', *SIZES), default='tiny')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--rounds', type=int, default=4)
    parser.add_argument('--prompts', type=int, default=200, help='for the IoU, over all images')
    parser.add_argument('--output', type=Path, help='file for the figures as JSON')
    options = parser.parse_args(words)
    console = Console(width=150)
    peers = dict.fromkeys(('here', *(options.peer or ('here_torch', 'sam2')), 'sam2'))
    images = photographs()
    with tempfile.TemporaryDirectory() as folder:
        os.environ['XDG_CACHE_HOME'] = folder
        if options.size == 'test':
            weights = make_tiny_sam2(Path(folder))
        else:
            weights = make_random_sam2(Path(folder), SIZES[options.size], options.device)
        ways: dict[str, Way] = {}
        # The first load of `here` fills its cache; the second is what a start takes.
        cold = load('here', weights, options.device, images[0]).seconds
        for name in peers:
            try:
                ways[name] = load(name, weights, options.device, images[0])
            except Exception as error:
                reason = str(error).strip().partition('\n')[0]
                console.print(f'{name} cannot be run here: {type(error).__name__}: {reason}')
        found = measure(ways, images, options.rounds, options.prompts, options.device)
    results: dict[str, Any] = {
        'processor': processor(),
        'threads': torch.get_num_threads(),
        'size': options.size,
        'device': options.device,
        'here_cold_load': cold,
        'ways': {name: summarise(way, found[name]) for name, way in ways.items()},
    }
    theirs = found['sam2']
    for name, row in results['ways'].items():
        # Of each round, so that a change of the machine's speed does not count.
        row['times_sam2'] = [
            statistics.median(b / a for a, b in zip(found[name][part], theirs[part], strict=True))
            for part in ('encode', 'prompt')
        ]
    show(results, console)
    console.print(f'here without its cache: {cold:.1f} s')
    if options.output:
        options.output.write_text(json.dumps(results, indent=2))


if __name__ == '__main__':
    main()
