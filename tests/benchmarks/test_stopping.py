"""A benchmark that is stopped half way leaves neither processes nor folders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ..cli.up_process import SLOW_S, clean_environment, eventually

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.throughput", "--quick"],
        cwd=ROOT,
        env=clean_environment(TMPDIR=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        group = process.pid
        eventually(lambda: list(tmp_path.glob("sagellm-benchmark-*/gateway.log")), "it is under way")
        process.send_signal(number)
        said, _ = process.communicate(timeout=SLOW_S)
    assert process.returncode != 0, said
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
