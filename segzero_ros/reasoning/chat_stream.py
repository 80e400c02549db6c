"""Read the chunks of a streamed chat completion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from segzero_ros.reasoning.answers import StreamReporter
from segzero_ros.types import MalformedAnswer


@dataclass
class Reply:
    """The state of one streamed completion; the reporter holds its text.

    Attributes:
        reporter: takes the text and calls the callbacks.
        max_characters: limit of the answer.
        characters: received so far.
        pieces: chunks with text received so far.
        counted: completion tokens as reported by the server; 0 if it reports none.
        charged: prompt tokens as reported by the server; None if it reports none.
        finish: the finish reason; '' before.
        thinking: whether separately sent reasoning is open.
    """

    reporter: StreamReporter
    max_characters: int
    characters: int = 0
    pieces: int = 0
    counted: int = 0
    charged: int | None = None
    finish: str = ''
    thinking: bool = False

    @property
    def tokens(self) -> int:
        """Tokens as reported by the server, else its chunks, mostly one token each."""
        return self.counted or self.pieces


def take(chunk: Any, reply: Reply) -> bool:
    """Add one chunk to the reply; return whether further ones matter.

    Text after the closed answer is ignored; the token count, which comes last, is not.

    Args:
        chunk: of the stream.
        reply: is changed.
    """
    usage = getattr(chunk, 'usage', None)
    if usage is not None:
        reply.counted = int(usage.completion_tokens or 0)
        reply.charged = usage.prompt_tokens or reply.charged
    choices = getattr(chunk, 'choices', None)
    if not isinstance(choices, list):
        raise MalformedAnswer(
            f'the server sent something that is no piece of a chat completion: {str(chunk)[:200]}',
            reply.reporter.text,
        )
    for choice in choices:
        text = _written(choice.delta, reply)
        if reply.reporter.complete and text.strip():
            return False
        reply.characters += len(text)
        if reply.characters > reply.max_characters:
            raise MalformedAnswer(
                f'the server wrote more than {reply.max_characters} characters, which are more '
                'than reasoner.max_new_tokens can be',
                reply.reporter.text,
            )
        if text:
            reply.pieces += 1
            reply.reporter.feed(text)
        reply.finish = choice.finish_reason or reply.finish
    return True


def _written(delta: Any, reply: Reply) -> str:
    """Return the model's text; some servers send the reasoning separately, without the tags."""
    thought = getattr(delta, 'reasoning_content', None) or getattr(delta, 'reasoning', None) or ''
    text = getattr(delta, 'content', None) or ''
    written = ''
    if thought:
        written = thought if reply.thinking else f'<think>{thought}'
        reply.thinking = True
    if text:
        written += f'</think>{text}' if reply.thinking else text
        reply.thinking = False
    return written
