"""`docs/redis.md`: every command in it runs on a live system, and nothing that is in Redis is missing from it."""

from __future__ import annotations

import http.client
import inspect
import json
import re
import threading
import urllib.request
from collections.abc import Generator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import redis

from sagellm_control.embedded.ports import free_port
from sagellm_control.wire.keys import Keys, PoolKeys
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.states import EngineState, Outcome, RequestKind, RequestState

from ..cli.up_process import Up, eventually
from ..request_fields import EVERY_FIELD, recorded_as
from .redis_md import BLOCKING, DOCUMENT, Ask, Command, Shell, read_asks, read_commands, read_up_settings, says_nothing

TEXT = DOCUMENT.read_text()
KEYS = Keys("sagellm").pool("simulated-1")
PLACEHOLDERS = {"gateway": "GATEWAY", "pool": "POOL", "request_id": "ID", "engine_id": "ENGINE", "holder": "HOLDER"}


class Demonstration:
    """The system of the document, with its requests under way."""

    def __init__(self, up: Up, port: int) -> None:
        self.url = up.url
        self.port = port
        self.db: Any = redis.Redis(port=port, decode_responses=True)
        self._clients: list[threading.Thread] = []

    def ask(self, ask: Ask, state: RequestState) -> None:
        """Send a request and wait until it is where the document has it."""
        client = threading.Thread(target=self._read, args=(ask,), name=ask.request_id)
        client.start()
        self._clients.append(client)
        eventually(lambda: self.db.hget(KEYS.record(ask.request_id), "state") == state, f"{ask} is {state}")

    def close(self) -> None:
        """The system has been stopped, so all clients are done."""
        self.db.close()
        for client in self._clients:
            client.join()

    def _read(self, ask: Ask) -> None:
        body = {"model": "simulated-1", "stream": True, "max_tokens": ask.max_tokens, "user": "team-a"}
        request = urllib.request.Request(
            f"{self.url}/v1/chat/completions",
            json.dumps({**body, "messages": [{"role": "user", "content": "Hello"}]}).encode(),
            {"X-Request-ID": ask.request_id, "X-Request-Priority": ask.priority},
        )
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                answer.read()
        except (http.client.HTTPException, OSError):
            pass  # the system stops in the middle of it


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory: pytest.TempPathFactory) -> Generator[Demonstration]:
    port = free_port()
    hurry = {"SAGELLM_CONTROL_GATEWAY_SHUTDOWN_S": "0.1", "SAGELLM_CONTROL_WORKER_DRAIN_S": "0"}
    with Up(tmp_path_factory.mktemp("up"), "--valkey-port", str(port), **read_up_settings(), **hurry) as up:
        running = Demonstration(up, port)
        states = {"done": RequestState.FINISHED, "run": RequestState.RUNNING, "wait": RequestState.WAITING}
        for ask in read_asks():
            running.ask(ask, states[ask.request_id.partition("-")[0]])
        yield running
    running.close()


def test_every_command_runs_and_says_something(demonstration: Demonstration) -> None:
    shell = Shell(demonstration.port)
    problems: list[str] = []
    for command in read_commands():
        code, output = shell.run(command)
        if command.text.startswith("redis-cli XADD"):
            eventually(lambda: demonstration.db.xlen(KEYS.dead), "the garbage is in the dead stream")
        if code or "(error)" in output:
            problems.append(f"{command.text}\n  ended with {code}: {output}")
        elif says_nothing(output) and not says_nothing("\n".join(command.shown)):
            problems.append(f"{command.text}\n  said nothing; the document shows: {command.shown}")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("key", ["$P:request:run-1", "$P:engine:$E"])
def test_the_fields_that_it_shows_are_those_that_are_there(demonstration: Demonstration, key: str) -> None:
    command, said = _run_until(demonstration, f'redis-cli -3 HGETALL "{key}"')
    names = re.compile(r'"(\w+)" =>')
    assert sorted(names.findall("\n".join(command.shown))) == sorted(names.findall(said)), said


def test_what_it_shows_of_garbage_is_what_is_said_of_it(demonstration: Demonstration) -> None:
    before = demonstration.db.xlen(KEYS.dead)
    _run_until(demonstration, "redis-cli XADD")
    eventually(lambda: demonstration.db.xlen(KEYS.dead) > before, "the garbage is in the dead stream")
    command, said = _run_until(demonstration, 'redis-cli XREVRANGE "$P:dead"')
    # The first line has the time in it.
    assert [line.strip() for line in command.shown[1:]] == [line.strip() for line in said.splitlines()[1:]]


def _run_until(demonstration: Demonstration, beginning: str) -> tuple[Command, str]:
    """Run the first command that begins like this, with the names that the document has given by then; what it says."""
    shell = Shell(demonstration.port)
    for command in read_commands():
        if command.text.startswith(beginning):
            return command, shell.run(command)[1]
        if command.assigns:
            shell.run(command)
    raise AssertionError(f"the document has no {beginning}")


def test_the_order_that_it_explains_is_the_order(demonstration: Demonstration) -> None:
    shown = next(c.shown for c in read_commands() if c.text.endswith("0 9 WITHSCORES"))
    ids = re.findall(r'"(wait-\d)"', "\n".join(shown))
    assert demonstration.db.zrange(KEYS.waiting, 0, 9) == ids
    ranks = [demonstration.db.zscore(KEYS.waiting, name) for name in ids]
    arrivals = [float(demonstration.db.hget(KEYS.record(name), "arrived_ms")) for name in ids]
    handicaps = [rank - arrival for rank, arrival in zip(ranks, arrivals, strict=True)]
    # The work expected of these is a fraction of a second.
    assert [round(handicap, -4) for handicap in handicaps] == [0, 120_000, 240_000]


def test_every_field_that_is_there_is_explained(demonstration: Demonstration) -> None:
    db = demonstration.db
    names: set[str] = set()
    for key in db.scan_iter(match=f"{KEYS.prefix}:*"):
        match db.type(key):
            case "hash" if key in (KEYS.lengths, KEYS.cards):
                pass  # its fields are names of models and tenants
            case "hash" if key.startswith(KEYS.reservations("")[: -len(":reservations")]) and key.endswith(
                "reservations"
            ):
                pass  # and these are requests
            case "hash":
                names |= {name.partition("/")[0] for name in db.hkeys(key)}
            case "stream":
                for _, fields in db.xrange(key, count=10):
                    names |= set(fields)
            case _:
                pass
    assert {"state", "arrived_ms", "slots", "accepted", "payload", "assigned_ms"} <= names
    assert not [name for name in sorted(names) if f"`{name}`" not in TEXT]


def test_every_field_that_a_step_may_write_is_explained() -> None:
    steps = Path(inspect.getfile(PoolKeys)).parents[1] / "store" / "steps"
    written: set[str] = set()
    for script in steps.glob("*.lua"):
        for call in re.findall(
            r"(?:'(?:HSET|HINCRBY|HDEL)', |increase\()(?:record|row|counters|KEYS\[\d\])([^)]*)", script.read_text()
        ):
            written |= set(re.findall(r"'([a-z_]{3,})'", call))
    # Values among them, not names.
    written -= {state.value for state in RequestState} | {"failed", "lapsed"}
    assert {"cancel", "excluded", "requeued", "garbage", "seen_ms"} <= written
    assert not [name for name in sorted(written) if f"`{name}`" not in TEXT]


def test_every_field_that_a_request_may_bring_is_explained() -> None:
    assert not [name for name in map(recorded_as, EVERY_FIELD) if f"`{name}`" not in TEXT]


@pytest.mark.parametrize("words", [RequestState, Outcome, EngineState, RequestKind], ids=lambda enum: enum.__name__)
def test_every_word_is_explained(words: Any) -> None:
    assert not [word.value for word in words if f"`{word.value}`" not in TEXT]


def test_every_key_is_in_the_table() -> None:
    names = [*_names(Keys("sagellm")), *_names(PoolKeys("sagellm", "POOL"))]
    assert len(names) > 15
    rows = {row.split("`")[1] for row in TEXT.splitlines() if row.startswith("| `sagellm:")}
    assert rows == {re.sub(r":intake:\w+$", ":intake:CLASS", name) for name in names}
    for priority in RequestPriority:
        assert f"`{priority.label}`" in TEXT


def test_the_document_shows_what_each_command_says() -> None:
    commands = read_commands()
    assert len(commands) > 40
    assert not [command.text for command in commands if not command.assigns and not command.shown]
    assert any(BLOCKING in command.text for command in commands)


def test_it_can_be_followed_without_redis_cli(demonstration: Demonstration) -> None:
    shell = Shell(demonstration.port, stand_in=True)
    for command in read_commands()[:2]:
        assert command.assigns
        assert shell.run(command)[0] == 0
    for text in ("redis-cli SMEMBERS sagellm:pools", 'redis-cli -3 HGETALL "$P:engine:$E"'):
        code, output = shell.run(Command(text))
        assert code == 0
        assert "simulated-1" in output
    assert shell.run(Command("redis-cli GET sagellm:pools"))[0] == 1


def _names(keys: Keys | PoolKeys) -> list[str]:
    found: list[str] = []
    for name, member in vars(type(keys)).items():
        if name.startswith("_") or name in ("prefix", "namespace"):
            continue
        if isinstance(member, cached_property):
            value = getattr(keys, name)
            found += value if isinstance(value, tuple) else [value]
        elif inspect.isfunction(member):
            arguments = [PLACEHOLDERS[p] for p in list(inspect.signature(member).parameters)[1:]]
            value = getattr(keys, name)(*arguments)
            found += [value] if isinstance(value, str) else []
    return found
