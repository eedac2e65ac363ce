"""From what a client sent (messages, strings, token numbers) to the text that an answer is a function of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from .answers import answer_tokens, count_answer_tokens
from .refusal import Refusal
from .request_body import RequestBody

# Rough length of a token in characters, for prompts only: no tokenizer is at hand.
CHARACTERS_PER_TOKEN = 4

# Where an answer may begin within a text. Its first token alone has no mark yet: then it is taken for one if it sticks
# to the word before it, as no prompt that somebody wrote does.
_OPENING = re.compile(r"Answer(?= [0-9a-f]{8}(?: |\Z))|(?<=\S)Answer\Z")


@dataclass(frozen=True, slots=True)
class Prompt:
    """`text` decides the answer, `tokens` its cost; `answered` tokens of the answer are there already."""

    text: str
    tokens: int
    answered: int = 0


def count_prompt_tokens(text: str) -> int:
    return max(1, len(text) // CHARACTERS_PER_TOKEN)


def chat_prompt(messages: Sequence[Mapping[str, object]]) -> str:
    """The text of a conversation: its messages, one a line. One message: its content as it is."""
    return "\n".join(_content_text(message.get("content"), index) for index, message in enumerate(messages))


def read_chat(body: RequestBody) -> Prompt:
    """`messages`; with continue_final_message the words of a final assistant message count as answered."""
    messages = body.objects("messages")
    for index, message in enumerate(messages):
        if not isinstance(message.get("role"), str):
            param = f"messages[{index}].role"
            raise Refusal(400, f"{param} must be a string", param=param)
    if body.flag("continue_final_message") and messages[-1]["role"] == "assistant":
        final = _content_text(messages[-1].get("content"), len(messages) - 1)
        return _begun(chat_prompt(messages[:-1]), count_answer_tokens(final))
    return _text_prompt(chat_prompt(messages))


def read_completion(body: RequestBody) -> list[Prompt]:
    """`prompt`; what stands at the end of a text and is the beginning of the answer to the rest counts as answered."""
    seed = body.integer("seed")
    return [_continued(prompt, seed) for prompt in read_texts(body, "prompt")]


def _continued(prompt: Prompt, seed: int | None) -> Prompt:
    text = prompt.text
    for match in _OPENING.finditer(text):
        asked, begun = text[: match.start()], text[match.start() :]
        answered = count_answer_tokens(begun)
        if "".join(answer_tokens(asked, answered, seed)) == begun:
            return _begun(asked, answered)
    return prompt


def read_texts(body: RequestBody, name: str) -> list[Prompt]:
    """A field that is a string, a list of strings, a list of token numbers, or a list of such lists."""
    value = body.fields.get(name)
    if value is None:
        raise Refusal(400, f"{name} is missing", param=name)
    if isinstance(value, str):
        return [_text_prompt(value)]
    if isinstance(value, list) and value:
        items = cast(list[object], value)
        if all(isinstance(item, str) for item in items):
            return [_text_prompt(text) for text in cast(list[str], items)]
        if _are_token_numbers(items):
            return [_token_prompt(items)]
        if all(_is_token_list(item) for item in items):
            return [_token_prompt(cast(list[object], item)) for item in items]
    allowed = "a string, a list of strings, a list of token numbers or a list of such lists, and not empty"
    raise Refusal(400, f"{name} must be {allowed}", param=name)


def _begun(asked: str, answered: int) -> Prompt:
    return Prompt(asked, count_prompt_tokens(asked) + answered, answered)


def _text_prompt(text: str) -> Prompt:
    return Prompt(text, count_prompt_tokens(text))


def _token_prompt(numbers: list[object]) -> Prompt:
    return Prompt(" ".join(str(number) for number in numbers), len(numbers))


def _is_token_list(item: object) -> bool:
    return isinstance(item, list) and item != [] and _are_token_numbers(cast(list[object], item))


def _are_token_numbers(items: list[object]) -> bool:
    return all(isinstance(item, int) and not isinstance(item, bool) for item in items)


def _content_text(content: object, index: int) -> str:
    if isinstance(content, str):
        return content
    if content is None:  # an assistant message that only calls tools
        return ""
    param = f"messages[{index}].content"
    if not isinstance(content, list):
        raise Refusal(400, f"{param} must be a string or a list of parts", param=param)
    texts: list[str] = []
    for part in cast(list[object], content):
        if not isinstance(part, dict):
            raise Refusal(400, f"{param} must be a list of objects with a type", param=param)
        fields = cast(dict[str, object], part)
        text = fields.get("text")
        # A part without text (an image, a sound) still belongs to the prompt: its type stands for it.
        texts.append(text if isinstance(text, str) else f"[{fields.get('type')}]")
    return "".join(texts)
