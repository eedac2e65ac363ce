"""The Dockerfile: what it copies is there and not ignored, and it runs as nobody special."""

from __future__ import annotations

import json
import shlex
import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    """Each instruction and its argument, continued lines joined."""
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines.splitlines() if line.strip()]


def ignored(name: str) -> bool:
    """Whether `.dockerignore` keeps a file out of the build; the last line that fits decides."""
    result = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#") and (fnmatch(name, pattern) or name.startswith(pattern + "/")):
            result = not line.startswith("!")
    return result


def test_what_it_copies_is_there_and_not_ignored() -> None:
    copied = [argument.split()[:-1] for name, argument in instructions() if name == "COPY" and "--from" not in argument]
    names = [name for group in copied for name in group]
    assert names
    for name in names:
        assert (ROOT / name).exists(), f"{name} is not there"
        assert not ignored(name), f"{name} is ignored"


def test_it_copies_all_that_the_package_is_built_from() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    sources = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {"pyproject.toml", project["project"]["readme"], *(source.split("/")[0] for source in sources)}
    arguments = [argument.split() for name, argument in instructions() if name == "COPY"]
    assert needed <= {word for words in arguments for word in words}


def test_nothing_else_reaches_the_builder() -> None:
    for name in (".git", ".venv/bin/python", ".sagellm-control/valkey", "tests", "control/x/__pycache__"):
        assert ignored(name), name


def test_the_image_is_slim_has_the_command_and_no_root() -> None:
    lines = instructions()
    bases = [argument.split()[0] for name, argument in lines if name == "FROM"]
    assert bases == ["python:3.11-slim"] * 2
    final = lines[max(i for i, (name, _) in enumerate(lines) if name == "FROM") :]
    user = dict(final)["USER"].split(":")[0]
    assert int(user) >= 1000
    assert json.loads(dict(final)["ENTRYPOINT"]) == ["sagellm-control"]
    created = next(argument for name, argument in final if name == "RUN")
    assert shlex.split(created)[shlex.split(created).index("--uid") + 1] == user
