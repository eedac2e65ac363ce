"""Whether another engine may go on with an answer that breaks off in the middle: what the request itself says.

What can only be told from the answer (a tool call has begun, the model still reasons) and from the engine (not every
kind can continue a chat) is seen by the worker that is to go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from ..wire.states import RequestKind

CONSTRAINED = (
    "structured_outputs",  # vLLM
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "grammar",  # llama.cpp
    "json_schema",  # llama.cpp, SGLang
    "regex",  # SGLang
    "ebnf",
    "structural_tag",
    "format",  # Ollama
)
"""Fields that bind the answer to a form: its second half, taken for a whole, would begin that form anew."""
COMPUTED_ON_ALL = (
    "logprobs",
    "top_logprobs",
    "prompt_logprobs",
    "echo",
    "suffix",
    "use_beam_search",
    "audio",
    "return_hidden_states",  # SGLang
)
"""Fields whose part of the answer is about prompt and answer as one, or about more than its text."""
SEVERAL = ("n", "best_of", "n_cmpl")
_ALL = frozenset((*CONSTRAINED, *COMPUTED_ON_ALL, *SEVERAL))


def may_continue(kind: RequestKind, body: Mapping[str, Any]) -> bool:
    """Whether prompt and half an answer, sent as one prompt, give the other half."""
    if not _ALL.isdisjoint(body):  # few bodies have any
        if any(_says_something(body.get(name)) for name in (*CONSTRAINED, *COMPUTED_ON_ALL)):
            return False
        if any(body.get(name) not in (None, 1) for name in SEVERAL):
            return False
    match kind:
        case RequestKind.CHAT:
            return _is_plain_chat(body)
        case RequestKind.COMPLETION:
            prompt = body.get("prompt")
            # Token ids would have to be continued by the ids of the answer, which engines do not tell.
            return isinstance(prompt, str) or _is_one_text(prompt)
        case RequestKind.EMBEDDING | RequestKind.RESERVATION | RequestKind.VECTOR_RESERVATION:
            return False


def _says_something(value: object) -> bool:
    # An empty text or object is a value; false, 0 and null are how clients write "not asked for".
    return value is not None and value is not False and value != 0


def _is_plain_chat(body: Mapping[str, Any]) -> bool:
    form = body.get("response_format")
    if form is not None and not (isinstance(form, Mapping) and cast("Mapping[str, Any]", form).get("type") == "text"):
        return False
    # "required" and a named function are enforced by a grammar.
    if body.get("tool_choice") not in (None, "auto", "none") or body.get("function_call") not in (None, "auto", "none"):
        return False
    if body.get("modalities") not in (None, ["text"]):
        return False
    messages = cast("list[Any]", body["messages"])
    last: Any = messages[-1]
    message = cast("dict[str, Any]", last) if isinstance(last, dict) else {}
    if message.get("role") == "assistant":
        # Said to be continued itself: then what is generated is put behind it. Else engines differ in what they make
        # of two messages of the assistant's in a row.
        content = message.get("content")
        return body.get("continue_final_message") is True and isinstance(content, str)
    return True


def _is_one_text(prompt: object) -> bool:
    return isinstance(prompt, list) and len(cast("list[Any]", prompt)) == 1 and isinstance(prompt[0], str)
