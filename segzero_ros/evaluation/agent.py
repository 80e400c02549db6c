"""Search with SAM 3 and a reasoner in turns (`segzero evaluate --agent`).

The reasoner proposes a noun phrase, SAM 3 marks what the phrase names, and the reasoner looks at
the numbered masks and accepts some or none of them. That takes several answers for each query, so
robots do not have it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import replace
import re
import time
from typing import Any, TypeVar

from segzero_ros.loading import ReasonerOptions, SAM3, SegmenterOptions
from segzero_ros.overlay import draw_numbered_masks
from segzero_ros.pipeline import CANCEL_POLL, Pipeline
from segzero_ros.reasoning.base import ignore, IsCancelled, never, OnObject, OnText
from segzero_ros.reasoning.dialects import DIALECTS
from segzero_ros.segmentation.base import PhraseFinder
from segzero_ros.segmented_mask import SegmentedMask
from segzero_ros.segments import clip_box
from segzero_ros.types import (
    Cancelled,
    Frame,
    GroundedObject,
    Grounding,
    MalformedAnswer,
    Query,
    ReasonerTimeout,
    SegZeroError,
    Task,
    UnsupportedTask,
)

# Proposed phrases for a query; a reply that cannot be read counts as one.
MAX_ROUNDS = 4
# Masks with a number, the best first: SAM 3 may find two hundred objects.
MAX_MARKS = 99
TASKS = (Task.SEGMENT, Task.DETECT, Task.COUNT)
_TASK_NAMES = tuple(task.name.lower() for task in TASKS)

PROPOSE = """\
Someone asks for this in the image: "{query}"
A segmentation tool marks everything that a simple noun phrase names. Choose its phrase: one to \
four words for what is meant, in the singular, without article, number or relation to other things.
{history}Reply with one line only:
phrase: red mug
if the phrase were red mug, or
report none
if the image has nothing that is meant."""
HISTORY = """\
These phrases were tried, so choose another one:
{tried}
"""
EXAMINE = """\
Someone asks for this in the image: "{query}"
A segmentation tool marked what it takes for "{phrase}": each mask is outlined and has a number, \
from 1 to {count}. Look at each of them, and decide which ones are meant.
Reply with one line only:
accept: 1, 3
with the numbers of all masks that are meant, or
reject
if none of them is meant."""
AGAIN = """\
Your last reply could not be read: {reason}. Reply in the form that is asked for.
{question}"""

_PHRASE = re.compile(r'phrase:\s*(\S.*)', re.IGNORECASE)
_REPORT_NONE = re.compile(r'report none\.?', re.IGNORECASE)
_ACCEPT = re.compile(r'accept:\s*(\d+(?:\s*,\s*\d+)*)\.?', re.IGNORECASE | re.ASCII)
_REJECT = re.compile(r'reject\.?', re.IGNORECASE)
# What may stand around a phrase.
_AROUND = '. "\'`\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}'
_ARTICLE = re.compile(r'^(?:the|an?)\s+', re.IGNORECASE)

T = TypeVar('T')


class AgentError(SegZeroError):
    """The models cannot search; the message says which can."""


class UnreadableReply(Exception):
    """A reply is not in the form that was asked for; the text gives the reason."""


def check_models(reasoner: ReasonerOptions, segmenter: SegmenterOptions, task: str = '') -> None:
    """Check, before anything is loaded, that the models can search.

    Args:
        reasoner: options of the reasoner.
        segmenter: options of the segmenter.
        task: name of the task of all queries; empty: what the data set asks for.

    Raises:
        AgentError: the models or the task do not fit.
    """
    if segmenter.backend not in SAM3:
        raise AgentError(
            f'--agent needs the segmenter sam3, which finds what a phrase names, and not '
            f'{segmenter.backend}: add -p segmenter.backend:=sam3 '
            '-p segmenter.model:=facebook/sam3.'
        )
    able = [name for name, dialect in DIALECTS.items() if Task.ANSWER in dialect.tasks]
    # An unknown dialect gets its error when the reasoner is loaded.
    wordless = reasoner.dialect in DIALECTS and reasoner.dialect not in able
    if reasoner.backend == 'attributes' or wordless:
        own = reasoner.backend == 'attributes'
        which = 'reasoner attributes' if own else f'dialect {reasoner.dialect}'
        raise AgentError(
            f'--agent needs a reasoner that answers in words, and the {which} does not: take '
            f'--profile robot or remote and a dialect among {", ".join(able)}.'
        )
    if task and task not in _TASK_NAMES:
        raise AgentError(f'--agent cannot do --task {task}; it can do {", ".join(_TASK_NAMES)}.')


def add_agent(pipeline: Pipeline) -> None:
    """Make a pipeline search, for every query.

    Args:
        pipeline: with a reasoner that answers in words, and with SAM 3 as its phrase finder.
    """
    finder = pipeline.phrase_finder
    assert finder is not None and pipeline.reasoner.reads_marks
    # Also plain noun phrases are the agent's.
    pipeline.phrase_finder = None
    pipeline.reasoner = SearchAgent(pipeline, finder)


class SearchAgent:
    """A reasoner that asks a pipeline's reasoner for phrases and shows it what SAM 3 finds."""

    reads_marks = False

    def __init__(self, pipeline: Pipeline, finder: PhraseFinder[Any]) -> None:
        """Take over a pipeline's reasoner.

        Args:
            pipeline: its reasoner answers in words, its time limit is that of a whole search, and
                its encoding of the frame is used.
            finder: its segmenter, which finds what a phrase names.
        """
        self.asked = pipeline.reasoner
        self.pipeline = pipeline
        self.finder = finder

    @property
    def name(self) -> str:
        """The reasoner's name."""
        return f'{self.asked.name}, searching with SAM 3'

    @property
    def leaves_processors_free(self) -> bool:
        """Whether the reasoner does."""
        return self.asked.leaves_processors_free

    def reason(
        self,
        frame: Frame,
        query: Query,
        on_text: OnText = ignore,
        cancelled: IsCancelled = never,
        on_object: OnObject = ignore,
    ) -> Grounding:
        """Search for what a query means; see `Reasoner.reason`.

        Raises:
            MalformedAnswer: two replies in succession, or one in the last round, cannot be read.
        """
        task = query.task or Task.SEGMENT
        if task not in TASKS:
            raise UnsupportedTask(
                f'The search agent cannot do the task {task.name.lower()!r}; it can do '
                f'{", ".join(_TASK_NAMES)}.'
            )
        found = _Search(self, frame, query, on_text, cancelled).run()
        for each in found.objects:
            on_object(each)
        return found

    def close(self) -> None:
        """Free the reasoner's memory."""
        self.asked.close()


class _Search:
    """The search for one query."""

    def __init__(
        self,
        agent: SearchAgent,
        frame: Frame,
        query: Query,
        on_text: OnText,
        cancelled: IsCancelled,
    ) -> None:
        self._agent = agent
        self._frame = frame
        self._query = query
        self._on_text = on_text
        self._cancelled = cancelled
        self._limit = agent.pipeline.time_limit
        self._deadline = time.monotonic() + (self._limit or float('inf'))
        self._rounds = 0
        self._tokens = 0
        self._reasoning: list[str] = []
        # All questions and replies.
        self._exchange: list[str] = []
        # What was tried, as the reasoner is told it, and the phrases in lower case.
        self._tried: list[str] = []
        self._phrases: set[str] = set()

    def run(self) -> Grounding:
        """Search until the reasoner accepts masks, reports none or has used up its rounds."""
        while self._rounds < MAX_ROUNDS:
            self._rounds += 1
            phrase = self._propose()
            if not phrase:
                return self._result((), 'The reasoner reports that nothing matches the query.')
            objects = self._try(phrase)
            if objects:
                return self._result(objects, '')
        return self._result((), f'The reasoner accepted no mask in {MAX_ROUNDS} rounds.')

    def _propose(self) -> str:
        """Return the next phrase; empty if the reasoner reports that there is nothing."""
        tried = '\n'.join(f'- {line}' for line in self._tried)
        history = HISTORY.format(tried=tried) if tried else ''
        question = PROPOSE.format(query=self._query.text, history=history)
        return self._ask(self._frame, question, read_proposal)

    def _try(self, phrase: str) -> tuple[GroundedObject, ...]:
        """Return what the phrase names and the reasoner accepts; record the phrase as tried."""
        known = phrase.casefold() in self._phrases
        self._phrases.add(phrase.casefold())
        found = () if known else self._find(phrase)
        if known:
            self._record(f'"{phrase}" again: it was tried before.')
        elif found is None:
            self._record(f'"{phrase}": it is too long for the tool.')
        elif not found:
            self._record(f'"{phrase}": the tool found nothing.')
        if not found:
            return ()
        self._say(f'SAM 3 marks {len(found)} for "{phrase}".')
        objects = self._examine(phrase, found)
        if not objects:
            self._record(f'"{phrase}": the tool marked {len(found)}, and none of them is meant.')
        return objects

    def _find(self, phrase: str) -> list[tuple[GroundedObject, SegmentedMask]] | None:
        """Return what SAM 3 marks, the best first; None if the phrase is too long for it."""
        encoding = self._encoding()
        found = self._agent.finder.find(encoding, phrase, self._check)
        if found is None:
            return None
        clipped = []
        for each in found[:MAX_MARKS]:
            box = each.box and clip_box(each.box, self._frame.width, self._frame.height)
            if box:
                clipped.append((each, replace(each, box=box)))
        segmenter = self._agent.pipeline.segmenter
        prompts = Grounding('', tuple(inside for _, inside in clipped))
        masks = segmenter.segment(encoding, prompts, self._check)
        pairs = zip(clipped, masks, strict=True)
        return [(each, mask) for (each, _), mask in pairs if mask.roi.width]

    def _encoding(self) -> Any:
        pipeline = self._agent.pipeline
        future = pipeline.begin_encoding(self._frame)
        if future is None:
            future = pipeline.encode_here(self._frame, self._check)
        while wait([future], timeout=CANCEL_POLL).not_done:
            self._check()
        return future.result()[0]

    def _examine(
        self, phrase: str, found: list[tuple[GroundedObject, SegmentedMask]]
    ) -> tuple[GroundedObject, ...]:
        """Return the objects whose masks the reasoner accepts."""
        image = draw_numbered_masks(self._frame.image, [mask for _, mask in found])
        question = EXAMINE.format(query=self._query.text, phrase=phrase, count=len(found))
        numbers = self._ask(
            replace(self._frame, image=image),
            question,
            lambda reply: read_verdict(reply, len(found)),
        )
        return tuple(found[number - 1][0] for number in numbers)

    def _ask(
        self, frame: Frame, question: str, read: Callable[[str], T], *, again: bool = False
    ) -> T:
        """Return what a reply says; ask once again, in a further round, if it cannot be read."""
        try:
            return read(self._reply(frame, question))
        except UnreadableReply as error:
            if again or self._rounds == MAX_ROUNDS:
                raise MalformedAnswer(str(error), self._raw_answer()) from None
            reason = str(error)
        self._rounds += 1
        retry = AGAIN.format(reason=reason, question=question)
        return self._ask(frame, retry, read, again=True)

    def _reply(self, frame: Frame, question: str) -> str:
        """Return the reasoner's reply without its reasoning; raise UnreadableReply without one."""
        self._check()
        self._exchange.append(f'[asked]\n{question}')
        query = Query(question, self._query.id, Task.ANSWER)
        try:
            words = self._agent.asked.reason(frame, query, self._report_text, self._must_stop)
        except MalformedAnswer as error:
            self._keep(error.raw_answer)
            raise UnreadableReply(error.reason) from None
        except ReasonerTimeout as error:
            self._keep(error.raw_answer)
            raise ReasonerTimeout(str(error), self._raw_answer()) from None
        except Cancelled as error:
            self._keep(error.raw_answer)
            self._check()
            raise Cancelled(self._raw_answer()) from None
        self._keep(words.raw_answer)
        self._report_text('\n')
        self._tokens += words.generated_tokens
        return words.answer

    def _keep(self, reply: str) -> None:
        self._exchange.append(f'[answered]\n{reply}')

    def _report_text(self, text: str) -> None:
        self._reasoning.append(text)
        self._on_text(text)

    def _say(self, text: str) -> None:
        """Add a line to the reasoning."""
        self._report_text(f'{text}\n')

    def _record(self, tried: str) -> None:
        self._tried.append(tried)
        self._say(tried)

    def _must_stop(self) -> bool:
        return self._cancelled() or time.monotonic() > self._deadline

    def _check(self) -> None:
        if self._cancelled():
            raise Cancelled(self._raw_answer())
        if time.monotonic() > self._deadline:
            raise ReasonerTimeout(
                f'The search did not finish within {self._limit:g} s; it was in round '
                f'{self._rounds}. Raise limits.answer_time.',
                self._raw_answer(),
            )

    def _raw_answer(self) -> str:
        return '\n\n'.join(self._exchange)

    def _result(self, objects: tuple[GroundedObject, ...], note: str) -> Grounding:
        reasoning = ''.join(self._reasoning).strip()
        return Grounding(reasoning, objects, self._raw_answer(), self._tokens, note)


def read_proposal(reply: str) -> str:
    """Return the phrase of a reply, without article and quotes; empty for `report none`.

    Raises:
        UnreadableReply: it is neither.
    """
    line = reply.strip()
    if _REPORT_NONE.fullmatch(line):
        return ''
    match = _PHRASE.fullmatch(line)
    phrase = ' '.join(match[1].strip(_AROUND).split()) if match else ''
    phrase = _ARTICLE.sub('', phrase)
    if not phrase:
        raise UnreadableReply('it is neither one line with "phrase:" nor "report none"')
    return phrase


def read_verdict(reply: str, count: int) -> list[int]:
    """Return the accepted numbers of a reply, each once; none for `reject`.

    Args:
        reply: the reply.
        count: number of masks.

    Raises:
        UnreadableReply: it is neither, or a number has no mask.
    """
    line = reply.strip()
    if _REJECT.fullmatch(line):
        return []
    match = _ACCEPT.fullmatch(line)
    if match is None:
        raise UnreadableReply('it is neither one line with "accept:" and numbers nor "reject"')
    numbers = list(dict.fromkeys(int(number) for number in match[1].split(',')))
    for number in numbers:
        if not 1 <= number <= count:
            raise UnreadableReply(f'there is no mask {number}')
    return numbers
