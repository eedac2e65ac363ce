"""Reading traces: both forms, and files that are no traces."""

from __future__ import annotations

from pathlib import Path

import pytest

from sagellm_control.simulator.traces import BadTrace, read_trace

TRACES = Path(__file__).parent / "traces"


def test_json_lines_with_blocks() -> None:
    lines = read_trace(TRACES / "mooncake_conversation.jsonl")
    assert len(lines) == 40
    assert (lines[0].prompt_tokens, lines[0].output_tokens, lines[0].at_ms) == (6758, 500, 0)
    assert lines[0].prefix == tuple(str(block) for block in range(14))
    assert [line.at_ms for line in lines] == sorted(line.at_ms for line in lines)


def test_csv_with_times_of_day() -> None:
    lines = read_trace(TRACES / "azure_conversation.csv", most=3)
    assert [(line.prompt_tokens, line.output_tokens) for line in lines] == [(374, 44), (396, 109), (879, 55)]
    assert lines[1].at_ms == pytest.approx(4314.579)


def test_csv_across_midnight_with_plain_seconds(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 23:59:59.5,1,1\n2023-11-17 00:00:00.25,1,1\n")
    assert read_trace(file)[1].at_ms == pytest.approx(750)
    file.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n5.5,1,1\n7,1,1\n")
    assert read_trace(file)[1].at_ms == pytest.approx(1500)


def test_empty_lines_at_the_top_say_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a"
    for text in (GOOD, "TIMESTAMP,ContextTokens,GeneratedTokens\n5.5,5,5\n"):
        file.write_text("\n  \n" + text)
        assert [(line.prompt_tokens, line.output_tokens) for line in read_trace(file)] == [(5, 5)]


GOOD = '{"timestamp": 0, "input_length": 5, "output_length": 5}\n'


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.jsonl", GOOD + "{", ("line 2", "not JSON")),
        ("a.jsonl", GOOD + '{"timestamp": 1, "output_length": 5}', ("line 2", "input_length", "None")),
        (
            "a.jsonl",
            GOOD + '{"timestamp": 1, "input_length": 5, "output_length": -1}',
            ("line 2", "output_length", "-1"),
        ),
        ("a.jsonl", GOOD + '{"timestamp": "x", "input_length": 5, "output_length": 5}', ("line 2", "timestamp")),
        ("a.jsonl", GOOD + "[]", ("line 2", "object")),
        ("a.jsonl", '{"timestamp": 0, "input_length": 5, "output_length": 5, "hash_ids": 3}', ("line 1", "hash_ids")),
        ("a.csv", "a,b\n1,2\n", ("line 1", "TIMESTAMP", "GeneratedTokens")),
        ("a.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\nnever,1,1\n", ("line 2", "TIMESTAMP", "never")),
        ("a.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n1,many,1\n", ("line 2", "ContextTokens", "many")),
        ("a.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n1,5\n", ("line 2", "GeneratedTokens")),
        ("a.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n", ("no requests",)),
        ("a.csv", "\nTIMESTAMP,ContextTokens,GeneratedTokens\n1,many,1\n", ("line 3", "ContextTokens", "many")),
        ("a.csv", "\n\n", ("there is no column",)),
        ("a.csv", "", ("line 1",)),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, text: str, says: tuple[str, ...]) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(BadTrace) as told:
        read_trace(file)
    assert all(part in str(told.value) for part in (str(file), *says))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadTrace, match="No such file"):
        read_trace(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadTrace, match="UTF-8"):
        read_trace(tmp_path / "binary")
