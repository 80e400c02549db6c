"""The reasoner for small models on the CPU, without torch and transformers."""

from __future__ import annotations

from collections.abc import Iterator
import logging
from typing import cast, Protocol

import numpy as np
from threadpoolctl import ThreadpoolController

from segzero_ros.reasoning import checkpoints
from segzero_ros.reasoning.answers import AnswerParser, StreamReporter
from segzero_ros.reasoning.base import ignore, IsCancelled, never, OnObject, OnText
from segzero_ros.reasoning.detokenizer import Detokenizer
from segzero_ros.reasoning.dialects import Dialect, DIALECTS
from segzero_ros.reasoning.dialects.fitting import warn_of_other_name
from segzero_ros.reasoning.partial_answer import PartialAnswer
from segzero_ros.reasoning.preprocessing import resize_for_model
from segzero_ros.reasoning.small_model.checkpoint import (
    end_tokens,
    ImageSettings,
    read_weights,
    refuse_unsuited,
    SmallTokenizer,
    Unsuited,
)
from segzero_ros.reasoning.small_model.network import Array, LanguageModel, Prompt, VisionTower
from segzero_ros.types import Frame, Grounding, Query, ReasonerUnavailable, Task

_logger = logging.getLogger(__name__)


class Options(Protocol):
    """The options that matter here; see `loading.ReasonerOptions`."""

    @property
    def model(self) -> str:
        """Name or folder."""

    @property
    def dialect(self) -> str:
        """Name of the dialect."""

    @property
    def answer_parser(self) -> str:
        """`repair` or `strict`."""

    @property
    def max_new_tokens(self) -> int:
        """Most tokens of an answer."""

    @property
    def time_limit(self) -> float:
        """Most seconds of an answer; 0 for no limit."""


def load_small_model(options: Options) -> SmallModelReasoner | None:
    """Load a model if it is one that NumPy computes; None if transformers has to.

    Raises:
        ReasonerUnavailable: the checkpoint is not there or damaged.
    """
    dialect = DIALECTS.get(options.dialect)
    if dialect is None or not dialect.position_code_cell:
        return None
    folder = checkpoints.local_folder(options.model, dialect.recipe)
    if folder is None:
        return None
    checkpoint = checkpoints.open_checkpoint(folder, dialect)
    try:
        reasoner = SmallModelReasoner(options, checkpoint, dialect)
    except (Unsuited, KeyError) as error:
        why = error if isinstance(error, Unsuited) else f'it lacks {error}'
        _logger.info('%s is computed by transformers: %s', options.model, why)
        return None
    warn_of_other_name(options.model, dialect)
    return reasoner


class SmallModelReasoner:
    """A Qwen2.5-VL of a few million parameters that sees small square images.

    Args:
        options: the model and its options.
        checkpoint: the model's files.
        dialect: of the checkpoint, with square images.

    Raises:
        Unsuited: the checkpoint has something that is not computed here.
        KeyError: a weight or a setting is missing.
    """

    # It is small, but it does compute on the CPU.
    leaves_processors_free = False
    reads_marks = False

    def __init__(
        self, options: Options, checkpoint: checkpoints.Checkpoint, dialect: Dialect
    ) -> None:
        try:
            dialect.reader(1, 1, cast(AnswerParser, options.answer_parser))
        except ValueError as error:
            raise ReasonerUnavailable(str(error)) from error
        refuse_unsuited(checkpoint, dialect.square)
        vision = checkpoint.config['vision_config']
        self._options = options
        self._dialect = dialect
        self._grid = dialect.square // int(vision['patch_size'])
        self._settings = ImageSettings(checkpoint.folder, int(vision['patch_size']))
        self._tokenizer = SmallTokenizer(checkpoint.folder)
        self._end_tokens = end_tokens(checkpoint, self._tokenizer)
        self._image_token = int(checkpoint.config['image_token_id'])
        weights = read_weights(checkpoint.folder)
        self._tower: VisionTower | None = VisionTower(vision, weights('visual.'))
        language = weights('model.') | {'lm_head.weight': weights('')['lm_head.weight']}
        self._language = LanguageModel(checkpoint.text_config, language)
        self._seen: tuple[Frame, Array] | None = None
        self._threads = ThreadpoolController()
        self._try_out()

    @property
    def name(self) -> str:
        """The model."""
        return self._options.model

    def reason(
        self,
        frame: Frame,
        query: Query,
        on_text: OnText = ignore,
        cancelled: IsCancelled = never,
        on_object: OnObject = ignore,
    ) -> Grounding:
        """Find the queried objects; see `base.Reasoner`."""
        if self._tower is None:
            raise ReasonerUnavailable('The reasoner was closed.')
        dialect = self._dialect.for_task(query.task or Task.SEGMENT)
        parser = cast(AnswerParser, self._options.answer_parser)
        reader = dialect.reader(frame.width, frame.height, parser, query.text)
        answer = PartialAnswer(
            StreamReporter(reader, on_text, on_object),
            Detokenizer(self._tokenizer),
            cancelled,
            self._options.time_limit,
        )
        answer.check()
        # Matrices this small are faster in one thread, and far faster on a busy machine.
        with self._threads.limit(limits=1, user_api='blas'):
            for token in self._tokens(answer, frame, query):
                if answer.take(token, self._end_tokens):
                    break
        return answer.finish(self._options.max_new_tokens)

    def close(self) -> None:
        """Free the model's memory; the reasoner is not used again."""
        self._tower = self._seen = None
        del self._language

    def _try_out(self) -> None:
        """Compute one token: what is missing or of another shape fails now, not in a query."""
        before, after = self._ids(Query('the red cup'))
        side = self._dialect.square
        assert self._tower is not None
        try:
            with self._threads.limit(limits=1, user_api='blas'):
                features = self._tower.encode(np.zeros((side, side, 3), np.float32), _go_on)
                self._language.read(Prompt(before, features, after, self._grid), 1, _go_on)
        except (ValueError, IndexError) as error:
            raise Unsuited(f'its weights do not fit: {error}') from error

    def _tokens(self, answer: PartialAnswer, frame: Frame, query: Query) -> Iterator[int]:
        """Yield the most probable tokens, as many as the answer may have."""
        limit = self._options.max_new_tokens
        prompt = self._prompt(frame, query, answer)
        token = self._language.read(prompt, limit, answer.check)
        yield token
        for _ in range(1, limit):
            token = self._language.write(token, answer.check)
            yield token

    def _prompt(self, frame: Frame, query: Query, answer: PartialAnswer) -> Prompt:
        before, after = self._ids(query)
        if self._seen is None or self._seen[0] is not frame:
            assert self._tower is not None
            pixels = self._settings.normalised(resize_for_model(self._dialect, frame.image))
            self._seen = frame, self._tower.encode(pixels, answer.check)
        return Prompt(before, self._seen[1], after, self._grid)

    def _ids(self, query: Query) -> tuple[list[int], list[int]]:
        """Return the ids of a query's tokens before and after the image."""
        dialect = self._dialect.for_task(query.task or Task.SEGMENT)
        prompt = dialect.prompt(query.text, self._tokenizer.control_tokens)
        ids = self._tokenizer.encode(self._tokenizer.chat(prompt))
        if ids.count(self._image_token) != 1:
            raise Unsuited('its chat template does not make one image of a query')
        place = ids.index(self._image_token)
        return ids[:place], ids[place + 1 :]


def _go_on() -> None:
    """Never stop."""
