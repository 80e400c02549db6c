"""The embedded default: answers from colours, shapes, sizes and places, without a model."""

from __future__ import annotations

import json

from segzero_ros.reasoning.attributes.language import read
from segzero_ros.reasoning.attributes.matching import answer
from segzero_ros.reasoning.attributes.regions import look, View
from segzero_ros.reasoning.base import ignore, IsCancelled, never, OnObject, OnText
from segzero_ros.types import Cancelled, Frame, GroundedObject, Grounding, Query


class AttributeReasoner:
    def __init__(self) -> None:
        self._seen: tuple[Frame, View] | None = None

    @property
    def name(self) -> str:
        return 'attributes'

    def close(self) -> None:
        self._seen = None

    def reason(self, frame: Frame, query: Query, on_text: OnText = ignore,
               cancelled: IsCancelled = never, on_object: OnObject = ignore) -> Grounding:
        def check() -> None:
            if cancelled():
                raise Cancelled()
        request = read(query.text)
        if request.unknown or request.problem:
            return Grounding('', (), note=str(request.unknown) + request.problem)
        view = look(frame, check)
        matches = answer(view, request)
        objects = []
        for m in matches:
            for r in m.chosen:
                o = GroundedObject(r.box, (r.point,), m.phrase.noun)
                objects.append(o); on_object(o)
        return Grounding('', tuple(objects), json.dumps([]), note='; '.join(m.problem for m in matches))
