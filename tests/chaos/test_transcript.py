"""A transcript reads what a client reads, and finds what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import orjson
import pytest

from sagellm_control.chaos.comparison import Flaw
from sagellm_control.chaos.ledger import Fate, fate_of
from sagellm_control.chaos.question import Question
from sagellm_control.chaos.transcript import Transcript
from sagellm_control.wire.event import CHUNK, END, EVENT_STREAM, Ending, Event
from sagellm_control.wire.states import Outcome

QUESTION = Question("what is it", 12)
TOKENS = QUESTION.expected
DONE = b"data: [DONE]\n\n"


def chunk(content: str | None = None, finish: str | None = None) -> bytes:
    delta = {} if content is None else {"content": content}
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "usage": None})


def event(fields: dict[str, object]) -> bytes:
    return b"data: " + orjson.dumps(fields) + b"\n\n"


def error(code: str) -> bytes:
    return event({"error": {"message": "x", "type": "api_error", "code": code}})


def usage(tokens: int) -> bytes:
    return event({"choices": [], "usage": {"completion_tokens": tokens}})


def stream(tokens: Sequence[str], *, finish: str = "length", used: int = 12) -> bytes:
    return b"".join(map(chunk, tokens)) + chunk(finish=finish) + usage(used) + DONE


def heard(*data: bytes) -> Transcript:
    transcript = Transcript(QUESTION)
    for piece in data:
        transcript.take_stream(piece)
    return transcript


def test_a_right_answer_has_no_flaw_however_it_is_cut_into_pieces() -> None:
    whole = b": waiting\n\n" + stream(TOKENS)
    for size in (1, 7, len(whole)):
        transcript = heard(*(whole[at : at + size] for at in range(0, len(whole), size)))
        assert transcript.done
        assert transcript.check() == {}
        assert fate_of(transcript) is Fate.FINISHED


@pytest.mark.parametrize(
    ("data", "flaws"),
    [
        (stream([*TOKENS[:5], *TOKENS[4:]]), {Flaw.DOUBLED: 1}),
        (stream([*TOKENS[:5], *TOKENS[6:]]), {Flaw.MISSING: 1}),
        (stream([*TOKENS[:5], " zebra", *TOKENS[6:]]), {Flaw.WRONG: 1}),
        (stream(TOKENS) + DONE, {Flaw.DOUBLED: 1}),
        (stream(TOKENS) + error("engine_lost"), {Flaw.DOUBLED: 1}),
        (error("engine_lost") + chunk(TOKENS[0]), {Flaw.DOUBLED: 1}),
        (stream(TOKENS, finish="stop"), {Flaw.WRONG: 1}),
        (stream(TOKENS, used=24), {Flaw.WRONG: 1}),
        (b"".join(map(chunk, TOKENS)) + usage(12) + DONE, {Flaw.WRONG: 1}),  # no finish reason
        (b"".join(map(chunk, TOKENS)) + chunk(finish="length") + DONE, {Flaw.WRONG: 1}),  # no usage
        (chunk(finish="length") + stream(TOKENS), {Flaw.WRONG: 1}),  # two finish reasons
        (b"data: {half a line\n\n" + stream(TOKENS), {Flaw.WRONG: 1}),
    ],
)
def test_each_flaw_of_a_stream_is_found(data: bytes, flaws: dict[Flaw, int]) -> None:
    assert heard(data).check() == Counter(flaws)


def test_half_an_answer_with_a_clear_error_is_interrupted() -> None:
    transcript = heard(*map(chunk, TOKENS[:5]), error("engine_lost"))
    assert transcript.check() == {}
    assert fate_of(transcript) is Fate.INTERRUPTED


def test_the_tokens_before_an_error_are_checked_too() -> None:
    assert heard(chunk(TOKENS[0]), chunk(TOKENS[0]), error("engine_lost")).check() == {Flaw.DOUBLED: 1}


@pytest.mark.parametrize(
    ("code", "fate"),
    [("deadline_exceeded", Fate.EXPIRED), ("cancelled", Fate.CANCELLED), ("engine_unreachable", Fate.FAILED)],
)
def test_an_error_without_an_answer(code: str, fate: Fate) -> None:
    transcript = heard(error(code))
    assert transcript.ended
    assert fate_of(transcript) is fate


def test_an_unknown_error_behind_half_an_answer_is_no_interruption() -> None:
    assert fate_of(heard(chunk(TOKENS[0]), error("internal_error"))) is Fate.FAILED


def test_every_reading_has_to_be_right() -> None:
    transcript = heard(chunk(TOKENS[0]), chunk(TOKENS[2]))
    transcript.restart()
    transcript.take_stream(stream(TOKENS))
    assert transcript.check() == {Flaw.WRONG: 1} or transcript.check() == {Flaw.MISSING: 1}


def test_a_whole_answer() -> None:
    def body(text: str) -> bytes:
        choice = {"message": {"content": text}, "finish_reason": "length"}
        return orjson.dumps({"choices": [choice], "usage": {"completion_tokens": 12}})

    right, wrong = Transcript(QUESTION), Transcript(QUESTION)
    right.take_whole(body("".join(TOKENS)))
    assert right.check() == {}
    wrong.take_whole(body("".join(TOKENS[:-1])))
    assert wrong.check() == {Flaw.MISSING: 1}


def test_the_events_of_the_library_and_of_the_output_log() -> None:
    rest = b"".join(map(chunk, TOKENS[6:])) + chunk(finish="length") + usage(12) + DONE
    ending = Ending(Outcome.COMPLETED, content_type=EVENT_STREAM, body=rest)
    events = [Event("r", 1, 1, CHUNK, b"".join(map(chunk, TOKENS[:6]))), Event("r", 1, 2, END, ending.encode())]
    transcript = Transcript(QUESTION)
    transcript.take_events(events)
    assert (transcript.check(), transcript.done, transcript.position) == ({}, True, (1, 2))
    transcript.take_event(events[1])
    assert transcript.check()[Flaw.DOUBLED] > 0


def test_output_that_comes_with_an_error_counts() -> None:
    lost = Ending(Outcome.FAILED, 502, content_type=EVENT_STREAM, code="engine_lost", body=chunk(TOKENS[1]))
    transcript = Transcript(QUESTION)
    transcript.take_events([Event("r", 1, 1, CHUNK, chunk(TOKENS[0])), Event("r", 1, 2, END, lost.encode())])
    assert (transcript.pieces, transcript.error) == (TOKENS[:2], "engine_lost")
