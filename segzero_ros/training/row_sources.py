"""Sources of training rows: published sets, folders in their schema, generated scenes.

Rows are read or rendered on demand by their number, so that a resumed run continues with the next
row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
import json
from pathlib import Path
from typing import Any

from segzero_ros.evaluation.samples import DataError, decode_labelled_image, stated_size
from segzero_ros.extras import lacking
from segzero_ros.reasoning.dialects import Dialect, SQUARE
from segzero_ros.reasoning.preprocessing import resize_for_model
from segzero_ros.training.flat_shapes import flat_row
from segzero_ros.training.presets import Composition, TrainingError
from segzero_ros.training.rewards import answered_list
from segzero_ros.training.rows import COLUMNS, points_alone, Row, sft_answer_for, solution_for
from segzero_ros.types import RgbImage

# Seeds that neither the benchmark nor the training of the mini reasoner uses.
SCENES_SEED, UNSEEN_SEED = 3_000_000, 2_500_000
# Rendering is slower than a small model's answer, so several queries share a scene.
_PER_SCENE, _STRIDE = 4, 7919
_CACHED_SCENES = 512


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows by number.

    Attributes:
        name: for messages.
        count: number of rows.
        read: returns a row by its number.
    """

    name: str
    count: int
    read: Callable[[int], Row]


def open_rows(source: str, dialect: Dialect, count: int, seed: int = SCENES_SEED) -> Rows:
    """Open a source of rows.

    Args:
        source: `scenes`, or `scenes:SEED` for generated table-tops from a seed on; `shapes` for
            flat shapes on photographs; a folder or `.parquet` file in the published schema; or
            the name of such a set on the Hub.
        dialect: defines the image size and the form of solutions.
        count: number of rows to generate.
        seed: of the first scene, if the source has none.

    Raises:
        TrainingError: it does not exist, is empty, or has another schema.
    """
    name, _, first = source.partition(':')
    if name in _GENERATED:
        try:
            start = int(first) if first else seed
        except ValueError:
            raise TrainingError(f'{source!r}: SEED in {name}:SEED must be an integer.') from None
        return Rows(source, count, lambda number: _GENERATED[name](dialect, start, number))
    table = _table(source)
    missing = [column for column in COLUMNS[1:4] if column not in table.column_names]
    if missing:
        raise TrainingError(
            f'{source} has no column {" and no ".join(missing)}; training rows need '
            f'{", ".join(COLUMNS)}. "segzero annotate" makes them from replays and data sets.'
        )
    if not len(table):
        raise TrainingError(f'{source} has no rows.')
    # Files of other programs may lack the image type in their metadata.
    typed = table.cast_column('image', _datasets().Image(decode=False))

    def read(number: int) -> Row:
        return _table_row(dialect, typed[number], f'{source}, row {number}')

    return Rows(source, len(table), read)


def _table(source: str) -> Any:
    datasets = _datasets()
    path = Path(source).expanduser()
    files = _parquet_files(path)
    try:
        if (path / 'dataset_info.json').is_file():
            return datasets.load_from_disk(str(path))
        if files:
            return datasets.load_dataset('parquet', data_files=files, split='train')
        if source.count('/') == 1 and source[0] not in './~' and not path.exists():
            return datasets.load_dataset(source, split='train')
    except Exception as error:
        # The library raises errors of the Hub, of Arrow and of the network.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainingError(f'{source} cannot be read: {reason}') from error
    raise TrainingError(
        f'{source} is neither a folder or file with parquet nor a name on the Hub; generated '
        'scenes are "scenes", flat shapes "shapes".'
    )


def _parquet_files(path: Path) -> list[str]:
    if path.is_file() and path.suffix == '.parquet':
        return [str(path)]
    return sorted(map(str, path.rglob('*.parquet'))) if path.is_dir() else []


def _datasets() -> Any:
    try:
        import datasets  # type: ignore[import-untyped]
    except ImportError as error:
        raise missing_package(error) from error
    datasets.disable_progress_bars()
    return datasets


def missing_package(error: ImportError) -> TrainingError:
    """Return the error for a missing package of the extra `training`."""
    return TrainingError(f'{lacking("Training needs", error, "models", "data", "training")}.')


def _table_row(dialect: Dialect, found: dict[str, Any], where: str) -> Row:
    for name in ('problem', 'solution'):
        if found[name] in (None, ''):
            raise TrainingError(f'{where} has no {name}: add it, or remove the row.')
    image = _image(found, where)
    size = image.shape[1], image.shape[0]
    try:
        solution = solution_for(dialect, str(found['solution']), size)
        answer = sft_answer_for(dialect, str(found.get('answer') or ''), size)
    except TrainingError as error:
        raise TrainingError(f'{where}: {error}') from error
    return Row(resize_for_model(dialect, image), str(found['problem']), solution, answer)


def _image(found: dict[str, Any], where: str) -> RgbImage:
    """Return a row's image in the orientation of its labels.

    For the published square images, the size columns hold the original size; for other images, the
    size and orientation of the labels.
    """
    image = found['image'] or {}
    if not image.get('bytes') and not image.get('path'):
        raise TrainingError(f'{where}: the row has neither an image nor the path of one.')
    try:
        data = image.get('bytes') or Path(image['path']).read_bytes()
    except OSError as error:
        raise TrainingError(
            f'{where}: the image is not in the file, and {image["path"]!r} cannot be read '
            f'({error.strerror}).'
        ) from error
    try:
        image = decode_labelled_image(data, where)
        if image.shape[:2] == (SQUARE, SQUARE):
            return image
        return decode_labelled_image(data, where, stated_size(found, 'img_width', 'img_height'))
    except DataError as error:
        # It names the row itself.
        raise TrainingError(str(error)) from error
    except ValueError as error:
        raise TrainingError(f'{where}: {error}.') from error


def rewarded(rows: Rows, reward: Composition) -> Rows:
    """Return rows that a reward can teach; reading any other one raises TrainingError."""

    def read(number: int) -> Row:
        row = rows.read(number)
        if reward.wants_boxes and points_alone(row.solution):
            raise TrainingError(
                f'{rows.name}, row {number}: its objects are points without boxes, for which the '
                f'reward {reward.name} is the same whatever the answer is. Choose the reward '
                'robot, or add boxes.'
            )
        return row

    return replace(rows, read=read)


def _shapes_row(dialect: Dialect, start: int, number: int) -> Row:
    row = flat_row(dialect.square, start + number)
    return replace(row, image=resize_for_model(dialect, row.image))


def _scene_row(dialect: Dialect, start: int, number: int) -> Row:
    """Return a row about a scene, or about another one if it has no examples."""
    examples: Sequence[Any] = ()
    seed = start + number // _PER_SCENE
    while not examples:
        image, examples = _scene(dialect.square, seed)
        # A seed outside of all used ranges.
        seed += 10_000_000
    example = examples[number * _STRIDE % len(examples)]
    solution = json.dumps(answered_list(example.answer))
    return Row(resize_for_model(dialect, image), example.question, solution, example.answer)


_GENERATED = {'scenes': _scene_row, 'shapes': _shapes_row}


@lru_cache(maxsize=_CACHED_SCENES)
def _scene(side: int, seed: int) -> tuple[Any, Sequence[Any]]:
    from segzero_ros.training.mini.rendered_scenes import render_scene
    from segzero_ros.training.mini.sft_examples import examples_of

    image, scene = render_scene(seed, side)
    return image, examples_of(scene, side)


def for_trainer(
    rows: Rows, dialect: Dialect, make: Callable[[Row, Dialect], dict[str, Any]]
) -> Any:
    """Return rows as a `datasets` data set for the trainers; each row is made on demand.

    Args:
        rows: the rows.
        dialect: of the model.
        make: returns the columns of a row.
    """
    datasets = _datasets()

    def read(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        made = [make(rows.read(number), dialect) for number in batch['number']]
        return {key: [each[key] for each in made] for key in made[0]}

    return datasets.Dataset.from_dict({'number': range(rows.count)}).with_transform(read)
