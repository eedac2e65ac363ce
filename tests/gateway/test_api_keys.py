"""The file of API keys: what it holds, and what is said about one that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagellm_control.gateway.api_keys import ApiKeys, ApiKeysUnreadable, Caller, hash_key, new_key
from sagellm_control.wire.priority import RequestPriority

HASH = hash_key("sk-1")
ENTRY = f'[[keys]]\nsha256 = "{HASH}"\ntenant = "x"\n'


def _written(folder: Path, text: str) -> Path:
    path = folder / "keys.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_entries_and_their_defaults(tmp_path: Path) -> None:
    keys = ApiKeys.read(
        _written(
            tmp_path,
            f'[[keys]]\nsha256 = "{HASH}"\ntenant = "search"\n'
            f'[[keys]]\nsha256 = "{hash_key("sk-2")}"\ntenant = "batch"\nmax_priority = "low"\nweight = 0.5\n',
        )
    )
    assert keys.find("sk-1") == Caller(sha256=HASH, tenant="search")
    second = keys.find("sk-2")
    assert second is not None
    assert (second.tenant, second.max_priority, second.weight) == ("batch", RequestPriority.LOW, 0.5)


def test_one_tenant_may_have_several_keys() -> None:
    keys = ApiKeys([Caller(sha256=hash_key(f"sk-{i}"), tenant="search") for i in range(3)])
    assert {caller.tenant for i in range(3) if (caller := keys.find(f"sk-{i}"))} == {"search"}


@pytest.mark.parametrize("key", ["", "sk-", "sk-11", " sk-1", "SK-1", HASH, "\x00", "é"])
def test_any_other_key_is_nobodys(key: str) -> None:
    assert ApiKeys([Caller(sha256=HASH, tenant="search")]).find(key) is None


# As aiohttp reads the bytes of a header.
@given(st.binary().map(lambda sent: sent.decode("utf-8", "surrogateescape")))
def test_whatever_text_comes_is_compared(key: str) -> None:
    assert (ApiKeys([Caller(sha256=HASH, tenant="search")]).find(key) is not None) == (key == "sk-1")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no [[keys]] entry"),
        ("keys = 3", "no [[keys]] entry"),
        ("[[keys]", "no TOML"),
        ('[[keys]]\ntenant = "x"', "sha256"),
        (f'[[keys]]\nsha256 = "{HASH}"', "tenant"),
        ('[[keys]]\nsha256 = "sk-clear-text"\ntenant = "x"', "sha256"),
        (f'[[keys]]\nsha256 = "{HASH}"\ntenant = ""', "tenant"),
        (f'[[keys]]\nsha256 = "{HASH}"\ntenant = "x"\nmax_priority = "URGENT"', "max_priority"),
        (f'[[keys]]\nsha256 = "{HASH}"\ntenant = "x"\nweight = 0', "weight"),
        (f'[[keys]]\nsha256 = "{HASH}"\ntenant = "x"\nkey = "sk-1"', "key"),
        ("keys = [1]", "[[keys]] entry 1: it must be a table"),
        (f'{ENTRY}[[keys]]\nsha256 = "{"0" * 64}"', "[[keys]] entry 2: tenant is missing"),
        (f'{ENTRY}[[keys]]\nsha256 = "sk-2"\ntenant = "x"', "[[keys]] entry 2: sha256 must be 64 of 0-9 and a-f"),
        (f'{ENTRY}tenants = "x"', "[[keys]] entry 1: there is no 'tenants'; there are sha256, tenant, "),
        (f"{ENTRY}weight = 0", "[[keys]] entry 1: weight: input should be greater than or equal to 0.0001"),
        (f"{ENTRY}weight = 1e-5", "[[keys]] entry 1: weight: input should be greater than or equal to 0.0001"),
        (f"{ENTRY}weight = 1001", "[[keys]] entry 1: weight: input should be less than or equal to 1000"),
        (f'{ENTRY}max_priority = "URGENT"', "[[keys]] entry 1: max_priority: unknown priority 'URGENT': use one of"),
        (f"{ENTRY}{ENTRY}", "[[keys]] entry 2: its key is that of entry 1"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(tmp_path: Path, text: str, says: str) -> None:
    path = _written(tmp_path, text)
    with pytest.raises(ApiKeysUnreadable) as caught:
        ApiKeys.read(path)
    assert str(caught.value).startswith(f"--api-keys {path}: ")
    assert "sk-" not in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ApiKeysUnreadable, match=r"keys\.toml"):
        ApiKeys.read(path)


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ApiKeysUnreadable, match=str(tmp_path)):
        ApiKeys.read(tmp_path)


def test_new_keys_differ_and_fit_a_header() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.isascii() and key.isprintable() and " " not in key and len(key) > 40 for key in keys)
