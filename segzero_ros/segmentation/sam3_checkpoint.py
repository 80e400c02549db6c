"""Find a SAM 3 checkpoint, and load transformers' networks from it.

A published checkpoint holds one model for videos. transformers' classes for images each take their
own part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

import torch
import transformers

from segzero_ros import hub
from segzero_ros.extras import install_command
from segzero_ros.types import SegmenterUnavailable

PUBLISHED = 'facebook/sam3'
# Classes that take boxes and points, and those that take a phrase.
PROMPT_CLASSES = ('Sam3TrackerModel', 'Sam3TrackerProcessor')
PHRASE_CLASSES = ('Sam3Model', 'Sam3Processor')
# Model types that `Sam3TrackerModel` reads, and those that `Sam3Model` reads.
PROMPT_TYPES = ('sam3_video', 'sam3_tracker', 'sam3_tracker_video')
PHRASE_TYPES = ('sam3_video', 'sam3')
# The files to download: not the same weights again in the layout of Meta's package.
_PATTERNS = ('*.json', '*.safetensors', '*.txt')
_CONFIG = 'config.json'
_PROCESSORS = ('processor_config.json', 'preprocessor_config.json')
# Bytes of the published weights in float32, and a rough estimate for an image's activations.
_WEIGHT_BYTES = int(3.5e9)
_IMAGE_BYTES = 2 * 2**30
# transformers 5.23 saves a `Sam3VideoModel` that was built, and not loaded, with the tracker's
# prefix doubled, and `Sam3TrackerModel` would start from random weights.
_KEY_MAPPING = {r'^tracker_model\.tracker_model\.': 'tracker_model.'}
_ASK_FOR_ACCESS = (
    f'Its weights are given out on request: ask for access on https://huggingface.co/{PUBLISHED} '
    'and log in with hf auth login, or give the folder of a copy.'
)


@dataclass(frozen=True)
class Sam3Checkpoint:
    """A checkpoint on this machine.

    Attributes:
        name: hub name or folder name.
        folder: its path.
    """

    name: str
    folder: Path

    def network(self, kind: str) -> Any:
        """Load the part of the weights that a class of transformers takes, in float32 on the CPU.

        Args:
            kind: the name of the class.

        Returns:
            It in evaluation mode.

        Raises:
            SegmenterUnavailable: a file is corrupt, or weights are missing.
        """
        # With the whole model's configuration: each class takes its part of that, too.
        model, loading = self._load(
            kind,
            config=self._load('AutoConfig'),
            dtype=torch.float32,
            output_loading_info=True,
            use_safetensors=True,
            key_mapping=_KEY_MAPPING,
        )
        missing = sorted(loading['missing_keys'])
        if missing:
            raise SegmenterUnavailable(
                f'{self.folder} lacks {len(missing)} tensors of {kind} (first: {missing[0]}): it '
                'is another model, or incomplete. Download it again.'
            )
        return model.eval()

    def processor(self, kind: str) -> Any:
        """Load a processor; raise SegmenterUnavailable if a file is missing or corrupt."""
        return self._load(kind)

    def _load(self, kind: str, **settings: Any) -> Any:
        load = getattr(transformers, kind).from_pretrained
        try:
            return load(self.folder, local_files_only=True, **settings)
        except Exception as error:
            # Errors of several libraries: safetensors, huggingface_hub, tokenizers, torch.
            cause = str(error).strip().partition('\n')[0]
            raise SegmenterUnavailable(
                f'{self.folder} cannot be read as {kind}: a file is missing, truncated or of '
                f'another model. Download it again. ({type(error).__name__}: {cause})'
            ) from error


def find_checkpoint(model: str, offline: bool = False, *, phrases: bool = False) -> Sam3Checkpoint:
    """Find a checkpoint, downloading it if necessary.

    Args:
        model: a folder in transformers' layout, or a hub name.
        offline: do not access the hub.
        phrases: whether it must take phrases, too.

    Returns:
        Its folder.

    Raises:
        SegmenterUnavailable: it does not exist, is no SAM 3, or the installed transformers has
            none.
    """
    _check_classes((*PROMPT_CLASSES, *PHRASE_CLASSES) if phrases else PROMPT_CLASSES)
    path = Path(model).expanduser()
    if path.is_dir():
        found = Sam3Checkpoint(path.resolve().name, path)
    elif path.exists() or path.is_absolute() or model.startswith(('.', '~')):
        raise SegmenterUnavailable(
            f'{path} is not the folder of a SAM 3 checkpoint: give the folder with its '
            f'{_CONFIG} and model.safetensors, or {PUBLISHED}.'
        )
    else:
        found = Sam3Checkpoint(model, _in_cache(model, offline))
    _check_type(found, PROMPT_TYPES)
    if phrases:
        _check_type(found, PHRASE_TYPES)
    return found


def bytes_needed(model: str) -> int:
    """Return the estimated memory of a checkpoint in bytes.

    Args:
        model: as in `find_checkpoint`; one on the hub need not be downloaded.
    """
    path = Path(model).expanduser()
    if not path.is_dir():
        return _WEIGHT_BYTES + _IMAGE_BYTES
    return sum(file.stat().st_size for file in path.glob('*.safetensors')) + _IMAGE_BYTES


def _check_classes(names: tuple[str, ...]) -> None:
    missing = [name for name in names if not hasattr(transformers, name)]
    if missing:
        raise SegmenterUnavailable(
            f'transformers {transformers.__version__} has no {missing[0]}, which SAM 3 needs: '
            f'{install_command("models")} installs a newer one, or take the segmenter sam2.'
        )


def _check_type(checkpoint: Sam3Checkpoint, types: tuple[str, ...]) -> None:
    """Raise SegmenterUnavailable if the folder does not hold one of these model types."""
    for names in ((_CONFIG,), _PROCESSORS):
        if not any((checkpoint.folder / name).is_file() for name in names):
            raise SegmenterUnavailable(
                f'{checkpoint.folder} is no SAM 3 checkpoint: it has no {names[0]}. Give the '
                f"folder of one in transformers' layout, or {PUBLISHED}."
            )
    try:
        config = json.loads((checkpoint.folder / _CONFIG).read_text(encoding='utf-8'))
        kind = config['model_type']
    except (ValueError, KeyError, TypeError) as error:
        raise SegmenterUnavailable(
            f'{checkpoint.folder / _CONFIG} cannot be read: it is truncated or not a '
            f"checkpoint's. Download it again. ({type(error).__name__}: {error})"
        ) from error
    if kind not in types:
        raise SegmenterUnavailable(
            f'The checkpoint in {checkpoint.folder} is a {kind!r}, and not a SAM 3 '
            f'({", ".join(types)}): set segmenter.model to one, such as {PUBLISHED}.'
        )


def _in_cache(model: str, offline: bool) -> Path:
    """Return a checkpoint's folder in the hub's cache, downloading it if necessary."""
    if model.startswith(('facebook/sam2', 'facebook/sam-')):
        raise SegmenterUnavailable(
            f'{model} is no checkpoint of SAM 3: set segmenter.model to {PUBLISHED} or to the '
            'folder of a SAM 3 checkpoint, or take the segmenter sam2.'
        )
    try:
        folder = hub.cached(model, _PATTERNS)
    except hub.NoSuchName as error:
        raise SegmenterUnavailable(
            f'{model!r} is neither a folder here nor a name on the hub, such as {PUBLISHED}.'
        ) from error
    # An interrupted download leaves an incomplete folder.
    if folder and any(folder.glob('*.safetensors')) and (folder / _CONFIG).is_file():
        return folder
    if offline:
        raise SegmenterUnavailable(
            f'{model} is not on this machine, and `offline` is set. Download it once with network '
            f'(`hf download {model}`), copy its folder here and give its path, or unset '
            f'`offline`. {_ASK_FOR_ACCESS if model == PUBLISHED else ""}'.strip()
        )
    try:
        return hub.fetch(model, _PATTERNS)
    except hub.DiskFull as error:
        raise SegmenterUnavailable(str(error)) from error
    except hub.Gated as error:
        raise SegmenterUnavailable(
            f'{model} cannot be downloaded without access. {_ASK_FOR_ACCESS}'
            if model == PUBLISHED
            else str(error)
        ) from error
    except hub.DownloadError as error:
        raise SegmenterUnavailable(f'{error} Or give the folder of a copy.') from error
