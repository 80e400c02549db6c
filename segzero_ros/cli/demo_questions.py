"""The demo's questions, their expected statuses, and the IoU of the answers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from segzero_ros.simulation import make_scene, Scene
from segzero_ros.types import Box, Mask, Segment, Status


@dataclass(frozen=True)
class Question:
    """One question about one image.

    Attributes:
        source: the camera's parameter `source`.
        item: the camera's parameter `item`.
        text: the query.
        way: 'action', 'topic' or 'service'.
        status: the expected status.
        boxes: for photographs, a hand-drawn box (x1, y1, x2, y2) around each target; generated
            scenes have their own ground truth.
        on_overview: whether its overlay is on the overview page.
    """

    source: str
    item: str
    text: str
    way: str = 'action'
    status: Status = Status.OK
    boxes: tuple[Box, ...] = ()
    on_overview: bool = False

    @property
    def has_truth(self) -> bool:
        """Whether there is ground truth to compare the answer with."""
        return self.status is Status.OK and (self.source == 'scene' or bool(self.boxes))


# Chosen for illustration, some without a target; `benchmarks/` measures on hundreds of random
# scenes. The sentences about scenes are generated.
QUESTIONS = (
    Question('photograph', 'coffee', 'the red thing', boxes=((78, 18, 480, 387),)),
    Question(
        'photograph', 'coffee', 'the white thing', boxes=((173, 18, 410, 207),), on_overview=True
    ),
    Question(
        'photograph',
        'coffee',
        'something to drink from',
        'topic',
        Status.NOT_FOUND,
        on_overview=True,
    ),
    Question(
        'photograph', 'astronaut', 'the round purple patch', 'topic', boxes=((133, 348, 208, 423),)
    ),
    Question(
        'photograph',
        'astronaut',
        'the black thing at the bottom right',
        boxes=((278, 345, 512, 512),),
        on_overview=True,
    ),
    Question('photograph', 'chelsea', 'the orange spot', 'service', boxes=((232, 229, 292, 268),)),
    Question(
        'photograph',
        'stereo_motorcycle',
        'the largest red thing',
        boxes=((92, 100, 683, 452),),
        on_overview=True,
    ),
    Question('photograph', 'stereo_motorcycle', 'the blue cat', 'topic', Status.NOT_FOUND),
    Question('scene', 'scene_3', 'both mugs', 'topic'),
    Question('scene', 'scene_3', 'the fourth bowl from the right', on_overview=True),
    Question('scene', 'scene_3', 'please segment the bowl farthest from the camera', 'topic'),
    Question('scene', 'scene_4', 'Can you see the plate above the blue book?', on_overview=True),
    Question(
        'scene', 'scene_5', 'I need the second stick from the right', 'topic', Status.NOT_FOUND
    ),
    Question(
        'scene', 'scene_8', 'Can you see the teal block below the crimson box?', on_overview=True
    ),
    Question('scene', 'scene_9', 'point at the three tins', on_overview=True),
    Question('scene', 'scene_9', 'Can you see the flower?', 'topic', Status.NOT_FOUND),
    Question('scene', 'scene_11', 'both yellow plates', 'service'),
)


def iou(question: Question, segments: tuple[Segment, ...], size: tuple[int, int]) -> float:
    """Return the IoU of an answer with the ground truth.

    Args:
        question: one with ground truth.
        segments: the answer's objects.
        size: height and width of the image.

    Returns:
        Intersection over union of all pixels of the answer and of the truth: of masks for
        generated scenes, of the masks' tight boxes and the hand-drawn boxes for photographs.
    """
    if question.source == 'scene':
        truth = true_mask(question)
        found = _union([segment.full_mask(*size) for segment in segments], size)
    else:
        truth = _union([_box_mask(box, size) for box in question.boxes], size)
        boxes = [segment.mask_roi for segment in segments]
        found = _union(
            [_box_mask((r.x, r.y, r.x + r.width, r.y + r.height), size) for r in boxes], size
        )
    union = np.count_nonzero(truth | found)
    return float(np.count_nonzero(truth & found) / union) if union else 0.0


def true_mask(question: Question) -> Mask:
    """Return the (H, W) bool mask of the targets of a question about a generated scene."""
    scene = _scene(question.item)
    targets = next(s.targets for s in scene.sentences if s.text == question.text)
    return _union([scene.mask(index) for index in targets], scene.labels.shape)


@lru_cache(maxsize=2)
def _scene(item: str) -> Scene:
    return make_scene(int(item.removeprefix('scene_')))


def _union(masks: list[Mask], size: tuple[int, ...]) -> Mask:
    return np.logical_or.reduce(masks) if masks else np.zeros(size, np.bool_)


def _box_mask(box: Box, size: tuple[int, int]) -> Mask:
    x1, y1, x2, y2 = (round(value) for value in box)
    mask = np.zeros(size, np.bool_)
    mask[y1:y2, x1:x2] = True
    return mask
