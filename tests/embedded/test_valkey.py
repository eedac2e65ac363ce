"""The embedded server: its settings, what survives a restart, and what it says when it cannot start."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
import uvloop
from redis.asyncio import Redis

from sagellm_control.embedded import EmbeddedValkey, EmbeddedValkeyError, PortInUseError, require_free
from sagellm_control.embedded.folder_lock import FolderLock
from sagellm_control.embedded.valkey import carried_binary


async def value_of(valkey: EmbeddedValkey, key: str) -> bytes | None:
    async with Redis.from_url(valkey.url) as client:
        return await client.get(key)


def exists(folder: str) -> bool:
    return Path(folder).is_dir()


async def test_settings_that_the_queue_depends_on(tmp_path: Path) -> None:
    async with EmbeddedValkey(tmp_path / "valkey") as valkey, Redis.from_url(valkey.url) as client:
        config = await client.config_get("*")
        assert config["maxmemory-policy"] == "noeviction"
        assert config["appendonly"] == "yes"
        assert config["appendfsync"] == "everysec"
        assert config["save"] == ""
        assert config["bind"] == "127.0.0.1"
        assert (tmp_path / "valkey" / "valkey.pid").read_text().strip() == str(valkey.pid)
        assert (tmp_path / "valkey").stat().st_mode & 0o077 == 0


async def test_what_was_written_survives_a_restart(tmp_path: Path) -> None:
    valkey = EmbeddedValkey(tmp_path)
    async with valkey, Redis.from_url(valkey.url) as client:
        port = valkey.port
        await client.set("kept", "yes")
    async with valkey:
        assert valkey.port == port
        assert await value_of(valkey, "kept") == b"yes"


async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    async with EmbeddedValkey(tmp_path) as valkey:
        async with Redis.from_url(valkey.url) as client:
            await client.set("kept", "yes")
        valkey.kill()
        assert await valkey.wait() == -signal.SIGKILL
        await valkey.start()
        assert await value_of(valkey, "kept") == b"yes"


async def test_without_persistence_nothing_stays() -> None:
    async with EmbeddedValkey(persist=False) as valkey, Redis.from_url(valkey.url) as client:
        config = await client.config_get("*")
        assert config["appendonly"] == "no"
        assert exists(config["dir"])
    assert not exists(config["dir"])


PARENT = """
import asyncio, sys
from sagellm_control.embedded import EmbeddedValkey
async def main():
    async with EmbeddedValkey(persist=False) as valkey:
        print(valkey.pid, valkey.port, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_kill_9_of_its_parent_ends_the_server(tmp_path: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PARENT,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert parent.stdout is not None
    _, port = map(int, (await parent.stdout.readline()).split())
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    os.kill(parent.pid, signal.SIGKILL)
    await parent.wait()
    # The kernel closes the connection when the server is gone.
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()


def test_another_binary_starts_on_the_event_loop_of_our_processes() -> None:
    """uvloop takes fewer kinds of environments for a child than asyncio's own loop."""

    async def start() -> None:
        async with EmbeddedValkey(persist=False, binary=carried_binary()) as valkey:
            assert await value_of(valkey, "nothing") is None

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(start())


async def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"port {port} on 127.0.0.1 is in use; .*--valkey-port"):
            async with EmbeddedValkey(port=port, persist=False):
                pass
        with pytest.raises(PortInUseError, match="choose another with --port"):
            require_free("127.0.0.1", port, "--port")


async def test_a_free_port_that_somebody_takes_first_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [taken.getsockname()[1], other.getsockname()[1]]

        def next_port() -> int:
            if len(ports) == 1:
                other.close()
            return ports.pop(0)

        monkeypatch.setattr("sagellm_control.embedded.valkey.free_port", next_port)
        async with EmbeddedValkey(persist=False) as valkey:
            assert valkey.port != taken.getsockname()[1]


async def test_a_folder_in_use_names_the_server(tmp_path: Path) -> None:
    async with EmbeddedValkey(tmp_path) as valkey:
        with pytest.raises(EmbeddedValkeyError, match=f"in use by the server with pid {valkey.pid}"):
            async with EmbeddedValkey(tmp_path):
                pass
        assert await value_of(valkey, "any") is None  # and it goes on undisturbed


async def test_a_server_that_outlived_its_supervisor_keeps_the_folder(tmp_path: Path) -> None:
    async with EmbeddedValkey(tmp_path) as valkey:
        valkey._held.close()  # what the end of a supervisor does to its own hold on the lock
        with pytest.raises(EmbeddedValkeyError, match=f"pid {valkey.pid}"):
            async with EmbeddedValkey(tmp_path):
                pass
    with FolderLock(tmp_path):
        pass  # free again


async def test_a_server_that_gives_up_shows_its_log() -> None:
    with pytest.raises(EmbeddedValkeyError, match=r"(?s)ended with exit code 1.*Bad directive"):
        async with EmbeddedValkey(persist=False, options={"no-such-setting": "1"}):
            pass


async def test_an_append_only_file_that_cannot_be_read(tmp_path: Path) -> None:
    async with EmbeddedValkey(tmp_path) as valkey, Redis.from_url(valkey.url) as client:
        await client.set("kept", "yes")
    (part,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
    part.write_bytes(b"nonsense\r\n")
    with pytest.raises(EmbeddedValkeyError, match=r"(?s)last lines of .*valkey\.log.*Bad file format"):
        async with EmbeddedValkey(tmp_path):
            pass


async def test_a_paused_server_is_killed_after_the_deadline() -> None:
    async with EmbeddedValkey(persist=False) as valkey:
        os.kill(valkey.pid, signal.SIGSTOP)
        assert await valkey.stop(0.05) is False
        assert await valkey.wait() == -signal.SIGKILL
