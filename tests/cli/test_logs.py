"""The two formats of the log."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from sagellm_control.cli.log_file import LogFile
from sagellm_control.cli.logs import configure_logging
from sagellm_control.command_settings import LogSettings


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """Put the root logger back as pytest has it."""
    logger = logging.getLogger()
    level, handlers = logger.level, list(logger.handlers)
    yield
    logging.captureWarnings(False)
    logger.setLevel(level)
    logger.handlers[:] = handlers


def test_text_is_one_line_with_time_level_process(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(), "gateway")
    logging.getLogger("x").warning("slow %s", "engine", extra={"request_id": "r1"})
    logging.getLogger("x").debug("not shown")
    line = capsys.readouterr().err
    assert line.endswith("Z WARNING gateway: slow engine request_id=r1\n")
    assert line[:2] == "20"


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(format="json", level="debug"), "worker")
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("x").exception("no\nanswer", extra={"attempt": 2})
    record = json.loads(capsys.readouterr().err)
    assert record["level"] == "error"
    assert record["process"] == "worker"
    assert record["logger"] == "x"
    assert record["message"] == "no\nanswer"
    assert record["attempt"] == 2
    assert record["trace"].endswith("ValueError: broken")


@pytest.mark.parametrize("form", ["text", "json"])
def test_up_picks_the_lines_that_matter(
    form: str, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    configure_logging(LogSettings.model_validate({"format": form}), "worker")
    log = logging.getLogger("x")
    log.info("started\nwith a second line")
    log.warning("careful")
    log.info("went on")
    written = LogFile(tmp_path_factory.mktemp("log") / "logs" / "worker.log")
    shown = written.write(capsys.readouterr().err.encode())
    written.close()
    assert len(shown) == 1
    assert "careful" in shown[0]
