"""``enqueue``, ``engines`` and ``requests`` against a running system."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import urllib.request
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import IO

import pytest
from redis import Redis

from .conftest import Command
from .up_process import Up, eventually


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One system for all tests here."""
    with Up(tmp_path_factory.mktemp("up"), "--model", "tiny", "--schedulers", "1") as up:
        yield up


@contextmanager
def long_answer(system: Up) -> Generator[tuple[subprocess.Popen[str], IO[str], IO[str], str]]:
    """``enqueue`` while it prints: the process, its two outputs, and the request's id."""
    with system.start_enqueue("--max-tokens", "100000", "Hello") as asking:
        assert asking.stdout is not None
        assert asking.stderr is not None
        request_id = asking.stderr.readline().split()[1].rstrip(",")
        assert asking.stdout.read(6) == "Answer"
        yield asking, asking.stdout, asking.stderr, request_id


def engine_of(system: Up) -> str:
    (engine,) = json.loads(system.control("engines", "list", "--model", "tiny", "--json").stdout)
    return engine["engine_id"]


def test_an_engine_that_nobody_has_reached_is_listed(system: Up) -> None:
    engine = {"url": "http://127.0.0.1:9", "reason": "refused", "worker": "host-1", "until_ms": 4e12}
    with Redis.from_url(system.redis) as server:
        server.hset("sagellm:awaited", engine["url"], json.dumps(engine))
        listed = json.loads(system.control("engines", "list", "--json").stdout)
        table = system.control("engines", "list").stdout
        server.hdel("sagellm:awaited", engine["url"])
    assert [(each["state"], each["url"]) for each in listed][1:] == [("AWAITED", engine["url"])]
    assert re.search(r"AWAITED .* http://127\.0\.0\.1:9 .* refused", table)


def test_the_announced_chat_streams_tokens(system: Up) -> None:
    assert "model tiny, 1 of 1 engine" in system.announced
    body = {"model": "tiny", "stream": True, "max_tokens": 3, "messages": [{"role": "user", "content": "Hello"}]}
    request = urllib.request.Request(
        f"{system.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        lines = answer.read().decode().split("\n\n")
    assert "data: [DONE]" in lines


def test_enqueue_streams_text_and_notes_the_rest(system: Up) -> None:
    done = system.control("enqueue", "--max-tokens", "4", "--priority", "high", "--tenant", "me", "Hello")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 4
    assert "model tiny, priority HIGH" in done.stderr
    assert "completed by " in done.stderr
    request_id = done.stderr.split()[1].rstrip(",")
    shown = json.loads(system.control("requests", "show", request_id, "--json").stdout)
    assert (shown["state"], shown["outcome"], shown["tenant"]) == ("finished", "completed", "me")
    for_people = system.control("requests", "show", request_id).stdout
    arrived = datetime.fromtimestamp(float(shown["fields"]["arrived_ms"]) / 1000).astimezone()
    assert arrived.isoformat(sep=" ", timespec="milliseconds") in for_people, "a moment reads as one"


def test_enqueue_reads_the_prompt_from_a_pipe(system: Up) -> None:
    said = [
        system.control("enqueue", "--no-stream", "--max-tokens", "9", "--system", "Be short.", *words, text=text)
        for words, text in (((), "Hello"), (("-",), "Hello"), (("Hello",), "nothing"))
    ]
    assert said[0].returncode == 0, said[0].stderr
    assert said[0].stdout.startswith("Answer ")
    assert len({each.stdout for each in said}) == 1


def test_enqueue_takes_whole_requests(system: Up) -> None:
    chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2, "user": "x"}
    done = system.control("enqueue", "--json", "-", "--no-stream", text=json.dumps(chat))
    assert json.loads(done.stdout)["usage"]["completion_tokens"] == 2
    for more, stream in (({}, "1"), ({"stream": True}, "1"), ({"stream": False}, "0")):
        told = system.control("enqueue", "--json", "-", text=json.dumps(chat | more))
        assert len(told.stdout.split()) == 2
        shown = system.control("requests", "show", told.stderr.split()[1].rstrip(","), "--json")
        assert json.loads(shown.stdout)["fields"].get("stream", "0") == stream
    completion = system.control("enqueue", "--json", "-", text=json.dumps({"prompt": "Hello", "max_tokens": 2}))
    assert len(completion.stdout.split()) == 2
    embedding = system.control("enqueue", "--json", "-", text=json.dumps({"input": "Hello"}))
    assert json.loads(embedding.stdout)["object"] == "list"


@pytest.mark.parametrize(
    ("words", "text", "code", "said"),
    [
        (("--json", "-"), "no json", 2, "--json: Expecting value"),
        (("--json", "-"), "[]", 2, "--json: an OpenAI request is a JSON object"),
        (("--json", "-", "prompt"), "{}", 2, "--json holds the whole request"),
        (("",), None, 2, "Error: the prompt is empty: nothing to ask\n"),
        (("-",), " \n", 2, "Error: the prompt is empty: nothing to ask\n"),
        ((), "", 2, "Error: the prompt is empty: nothing to ask\n"),
        (("--priority", "urgent", "Hello"), None, 2, "unknown priority 'urgent': use one of CRITICAL, HIGH"),
        (("--model", "nope", "Hello"), None, 1, "The model 'nope' does not exist. Known models: tiny."),
        (("--json", "-"), '{"messages": 7}', 1, "refused (400)"),
        (("--json", "-"), '{"messages": 7, "max_tokens": true}', 1, "refused (400)"),
        (("--json", "-"), '{"messages": 7, "max_tokens": 1000000000000000}', 1, "refused (400)"),
        (("--timeout", "0.3", "--max-tokens", "10000", "Hello"), None, 1, "Error: expired"),
    ],
)
def test_enqueue_says_what_is_wrong(words: tuple[str, ...], text: str | None, code: int, said: str, system: Up) -> None:
    done = system.control("enqueue", *words, text=text)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_or_a_closed_terminal_cancels_what_was_enqueued(number: signal.Signals, system: Up) -> None:
    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs this may have been told to ignore it
    try:
        with long_answer(system) as (asking, _, notes, request_id):
            asking.send_signal(number)
            assert asking.wait(30) == 130
            assert notes.read() == f"cancelling {request_id}\n"
    finally:
        signal.signal(signal.SIGHUP, inherited)
    eventually(lambda: '"cancelled"' in system.control("requests", "show", request_id, "--json").stdout, "cancelled")


@pytest.mark.parametrize("notes_too", [False, True])
def test_a_reader_that_goes_cancels_what_was_enqueued(system: Up, *, notes_too: bool) -> None:
    with long_answer(system) as (asking, output, notes, request_id):
        if notes_too:
            notes.close()
        output.close()
        assert asking.wait(30) == 1
        assert notes_too or notes.read() == f"cancelling {request_id}\n"
    eventually(lambda: '"cancelled"' in system.control("requests", "show", request_id, "--json").stdout, "cancelled")


@pytest.mark.parametrize("as_it_comes", [True, False])
def test_an_answer_that_finds_no_room_ends_in_one_line(system: Up, *, as_it_comes: bool) -> None:
    words = ("--max-tokens", "100000") if as_it_comes else ("--max-tokens", "2", "--no-stream")
    with open("/dev/full", "w") as full, system.start_enqueue(*words, "Hello", stdout=full) as asking:
        assert asking.stderr is not None
        asked, *notes = asking.stderr.read().splitlines()
        assert asking.wait(30) == 1
    request_id = asked.split()[1].rstrip(",")
    cancelling = [f"cancelling {request_id}"] if as_it_comes else []
    assert notes == [*cancelling, "Error: No space left on device"]
    outcome = '"cancelled"' if as_it_comes else '"completed"'
    eventually(lambda: outcome in system.control("requests", "show", request_id, "--json").stdout, outcome)


def test_an_answer_goes_on_where_nobody_reads_the_notes(system: Up) -> None:
    with system.start_enqueue("--max-tokens", "4", "Hello") as asking:
        assert asking.stdout is not None
        assert asking.stderr is not None
        asking.stderr.close()
        assert len(asking.stdout.read().split()) == 4
        assert asking.wait(30) == 0


def test_a_drained_engine_gets_nothing_until_it_is_undone(system: Up) -> None:
    engine = engine_of(system)
    drained = system.control("engines", "drain", engine)
    assert drained.stdout == f"{engine} gets no more requests; it finishes the 0 that it has.\n"
    try:
        eventually(lambda: '"DRAINING"' in system.control("engines", "list", "--json").stdout, "draining")
        refused = system.control("enqueue", "Hello")
        assert refused.returncode == 1
        assert "No engine for the model 'tiny' is ready" in refused.stderr
    finally:
        resumed = system.control("engines", "drain", engine, "--undo", "--json")
    assert json.loads(resumed.stdout) == {"engine_id": engine, "draining": False, "active": 0}
    eventually(lambda: '"READY"' in system.control("engines", "list", "--json").stdout, "ready again")


def test_requests_list_and_cancel(system: Up) -> None:
    with long_answer(system) as (asking, output, notes, request_id):
        (listed,) = json.loads(system.control("requests", "list", "--state", "running", "--json").stdout)
        assert listed["request_id"] == request_id
        table = system.control("requests", "list", "--model", "tiny").stdout
        assert request_id in table
        assert "running" in table
        cancelled = system.control("requests", "cancel", request_id)
        assert cancelled.stdout == f"{request_id} is being stopped by its worker.\n"
        output.read()
        assert asking.wait(30) == 1
        assert "cancelled" in notes.read()
    assert system.control("requests", "cancel", request_id).stdout == f"{request_id} had ended before.\n"
    assert system.control("requests", "list", "--state", "waiting").stdout == "No request is waiting.\n"


def test_what_is_not_there(system: Up) -> None:
    for words, said in [
        (
            ("requests", "show", "nope"),
            "Error: there is no request 'nope': it never was, or its record is gone\n",
        ),
        (
            ("requests", "show", "chatcmpl-1"),
            "Error: there is no request 'chatcmpl-1': this is the engine's id; "
            "the request's is in the header X-Request-ID of its answer\n",
        ),
        (("requests", "list", "--model", "nope"), "Error: no pool serves 'nope'; known: tiny\n"),
        (("engines", "list", "--model", "nope"), "Error: no pool serves 'nope'; known: tiny\n"),
        (("engines", "drain", "nope"), f"Error: there is no engine 'nope'; known: {engine_of(system)}\n"),
    ]:
        done = system.control(*words)
        assert (done.returncode, done.stderr) == (1, said)


def test_an_engine_in_use_is_not_removed(system: Up) -> None:
    done = system.control("engines", "remove", engine_of(system))
    assert done.returncode == 1
    assert "is held by the worker" in done.stderr


@pytest.mark.parametrize("words", [("engines", "list"), ("requests", "list"), ("enqueue", "Hello")], ids=" ".join)
def test_without_redis_it_is_one_line(words: tuple[str, ...], command: Command) -> None:
    done = command(*words, "--redis-url", "redis://:s3cret@127.0.0.1:1/0")
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("Error: no Redis at redis://:***@127.0.0.1:1/0")


def test_a_request_is_explained(system: Up) -> None:
    asked = system.control("enqueue", "--max-tokens", "2", "Hello")
    assert asked.returncode == 0
    request_id = asked.stderr.split()[1].rstrip(",")
    told = json.loads(system.control("requests", "explain", request_id, "--json").stdout)
    assert told["waits_for"] == "nothing: it has ended (completed)"
    assert told["chosen"].startswith(f"{engine_of(system)} was chosen by kv_cost; 0 other requests were on it then")
    table = system.control("requests", "explain", request_id).stdout
    assert "it has room" in table
    assert re.search(
        r"expected +[\d.]+ tokens of prompt, read in [\d.]+ ms, and [\d.]+ of answer, made in [\d.]+ ms\n", table
    )
    missing = system.control("requests", "explain", "nobody")
    assert (missing.returncode, "there is no request 'nobody'" in missing.stderr) == (1, True)


def test_the_policy_is_shown_and_changed(system: Up) -> None:
    assert json.loads(system.control("policy", "show", "--json").stdout)["tiny"]["policy"] == "shortest"
    changed = system.control("policy", "set", "slo_aware", "--placement", "round_robin", "--set", "late=refuse")
    assert changed.stdout == "tiny follows policy=slo_aware, placement=round_robin, late=refuse.\n"
    shown = system.control("policy", "show", "--model", "tiny").stdout
    assert "slo_aware" in shown
    assert "late=refuse" in shown
    system.control("policy", "set", "shortest", "--set", "late=", "--placement", "kv_cost")
    assert json.loads(system.control("policy", "show", "--json").stdout)["tiny"]["set"] == {}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["lottery"], "unknown policy 'lottery': use one of fifo, priority"),
        (["--set", "aging_s=-1"], "aging_s must be"),
        (["--set", "colour=red"], "unknown setting 'colour'"),
        (["--set", "aging_s"], "give NAME=VALUE"),
        ([], "name a policy"),
        (["fifo", "--model", "nobody"], "no pool serves 'nobody'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_policy_that_there_is_not(system: Up, words: list[str], says: str) -> None:
    refused = system.control("policy", "set", *words)
    assert refused.returncode != 0
    assert says in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("more", [(), ("--json",)], ids=" ".join)
def test_a_policy_for_no_pool_at_all_is_an_error(system: Up, more: tuple[str, ...]) -> None:
    refused = system.control("policy", "set", "fair", "--redis-namespace", "nobody", *more)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "Error: no engine has registered, so there is no pool whose policy could be set\n"
