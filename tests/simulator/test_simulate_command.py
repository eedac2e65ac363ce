"""``sagellm-control simulate``: what scripts rely on, and what it says to a mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sagellm_control.cli.root import root

TRACES = Path(__file__).parent / "traces"
MOONCAKE, AZURE = str(TRACES / "mooncake_conversation.jsonl"), str(TRACES / "azure_conversation.csv")


def simulate(*arguments: str) -> Result:
    return CliRunner().invoke(root, ["simulate", *arguments])


def test_the_json_that_scripts_rely_on(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = simulate(
        *("--trace", MOONCAKE, "--engines", "2", "--policy", "fifo,shortest", "--placement", "least_loaded"),
        *("--load", "1.2", "--batch-share", "0.6", "--json", str(out), "--processes", "1"),
    )
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text())
    assert report["knee_rate"] > 0
    assert report["rate"] == pytest.approx(1.2 * report["knee_rate"], rel=1e-3)
    assert [row["kind"] for row in report["rows"]] == ["ours"] * 2 + ["early_binding"] * 6 + ["oracle"]
    assert [row["policy"] for row in report["rows"][:2]] == ["fifo", "shortest"]
    keys = {"kind", "policy", "placement", "goodput", "interactive_attainment", "batch_attainment", "refused"}
    for row in report["rows"]:
        assert keys <= row.keys()
        assert 0 <= row["goodput"] <= 1
        assert {"p50", "p95", "p99"} == row["ttft_ms"].keys() == row["tpot_ms"].keys() == row["e2e_ms"].keys()
    assert "best ours: goodput" in done.output


def test_the_same_command_writes_the_same_file(tmp_path: Path) -> None:
    texts: list[str] = []
    for name in ("a", "b"):
        done = simulate(
            "--trace", AZURE, "--engines", "1", "--rate", "5", "--seed", "3", "--json", str(tmp_path / name)
        )
        assert done.exit_code == 0, done.output
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1]
    assert json.loads(texts[0])["knee_rate"] is None


def test_json_to_standard_output_alone() -> None:
    done = simulate("--trace", AZURE, "--rate", "5", "--only-ours", "--json", "-")
    assert json.loads(done.stdout)["rows"][0]["kind"] == "ours"


def test_the_plot_page_needs_nothing_from_the_network(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert simulate("--trace", MOONCAKE, "--rate", "5", "--only-ours", "--plot", str(page)).exit_code == 0
    text = page.read_text()
    assert "<svg" in text
    assert "<script" not in text
    assert "src=" not in text
    assert "href=" not in text


def test_synthetic_arrivals_need_no_trace() -> None:
    done = simulate("--synthetic", "bursts", "--requests", "100", "--rate", "10", "--tenants", "3", "--only-ours")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--policy", "best"], ["unknown policy 'best'", "fifo", "slo_aware", "adaptive"]),
        (["--placement", "fifo,x"], ["unknown placement 'fifo'", "least_loaded", "soonest"]),
        (["--policy", ","], ["--policy names nothing"]),
        (["--speeds", "1,0"], ["--speeds", "0"]),
        (["--roles", "prefilling,dreaming"], ["unknown role 'dreaming'", "decoding", "hybrid"]),
        (["--roles", "prefilling"], ["--roles", "nobody would answer"]),
        (["--roles", "decoding"], ["--roles", "nobody would read prompts"]),
        (["--engines", "1", "--roles", "prefilling,decoding"], ["--roles", "nobody would answer"]),
        (["--pace", "fast"], ["--pace", "fast"]),
        (["--fail", "99@1+1"], ["--fail", "0 to 15"]),
        (["--set", "stretch=-1"], ["stretch", "-1"]),
        (["--set", "stretch"], ["NAME=VALUE"]),
        (["--set", "nonsense=1"], ["nonsense"]),
        (["--load", "1", "--rate", "1"], ["exclude"]),
        (["--synthetic", "poisson"], ["either"]),
        (["--batch-share", "2"], ["--batch-share"]),
    ],
)
def test_a_mistake_is_told_in_a_line(arguments: list[str], says: list[str]) -> None:
    done = simulate("--trace", AZURE, *arguments)
    assert done.exit_code == 2
    assert all(part in done.output for part in says), done.output
    assert "Traceback" not in done.output


def test_a_bad_trace_names_line_and_field(tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n1,2,3\n4,x,6\n")
    done = simulate("--trace", str(bad))
    assert done.exit_code == 1
    assert done.output.strip().splitlines() == [
        f"Error: trace {bad}, line 3: field ContextTokens must be a whole number from 1 to 100000000, not 'x'"
    ]
    assert simulate("--trace", str(tmp_path / "none")).exit_code == 1
