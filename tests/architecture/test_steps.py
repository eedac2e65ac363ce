"""Every step: one Lua file with a contract, called through a typed function, and all keys declared."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sagellm_control.store.script import Script

from .sources import STEPS, modules

PRELUDE = ("prelude.lua", "prelude_queue.lua")
LUA = {path.name: path for path in sorted(STEPS.glob("*.lua"))}
STEPS_BY_NAME = {name: path for name, path in LUA.items() if name not in PRELUDE}


def header(path: Path) -> str:
    """The comment at the top of a Lua file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines[: next(i for i, s in enumerate(lines) if not s.startswith("--"))])


def code(path: Path) -> str:
    """A Lua file without its comments."""
    return re.sub(r"--[^\n]*", "", path.read_text(encoding="utf-8"))


def test_there_are_steps() -> None:
    names = {"accept", "admit", "assign", "claim", "append", "renew", "finish", "requeue", "cancel"}
    assert {f"{name}.lua" for name in names} <= STEPS_BY_NAME.keys()


@pytest.mark.parametrize("name", STEPS_BY_NAME)
def test_it_has_a_contract(name: str) -> None:
    contract = header(STEPS_BY_NAME[name])
    assert contract.startswith(f"-- {name.removesuffix('.lua')}: ")
    for part in ("KEYS[1", "ARGV[1]", "Output"):
        assert part in contract, f"the header does not say what {part} is"


@pytest.mark.parametrize("name", STEPS_BY_NAME)
def test_the_contract_names_every_fixed_argument(name: str) -> None:
    contract, text = header(STEPS_BY_NAME[name]), code(STEPS_BY_NAME[name])
    for kind in ("KEYS", "ARGV"):
        named = {int(n) for n in re.findall(rf"{kind}\[(\d+)\]", contract)}
        named |= {n for a, b in re.findall(rf"{kind}\[(\d+)\.\.(\d+)\]", contract) for n in range(int(a), int(b) + 1)}
        used = {int(n) for n in re.findall(rf"{kind}\[(\d+)\]", text)}
        assert used <= named
        assert named == set(range(1, max(named) + 1)), "a number is left out"


@pytest.mark.parametrize("name", STEPS_BY_NAME)
def test_a_typed_function_calls_it(name: str) -> None:
    wanted = rf'Script\("{name.removesuffix(".lua")}"[,)]'
    callers = [m for m, path in modules().items() if re.search(wanted, path.read_text(encoding="utf-8"))]
    assert len(callers) == 1
    # (What a step leaves to its loader is called there.)
    assert callers[0].startswith("sagellm_control.store.steps.") or callers == ["sagellm_control.store.script"]


def test_no_script_without_a_file_and_none_elsewhere() -> None:
    for module, path in modules().items():
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r'Script\("(\w+)"[,)]', text):
            assert f"{name}.lua" in STEPS_BY_NAME, f"{module} calls {name}"
        if not module.startswith("sagellm_control.store"):
            assert not re.search(r"\.(eval|evalsha|register_script|fcall)\(|EVALSHA", text), f"{module} runs a script"


@pytest.mark.parametrize("name", LUA)
def test_keys_come_from_outside(name: str) -> None:
    # On a cluster every key has to be declared: none is put together in a script.
    text = code(LUA[name])
    assert not re.search(r"""['"][^'"]*:[^'"]*['"]""", text), "a literal with a colon looks like a key"
    for command, argument in re.findall(r"redis\.p?call\('([A-Z]+)'\s*,\s*([^,)]+)", text):
        if command not in ("XGROUP", "XREADGROUP"):  # their key is not the first argument
            assert not argument.startswith(("'", '"')), f"{command} {argument} names its key itself"


@pytest.mark.parametrize("name", STEPS_BY_NAME)
def test_the_loader_finds_it(name: str) -> None:
    script = Script(name.removesuffix(".lua"))
    assert len(script.sha) == 40
    assert script.text.endswith(STEPS_BY_NAME[name].read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", STEPS_BY_NAME)
def test_what_it_uses_of_the_preludes_comes_along(name: str) -> None:
    """A name that the loader left out would be an unknown global, and only on the path that uses it."""
    text = re.sub(r"--[^\n]*", "", Script(name.removesuffix(".lua")).text.partition("\n")[2])
    for shared in PRELUDE:
        for defined in re.findall(r"^local (?:function )?(\w+)", code(LUA[shared]), re.MULTILINE):
            uses = re.search(rf"\b{defined}\b(?: ?\(|\[|\.)", text)
            local = re.search(rf"\blocal (?:function )?(?:[\w, ]*\b)?{defined}\b|\bfunction\([^)]*\b{defined}\b", text)
            assert not uses or local, f"{defined} of {shared} is used and not there"


def test_what_it_does_not_use_stays_out() -> None:
    assert "local function end_request" in Script("finish").text
    assert "local function" not in Script("prepare").text
