"""``enqueue``: one request through the queue, its answer on the terminal."""

from __future__ import annotations

import json
import sys
from typing import Any, BinaryIO, cast

import click
import orjson

from ..wire.priority import RequestPriority
from .exit_codes import INTERRUPTED
from .failures import BadSettings
from .flag_types import Number
from .options import REDIS_FLAGS, Loaded, SettingsCommand, takes_settings


@click.command(cls=SettingsCommand)
@click.argument("prompt", required=False)
@click.option("--model", metavar="NAME", help="Model to ask.  [default: the first that has a ready engine]")
@click.option(
    "--priority",
    metavar="CLASS",
    default="NORMAL",
    show_default=True,
    help=f"How urgent it is: {', '.join(RequestPriority.__members__)}.",
)
@click.option("--tenant", metavar="NAME", default="", help="On whose account it goes.")
@click.option("--max-tokens", type=click.IntRange(1, 2**31 - 1), help="Most tokens of the answer.")
@click.option("--timeout", "timeout_s", type=Number(0.001, 86_400), help="Seconds until it is given up.")
@click.option("--system", metavar="TEXT", help="System message before the prompt.")
@click.option(
    "--json",
    "raw",
    type=click.File("rb"),
    help="An OpenAI request instead of a prompt; - reads stdin. It is streamed unless it says otherwise.",
)
@click.option("--no-stream", is_flag=True, help="Print the answer when it is whole.")
@takes_settings(REDIS_FLAGS)
def enqueue(
    loaded: Loaded,
    prompt: str | None,
    model: str | None,
    priority: str,
    tenant: str,
    max_tokens: int | None,
    timeout_s: float | None,
    system: str | None,
    raw: BinaryIO | None,
    no_stream: bool,
) -> None:
    """Send one request through the queue and print its answer as it is made.

    The answer goes to standard output, all else (request id, place in the queue, engine) to standard error.
    Without PROMPT, or for -, it is read from standard input. Ctrl-C cancels the request, and so does a terminal
    that is closed, or a reader of the answer that has gone, or a disk that is full, when the next piece comes.

    \b
    Examples:
      sagellm-control enqueue "Why is the sky blue?"
      sagellm-control enqueue --priority CRITICAL --model my-model --max-tokens 50 "Hello"
      sagellm-control enqueue --json request.json --no-stream | jq .usage
    """
    import uvloop

    from .ask import Question, ask

    _require_text({"the prompt": prompt, "--system": system, "--tenant": tenant, "--model": model})
    body = _read_json(raw) if raw is not None else _from_prompt(prompt, system)
    if raw is not None and (prompt or system):
        raise click.UsageError("--json holds the whole request: give no PROMPT and no --system with it")
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if no_stream:
        body["stream"] = False
    elif "input" not in body:  # vectors cannot be streamed
        body.setdefault("stream", True)
    question = Question(
        model=model or _model_of(body),
        body=body,
        priority=_read_priority(priority),
        tenant=tenant,
        timeout_s=timeout_s,
        as_text=raw is None or not no_stream,
    )
    answered = uvloop.run(ask(loaded.settings.redis, question))
    if answered is None:
        sys.exit(INTERRUPTED)
    if not answered:
        sys.exit(1)


def _from_prompt(prompt: str | None, system: str | None) -> dict[str, Any]:
    if prompt is None and sys.stdin.isatty():
        raise click.UsageError("nothing to ask: give a PROMPT, pipe one in, or use --json")
    if prompt is None or prompt == "-":
        prompt = _read_prompt()
    if not prompt.strip():
        raise BadSettings(["the prompt is empty: nothing to ask"])
    messages = [{"role": "system", "content": system}] if system else []
    return {"messages": [*messages, {"role": "user", "content": prompt}]}


def _read_prompt() -> str:
    try:
        prompt = str(sys.stdin.read())
    except UnicodeDecodeError:
        raise _not_text("the prompt") from None
    _require_text({"the prompt": prompt})
    return prompt


def _require_text(words: dict[str, str | None]) -> None:
    """Bytes that are no UTF-8 come as surrogates, from the command line always and from a pipe in most places: no JSON
    can hold them."""
    for name, word in words.items():
        try:
            (word or "").encode()
        except UnicodeEncodeError:
            raise _not_text(name) from None


def _not_text(name: str) -> BadSettings:
    return BadSettings([f"{name} is not UTF-8: convert it, e.g. with `iconv -f latin1 -t utf-8`"])


def _read_json(raw: BinaryIO) -> dict[str, Any]:
    try:
        body: Any = json.load(raw)
        orjson.dumps(body)  # it takes less than is read here: no half characters, no number beyond 64 bits
    except (ValueError, orjson.JSONEncodeError) as error:
        raise click.UsageError(f"--json: {error}") from None
    if not isinstance(body, dict):
        raise click.UsageError("--json: an OpenAI request is a JSON object")
    return cast(dict[str, Any], body)


def _model_of(body: dict[str, Any]) -> str | None:
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise click.UsageError("--json: model must be the name of a model")
    return model


def _read_priority(text: str) -> RequestPriority:
    try:
        return RequestPriority.parse(text)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
