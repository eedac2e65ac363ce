"""Where settings come from, which source wins, and what is said of those that cannot be used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sagellm_control.settings import Flag, Settings, SettingsError, env_name, load_settings, masked, sections

from ..architecture.sources import modules


def problems(*flags: Flag, config: Path | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(flags, config)
    return caught.value.problems


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


PORT = env_name("gateway", "port")


def test_a_flag_wins_over_environment_over_file_over_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().settings.gateway.port == 8000
    file = write(tmp_path / "c.toml", "[gateway]\nport = 1001\n")
    assert load_settings(config=file).settings.gateway.port == 1001
    monkeypatch.setenv(PORT, "1002")
    assert load_settings(config=file).settings.gateway.port == 1002
    loaded = load_settings([Flag("gateway", "port", "--port", "1003")], file)
    assert loaded.settings.gateway.port == 1003
    assert loaded.origins["gateway", "port"].kind == "flag"
    assert loaded.config == file


def test_sources_are_merged_field_by_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "c.toml", '[gateway]\nport = 1001\nhost = "::1"\n')
    monkeypatch.setenv(env_name("gateway", "max_waiting"), "7")
    gateway = load_settings([Flag("gateway", "port", "--port", "1003")], file).settings.gateway
    assert (gateway.port, gateway.host, gateway.max_waiting) == (1003, "::1", 7)


def test_the_file_is_found_by_variable_and_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "sagellm-control.toml", "[gateway]\nport = 1001\n")
    assert load_settings().settings.gateway.port == 1001
    assert Settings().gateway.port == 1001
    other = write(tmp_path / "other.toml", "[gateway]\nport = 1002\n")
    monkeypatch.setenv("SAGELLM_CONTROL_CONFIG", str(other))
    assert load_settings().settings.gateway.port == 1002


@pytest.mark.parametrize(
    ("text", "engines"),
    [
        ("http://a:1", ["http://a:1"]),
        ("http://a:1, http://b:2,", ["http://a:1", "http://b:2"]),
        ('["http://a:1"]', ["http://a:1"]),
        ("", []),
    ],
)
def test_lists_in_the_environment(text: str, engines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(env_name("worker", "engine"), text)
    assert load_settings().settings.worker.engine == engines


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PORT, "")
    assert load_settings().settings.gateway.port == 8000


def test_what_may_be_unset_can_be_unset_by_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "c.toml", "[worker]\nslots = 4\n")
    monkeypatch.setenv(env_name("worker", "slots"), "none")
    assert load_settings(config=file).settings.worker.slots is None


def test_out_of_bounds_names_the_source_and_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "c.toml", "[gateway]\nmax_waiting = 0\n")
    monkeypatch.setenv(PORT, "70000")
    assert problems(Flag("redis", "command_timeout_s", "--redis-command-timeout-s", "0"), config=file) == [
        "--redis-command-timeout-s 0: input should be greater than 0",
        f"{PORT}=70000: input should be less than or equal to 65535",
        f"{file}: gateway.max_waiting = 0: input should be greater than or equal to 1",
    ]


def test_unknown_names_get_the_nearest_known_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "c.toml", "[gatewy]\nport = 1\n[gateway]\nprot = 1\nxyzzy = 1\n")
    monkeypatch.setenv("SAGELLM_CONTROL_GATEWAY_PROT", "1")
    monkeypatch.setenv("SAGELLM_CONTROL_BOGUS", "1")
    assert problems(config=file) == [
        f"{file}: [gatewy]: no such section; did you mean gateway?",
        f"{file}: gateway.prot: no such setting; did you mean port?",
        f"{file}: gateway.xyzzy: no such setting; `sagellm-control settings` shows all of them",
        "SAGELLM_CONTROL_BOGUS (environment): no such setting; `sagellm-control settings` shows all of them",
        f"SAGELLM_CONTROL_GATEWAY_PROT (environment): no such setting; did you mean {PORT}?",
    ]


@pytest.mark.parametrize("section", sections())
def test_every_setting_is_read_where_its_process_is(section: str) -> None:
    model = sections()[section]
    package = "" if section == "redis" else model.__module__.rpartition(".")[0]  # (all processes read that one)
    text = "\n".join(path.read_text(encoding="utf-8") for path in modules(package).values())
    assert [name for name in model.model_fields if not re.search(rf"\.{name}\b", text)] == []


def test_a_problem_with_the_file_itself(tmp_path: Path) -> None:
    assert problems(config=tmp_path / "none.toml") == [
        f"{tmp_path / 'none.toml'}: cannot be read: No such file or directory"
    ]
    (line,) = problems(config=write(tmp_path / "c.toml", "[gateway\n"))
    assert line.startswith(f"{tmp_path / 'c.toml'}: is no valid TOML: ")
    (line,) = problems(config=write(tmp_path / "c.toml", "gateway = 5\n"))
    assert line == f"{tmp_path / 'c.toml'}: gateway must be a table: [gateway]"
    assert problems(config=write(tmp_path / "c.toml", "max_body_bytes = 1\nport = 1\ngatewy = 1\n")) == [
        f"{tmp_path / 'c.toml'}: max_body_bytes stands in no table; did you mean max_body_bytes in [gateway]?",
        f"{tmp_path / 'c.toml'}: port stands in no table; did you mean port in [gateway] or [engine]?",
        f"{tmp_path / 'c.toml'}: gatewy stands in no table, and is no section; did you mean gateway?",
    ]


def test_a_rule_over_several_settings_is_told_for_the_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(env_name("engine", "fail_rate"), "0.7")
    monkeypatch.setenv(env_name("engine", "hang_rate"), "0.7")
    (line,) = problems()
    assert line.startswith("engine: fail_rate + hang_rate")


def test_a_validators_own_words_reach_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(env_name("worker", "engine"), "gpu1:8000")
    assert problems() == [
        f"{env_name('worker', 'engine')}=['gpu1:8000']: 'gpu1:8000' is no URL of an engine: "
        "it must begin with http:// or https://"
    ]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://user:s3cret@gpu1:8000", "no user or password may stand in it; give an api_key"),
        ("http://user:s3/cret@gpu1:8000", "it needs a host, and a port"),
        ("ftp://user:s3cret@gpu1", "it must begin with http:// or https://"),
        ("http://s3cret@gpu1:8000", "no user or password may stand in it; give an api_key"),
        ("user:s3cret@gpu1:8000", "it must begin with http:// or https://"),
        ("http://gpu1:8000/?x=1", "no blank, ? or #"),
        ("http://gpu1:8000#x", "no blank, ? or #"),
        ("http://gpu1:8000/v1?", "no blank, ? or #"),
        ("http://1.2.3.999", "Invalid IPv4 address: '1.2.3.999'"),
        ("http://gpu1\tx", "Invalid non-printable"),
        ("http://gpu1:0", "a port from 1 to 65535"),
        ("http://:8000", "it needs a host"),
    ],
)
def test_an_engine_that_no_worker_could_ask_is_refused_at_the_start(url: str, reason: str) -> None:
    (line,) = problems(Flag("worker", "engine", "--engine", [url]))
    assert line.startswith("--engine [")
    assert reason in line
    assert "s3" not in line


def test_true_is_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "c.toml", "[gateway]\nport = true\n[worker]\nslots = true\nlease_s = false\nadopt = true\n")
    assert problems(config=file) == [
        f"{file}: gateway.port = true: input should be a number",
        f"{file}: worker.slots = true: input should be a number",
        f"{file}: worker.lease_s = false: input should be a number",
    ]
    monkeypatch.setenv(env_name("worker", "adopt"), "1")
    assert load_settings().settings.worker.adopt


def test_true_is_no_number_where_another_value_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PORT, "1002")
    file = write(tmp_path / "c.toml", "[gateway]\nport = true\n")
    assert load_settings(config=file).settings.gateway.port == 1002


def test_one_value_where_a_list_is_wanted_is_shown_as_one(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", '[worker]\nengine = "http://a:b@host:1"\n[gateway]\nqueue_ttl = 5\n')
    assert problems(config=file) == [
        f"{file}: gateway.queue_ttl = 5: input should be a valid list",
        f'{file}: worker.engine = "http://a:***@host:1": input should be a valid list: ["http://a:***@host:1"]',
    ]


def test_passwords_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    assert masked("url", "redis://me:s3cret@host:1/0") == "redis://me:***@host:1/0"
    assert masked("url", "redis://:p@ss@host") == "redis://:***@host"
    assert masked("url", "redis://host:1/0") == "redis://host:1/0"
    assert masked("engine", ["http://a:b@host/v1"]) == ["http://a:***@host/v1"]
    assert masked("engine", ["http://s3cret@host", "a:b@host"]) == ["http://***@host", "a:***@host"]
    assert masked(env_name("worker", "engine"), "a:b@host") == "a:***@host"
    assert masked("model", ["llama@main"]) == ["llama@main"]
    assert masked("api_key", "sk-1") == "***"
    assert masked("max_tokens", 5) == 5
    monkeypatch.setenv(env_name("redis", "url"), "redis://me:s3cret@host:1/0")
    monkeypatch.setenv(env_name("redis", "namespace"), "a b")
    assert "s3cret" not in str(problems())


def test_every_setting_says_what_it_is() -> None:
    for section, model in sections().items():
        assert model.__doc__, section
        for name, field in model.model_fields.items():
            assert field.description, f"{section}.{name}"
