"""Which allocator the embedded server is started with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sagellm_control.embedded import EmbeddedValkey
from sagellm_control.embedded.allocator import JEMALLOC, library_folders, with_allocator


def test_jemalloc_is_put_in_front_from_the_first_folder_that_has_it(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("without", "first", "second")]
    for folder in folders:
        folder.mkdir()
    for folder in folders[1:]:
        (folder / JEMALLOC).touch()
    assert with_allocator({"HOME": "/root"}, folders) == {"HOME": "/root", "LD_PRELOAD": f"{tmp_path}/first/{JEMALLOC}"}


def test_without_jemalloc_glibc_gets_a_larger_cache(tmp_path: Path) -> None:
    assert with_allocator({}, [tmp_path]) == {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=5000"}


@pytest.mark.parametrize("chosen", ["", "/opt/libmimalloc.so"])
def test_who_chose_what_is_preloaded_is_left_alone(tmp_path: Path, chosen: str) -> None:
    (tmp_path / JEMALLOC).touch()
    assert with_allocator({"LD_PRELOAD": chosen}, [tmp_path])["LD_PRELOAD"] == chosen


def mapped_by(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="preloads by LD_PRELOAD")
@pytest.mark.parametrize("chosen", [None, ""])
async def test_the_server_runs_with_what_was_found(monkeypatch: pytest.MonkeyPatch, chosen: str | None) -> None:
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    if chosen is not None:
        monkeypatch.setenv("LD_PRELOAD", chosen)
    found = any((folder / JEMALLOC).is_file() for folder in library_folders())
    async with EmbeddedValkey(persist=False) as valkey:
        assert (JEMALLOC in mapped_by(valkey.pid)) == (found and chosen is None)
