"""Where training rows come from: the published sets, folders in their schema, generated scenes.

Rows are read or rendered only when they are needed, and by their number, so a run that goes on
after an interruption goes on with the very next row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
import json
from pathlib import Path
from typing import Any

from segzero_ros.evaluation.samples import DataError, decode_picture, stated_size
from segzero_ros.extras import lacking
from segzero_ros.reasoning.dialects import Dialect, SQUARE
from segzero_ros.reasoning.preprocessing import resize_for_model
from segzero_ros.training.flat_shapes import flat_row
from segzero_ros.training.presets import TrainingError
from segzero_ros.training.rewards import answered_list
from segzero_ros.training.rows import COLUMNS, Row, solution_for, taught_answer
from segzero_ros.types import RgbImage

# Scenes that neither the benchmark nor the warm start of the small reasoner has seen.
SCENES_SEED, UNSEEN_SEED = 3_000_000, 2_500_000
# Rendering takes longer than a small model takes to answer: several questions share a scene.
_PER_SCENE, _STRIDE = 4, 7919
_KEPT_SCENES = 512


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows by their number.

    Attributes:
        name: for messages.
        count: how many there are.
        read: gives a row by its number.
    """

    name: str
    count: int
    read: Callable[[int], Row]


def open_rows(source: str, dialect: Dialect, count: int, seed: int = SCENES_SEED) -> Rows:
    """Open what is learnt from.

    Args:
        source: `scenes`, or `scenes:SEED` for generated table-tops from a seed on; `shapes` for
            flat shapes on photographs; a folder or `.parquet` file in the published schema; or
            such a set's name on the hub.
        dialect: in whose square and form rows are given.
        count: how many rows are generated.
        seed: of the first scene where the source names none.

    Raises:
        TrainingError: there is none, it holds nothing, or it is of another schema.
    """
    name, _, first = source.partition(':')
    if name in _GENERATED:
        try:
            start = int(first) if first else seed
        except ValueError:
            raise TrainingError(f'{source!r}: {name}:SEED takes a whole number.') from None
        return Rows(source, count, lambda number: _GENERATED[name](dialect, start, number))
    table = _table(source)
    missing = [column for column in COLUMNS[1:4] if column not in table.column_names]
    if missing:
        raise TrainingError(
            f'{source} has no column {" and no ".join(missing)}; training rows have '
            f'{", ".join(COLUMNS)}. "segzero annotate" makes them from replays and data sets.'
        )
    if not len(table):
        raise TrainingError(f'{source} holds no rows.')
    # Files written by other programs hold encoded pictures without saying so.
    pictured = table.cast_column('image', _datasets().Image(decode=False))

    def read(number: int) -> Row:
        return _table_row(dialect, pictured[number], f'{source}, row {number}')

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
        # The library lets errors of the hub, of Arrow and of the network through.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainingError(f'{source} cannot be read: {reason}') from error
    raise TrainingError(
        f'{source} is no folder or file with parquet, and no name on the hub; generated scenes '
        'are "scenes", flat shapes "shapes".'
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
    """Return the error for a package of the extra `training` that is not installed."""
    return TrainingError(f'{lacking("Training needs", error, "models", "data", "training")}.')


def _table_row(dialect: Dialect, found: dict[str, Any], where: str) -> Row:
    for name in ('problem', 'solution'):
        if found[name] in (None, ''):
            raise TrainingError(f'{where} has no {name}: write it, or take the row out.')
    picture = _picture(found, where)
    size = picture.shape[1], picture.shape[0]
    try:
        solution = solution_for(dialect, str(found['solution']), size)
        answer = taught_answer(dialect, str(found.get('answer') or ''), size)
    except TrainingError as error:
        raise TrainingError(f'{where}: {error}') from error
    return Row(resize_for_model(dialect, picture), str(found['problem']), solution, answer)


def _picture(found: dict[str, Any], where: str) -> RgbImage:
    """Return a row's picture in the orientation of its labels.

    Published pictures are squares, and the columns of the size tell what they were before; of any
    other picture the columns say in which size and orientation it was labelled.
    """
    image = found['image'] or {}
    if not image.get('bytes') and not image.get('path'):
        raise TrainingError(f'{where}: the picture is not in the file, nor the path of one.')
    try:
        data = image.get('bytes') or Path(image['path']).read_bytes()
    except OSError as error:
        raise TrainingError(
            f'{where}: the picture is not in the file, and {image["path"]!r} cannot be read '
            f'({error.strerror}).'
        ) from error
    try:
        picture = decode_picture(data, where)
        if picture.shape[:2] == (SQUARE, SQUARE):
            return picture
        return decode_picture(data, where, stated_size(found, 'img_width', 'img_height'))
    except DataError as error:
        # It names the row itself.
        raise TrainingError(str(error)) from error
    except ValueError as error:
        raise TrainingError(f'{where}: {error}.') from error


def _shapes_row(dialect: Dialect, start: int, number: int) -> Row:
    row = flat_row(dialect.square, start + number)
    return replace(row, image=resize_for_model(dialect, row.image))


def _scene_row(dialect: Dialect, start: int, number: int) -> Row:
    """Return a row about a scene, or about one far off where nothing can be asked."""
    examples: Sequence[Any] = ()
    seed = start + number // _PER_SCENE
    while not examples:
        image, examples = _scene(dialect.square, seed)
        # A seed far from all others.
        seed += 10_000_000
    example = examples[number * _STRIDE % len(examples)]
    solution = json.dumps(answered_list(example.answer))
    return Row(resize_for_model(dialect, image), example.question, solution, example.answer)


_GENERATED = {'scenes': _scene_row, 'shapes': _shapes_row}


@lru_cache(maxsize=_KEPT_SCENES)
def _scene(side: int, seed: int) -> tuple[Any, Sequence[Any]]:
    from segzero_ros.training.mini.rendered_scenes import render_scene
    from segzero_ros.training.mini.sft_examples import examples_of

    image, kept = render_scene(seed, side)
    return image, examples_of(kept, side)


def for_trainer(
    rows: Rows, dialect: Dialect, make: Callable[[Row, Dialect], dict[str, Any]]
) -> Any:
    """Return rows as a dataset of the library that the trainers take; each is made when read."""
    datasets = _datasets()

    def read(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        made = [make(rows.read(number), dialect) for number in batch['number']]
        return {key: [each[key] for each in made] for key in made[0]}

    return datasets.Dataset.from_dict({'number': range(rows.count)}).with_transform(read)
