"""The table-top benchmark: sentences about generated scenes, from published seeds.

gIoU: mean IoU of the union of the predicted masks with the union of the true ones, over sentences
with a target. Wrong object: fraction of those sentences whose predicted objects differ from the
targets; a mask belongs to the instance that it overlaps most. Missed: fraction of them answered
NOT_FOUND. Not found: fraction of the sentences without a target that are answered NOT_FOUND.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from segzero_ros.evaluation.metrics import bootstrap, CONVENTIONS, score
from segzero_ros.evaluation.records import SampleRecord
from segzero_ros.evaluation.samples import Sample
from segzero_ros.simulation.affordances import affordance_sentences, KIND
from segzero_ros.simulation.scenes import make_scene, Scene, Sentence
from segzero_ros.simulation.sentences import KINDS
from segzero_ros.types import Status

# First seed and number of scenes of the published figures.
SEED, SCENES = 100000, 300
_KINDS = (*KINDS, KIND)


@dataclass(frozen=True)
class Tabletop:
    """Samples of consecutive seeds, with a fixed number of indices per scene.

    Attributes:
        scenes: number of scenes.
        seed: of the first scene.
        per_kind: maximum number of sentences of each kind per scene.
        depth: whether samples have depth.
        uses: whether to include sentences about affordances.
    """

    scenes: int = SCENES
    seed: int = SEED
    per_kind: int = 1
    depth: bool = True
    uses: bool = True

    @property
    def name(self) -> str:
        """Return a name with all settings that determine the samples."""
        last = self.seed + self.scenes - 1
        camera = 'with depth' if self.depth else 'colour only'
        uses = '' if self.uses else ', without uses'
        return f'tabletop {self.seed}-{last}, {self.per_kind} per kind, {camera}{uses}'

    def __len__(self) -> int:
        return self.scenes * self._slots

    @property
    def _slots(self) -> int:
        return len(_KINDS) * self.per_kind

    def read(self, indices: range) -> Iterator[tuple[int, Sample]]:
        """Yield the samples of ascending indices; a missing sentence leaves a gap."""
        if not indices:
            return
        for number in range(indices[0] // self._slots, indices[-1] // self._slots + 1):
            scene = make_scene(self.seed + number)
            for slot, sentence in self._by_slot(scene):
                index = number * self._slots + slot
                if index in indices:
                    yield index, self._sample(scene, sentence)

    def _by_slot(self, scene: Scene) -> list[tuple[int, Sentence]]:
        counts: dict[str, int] = {}
        found = []
        uses = affordance_sentences(scene, self.per_kind) if self.uses else []
        for sentence in (*scene.sentences, *uses):
            number = counts.get(sentence.kind, 0)
            counts[sentence.kind] = number + 1
            if number < self.per_kind:
                found.append((_KINDS.index(sentence.kind) * self.per_kind + number, sentence))
        return sorted(found, key=lambda pair: pair[0])

    def _sample(self, scene: Scene, sentence: Sentence) -> Sample:
        targets = tuple(scene.objects[index].id for index in sentence.targets)
        return Sample(
            image=scene.frame.image,
            text=sentence.text,
            mask=np.isin(scene.labels, targets),
            boxes=tuple(scene.objects[index].box for index in sentence.targets),
            count=len(targets),
            image_id=str(scene.seed),
            ann_id=f'{scene.seed} {sentence.text}',
            group=(f'kind: {sentence.kind}', f'difficulty: {sentence.difficulty}'),
            labels=scene.labels,
            targets=targets,
            depth=scene.frame.depth if self.depth else None,
            intrinsics=scene.frame.intrinsics,
        )


def summarise(rows: Sequence[SampleRecord]) -> dict[str, float]:
    """Return the figures of some answers; NaN for an empty mean.

    `_low` and `_high` are the limits of 95 % bootstrap intervals.
    """
    with_target = [row for row in rows if row.item.wrong_object is not None]
    without_target = [row for row in rows if row.item.wrong_object is None]
    ious = [
        one.iou for one in score([row.item for row in with_target], CONVENTIONS['vision_reasoner'])
    ]
    wrong = [float(bool(row.item.wrong_object)) for row in with_target]
    times = [1000 * row.seconds['total'] for row in rows]
    p50, p95 = np.percentile(times, (50, 95)) if times else (float('nan'),) * 2
    giou_low, giou_high = bootstrap(ious)
    wrong_low, wrong_high = bootstrap(wrong)
    return {
        'sentences': len(rows),
        'giou': _mean(ious),
        'giou_low': giou_low,
        'giou_high': giou_high,
        'wrong_object': _mean(wrong),
        'wrong_object_low': wrong_low,
        'wrong_object_high': wrong_high,
        'missed': _mean([row.status is Status.NOT_FOUND for row in with_target]),
        'not_found': _mean([row.status is Status.NOT_FOUND for row in without_target]),
        'p50_ms': float(p50),
        'p95_ms': float(p95),
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float('nan')


def report(rows: Sequence[SampleRecord]) -> dict[str, dict[str, float]]:
    """Return the figures over all answers, per kind and per difficulty."""
    figures = {'all': summarise(rows)}
    for level in (0, 1):
        for name in dict.fromkeys(row.group[level] for row in rows):
            figures[name] = summarise([row for row in rows if row.group[level] == name])
    return figures
