"""Read the pieces in which a server streams its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from segzero_ros.reasoning.answers import StreamReporter
from segzero_ros.types import MalformedAnswer


@dataclass
class Reply:
    """What has come of one completion; its text is with the narrator.

    Attributes:
        narrator: takes the text and tells who listens.
        most_characters: that an answer may have.
        characters: that have come.
        pieces: that have come with text in them.
        counted: tokens of the answer by the server's count; 0 where it gives none.
        charged: tokens of the prompt by the server's count; None where it gives none.
        finish: why the server ended it; '' before.
        thinking: whether thinking is open that the server sends apart.
    """

    narrator: StreamReporter
    most_characters: int
    characters: int = 0
    pieces: int = 0
    counted: int = 0
    charged: int | None = None
    finish: str = ''
    thinking: bool = False

    @property
    def tokens(self) -> int:
        """Tokens by the server's count, else its pieces, which mostly are one token each."""
        return self.counted or self.pieces


def take(chunk: Any, reply: Reply) -> bool:
    """Add one piece of the stream to the reply; return whether further ones matter.

    After the answer is closed nothing can change it, so a model that goes on talking is not heard;
    the count of tokens, which comes last, still is.
    """
    usage = getattr(chunk, 'usage', None)
    if usage is not None:
        reply.counted = int(usage.completion_tokens or 0)
        reply.charged = usage.prompt_tokens or reply.charged
    choices = getattr(chunk, 'choices', None)
    if not isinstance(choices, list):
        raise MalformedAnswer(
            f'the server sent something that is no piece of a chat completion: {str(chunk)[:200]}',
            reply.narrator.text,
        )
    for choice in choices:
        text = _written(choice.delta, reply)
        if reply.narrator.complete and text.strip():
            return False
        reply.characters += len(text)
        if reply.characters > reply.most_characters:
            raise MalformedAnswer(
                f'the server wrote more than {reply.most_characters} characters, which are more '
                'than max_new_tokens can be',
                reply.narrator.text,
            )
        if text:
            reply.pieces += 1
            reply.narrator.feed(text)
        reply.finish = choice.finish_reason or reply.finish
    return True


def _written(delta: Any, reply: Reply) -> str:
    """Return what the model wrote; some servers send its thinking apart, without the tags."""
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
