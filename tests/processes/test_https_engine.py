"""An engine behind TLS, with a certificate of an authority of one's own."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from aiohttp import web

from sagellm_control.simulated_engine.app import build_app
from sagellm_control.simulated_engine.settings import SimulatedEngineSettings

from ..certificates import Certificates, make_certificates
from ..waiting import wait_until
from .chats import Chat, stream_chat
from .real_processes import RealProcesses

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")


@pytest.fixture
async def certificates(tmp_path: Path) -> Certificates:
    return await make_certificates(tmp_path)


@pytest.fixture
async def engine(certificates: Certificates) -> AsyncGenerator[str, None]:
    """The URL of a simulated engine that only speaks TLS."""
    secured = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    secured.load_cert_chain(certificates.certificate("server"), certificates.key("server"))
    runner = web.AppRunner(build_app(SimulatedEngineSettings()), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=secured).start()
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_an_authority_of_ones_own_is_named_as_usual(
    processes: RealProcesses, engine: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    await processes.worker(engine)
    await processes.start("scheduler")
    _, url = await processes.gateway()
    chat = Chat("say something short", 5)
    (await stream_chat(processes.session, url, chat.prompt, chat.tokens, chat)).check()


async def test_a_certificate_of_nobody_that_is_known_is_told(processes: RealProcesses, engine: str) -> None:
    worker = await processes.start("worker", "--engine", engine)
    await wait_until(lambda: "certificate verify failed" in worker.log.read_text(), what="it is told")
    assert not await processes.engines()
