"""Lines of a .jsonl file that ask and answer: prompts with completions, instructions with outputs, and conversations.

The network is asked for the tokens of the answers alone; all others it only reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blocklocal._common.errors import InputError, shown

Parts = tuple[tuple[str, bool], ...]  # texts in a row, and whether each is asked for

_PAIRS = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"))
_INSTRUCTION, _INPUT, _OUTPUT = "instruction", "input", "output"
_MESSAGES, _ROLE, _CONTENT, _ANSWERS = "messages", "role", "content", "assistant"


def is_dialogue(line: Mapping[str, Any]) -> bool:
    """Whether an object asks and answers, by the names of its fields."""
    fields = set(line)
    return _MESSAGES in fields or {_INSTRUCTION, _OUTPUT} <= fields or any(set(pair) <= fields for pair in _PAIRS)


def parts_of(line: Mapping[str, Any], where: str) -> Parts:
    """What is read and what is asked for, in order.

    A prompt and its completion stand as they are. An instruction, and an input if there is one, are paragraphs before
    the output. In a conversation every message begins with its role and a colon, and ends with an empty line.

    Args:
        where: file and line, for messages.

    Raises:
        InputError: something in it is no text, or nothing answers.
    """
    if _MESSAGES in line:
        return _conversation(line[_MESSAGES], where)
    if _INSTRUCTION in line:
        asked = [_text(line, name, where) for name in (_INSTRUCTION, _INPUT) if line.get(name)]
        return ("".join(f"{each}\n\n" for each in asked), False), (_text(line, _OUTPUT, where), True)
    prompt, answer = next(pair for pair in _PAIRS if set(pair) <= set(line))
    return (_text(line, prompt, where), False), (_text(line, answer, where), True)


def _conversation(messages: Any, where: str) -> Parts:
    if not isinstance(messages, list) or not all(isinstance(each, Mapping) for each in messages):
        raise InputError(f'{where}: messages must be a list of objects like {{"role": "user", "content": "Hello"}}.')
    parts: list[tuple[str, bool]] = []
    for message in messages:
        role, content = (_text(message, name, where) for name in (_ROLE, _CONTENT))
        answers = role == _ANSWERS
        parts += [(f"{role}: ", False), (content, answers), ("\n\n", answers)]
    if not any(asked for _, asked in parts):
        raise InputError(f"{where}: no message has the role {_ANSWERS!r}, so nothing is asked for. Add an answer.")
    return tuple(parts)


def _text(line: Mapping[str, Any], name: str, where: str) -> str:
    found = line.get(name)
    if not isinstance(found, str):
        raise InputError(f"{where}: the field {name!r} holds {shown(found)}. Expected a text.")
    return found
