"""An answer while it is generated token by token: its text, cancellation and time limit."""

from __future__ import annotations

import time

from segzero_ros.reasoning.answers import StreamReporter
from segzero_ros.reasoning.base import IsCancelled
from segzero_ros.reasoning.detokenizer import Detokenizer
from segzero_ros.types import Cancelled, Grounding, MalformedAnswer, ReasonerTimeout


class PartialAnswer:
    """One answer while it is generated."""

    def __init__(
        self,
        reporter: StreamReporter,
        text: Detokenizer,
        cancelled: IsCancelled,
        time_limit: float,
    ) -> None:
        self._reporter = reporter
        self._text = text
        self._cancelled = cancelled
        self._time_limit = time_limit
        self._started = time.monotonic()
        self.tokens: list[int] = []

    @property
    def count(self) -> int:
        """The number of tokens so far."""
        return len(self.tokens)

    def take(self, token: int, end_tokens: frozenset[int]) -> bool:
        """Add the next token; return whether the answer is complete.

        Args:
            token: its id.
            end_tokens: ids that end an answer.
        """
        self.tokens.append(token)
        if token in end_tokens:
            return True
        self._reporter.feed(self._text.add(token))
        self.check()
        return self._reporter.complete

    def check(self) -> None:
        """Raise Cancelled, or ReasonerTimeout after the time limit."""
        if self._cancelled():
            raise Cancelled(self._reporter.text)
        if 0 < self._time_limit < time.monotonic() - self._started:
            raise ReasonerTimeout(
                f'The answer took longer than its {self._time_limit:g} s; {self.count} tokens '
                'were written. Raise limits.answer_time, lower reasoner.max_new_tokens, or use a '
                'faster model.',
                self._reporter.text,
            )

    def finish(self, max_tokens: int) -> Grounding:
        """Return the result of the whole text.

        Args:
            max_tokens: that the answer was allowed; the error of one that has as many names it.

        Raises:
            MalformedAnswer: it cannot be parsed.
        """
        self._reporter.feed(self._text.rest())
        try:
            return self._reporter.finish(self.count)
        except MalformedAnswer as error:
            if self.count < max_tokens:
                raise
            raise MalformedAnswer(
                f'{error.reason}; it was cut off at max_new_tokens={self.count}',
                error.raw_answer,
            ) from None
