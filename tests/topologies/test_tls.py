"""TLS to the server: the authority is checked, the name is checked, a client certificate is shown.

The embedded Valkey is built without TLS, so this needs a ``redis-server`` that has it (Debian's does).
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import ValidationError

from sagellm_control.embedded import EmbeddedValkey
from sagellm_control.embedded.ports import free_port
from sagellm_control.store.connect import StoreUnreachable, open_store
from sagellm_control.store.settings import RedisSettings

from ..flow.asking import CHAT_PATH, chat, expected_text
from ..flow.conftest import StartEngine
from ..flow.in_process import in_process_system
from ..server_groups import ask_server
from .certificates import Certificates, make_certificates

pytestmark = pytest.mark.skipif(
    shutil.which("redis-server") is None or shutil.which("openssl") is None, reason="no redis-server, or no openssl"
)


@dataclass
class Secured:
    """A server with TLS."""

    plain: EmbeddedValkey
    port: int
    certificates: Certificates

    @property
    def settings(self) -> RedisSettings:
        """All that the server asks for."""
        return RedisSettings(
            url=f"rediss://127.0.0.1:{self.port}/0",
            tls_ca_file=self.certificates.authority,
            tls_cert_file=self.certificates.certificate("client"),
            tls_key_file=self.certificates.key("client"),
        )


@pytest.fixture
async def secured(tmp_path: Path) -> AsyncGenerator[Secured, None]:
    certificates = await make_certificates(tmp_path)
    port = free_port()
    options = {
        "tls-port": str(port),
        "tls-cert-file": str(certificates.certificate("server")),
        "tls-key-file": str(certificates.key("server")),
        "tls-ca-cert-file": str(certificates.authority),
        "tls-auth-clients": "yes",
    }
    binary = Path(shutil.which("redis-server") or "")
    async with EmbeddedValkey(persist=False, options=options, binary=binary) as server:
        yield Secured(server, port, certificates)


async def test_a_chat_over_tls_with_a_client_certificate(secured: Secured, start_engine: StartEngine) -> None:
    engine = await start_engine()
    async with in_process_system(secured.settings, [engine.url]) as system:
        body = chat("secret", max_tokens=4, stream=False)
        async with system.session.post(system.url + CHAT_PATH, json=body) as response:
            assert (await response.json())["choices"][0]["message"]["content"] == expected_text("secret", 4)


@pytest.mark.parametrize(
    "without", [("tls_ca_file",), ("tls_cert_file", "tls_key_file")], ids=["no authority", "no client certificate"]
)
async def test_what_is_missing_is_an_error(secured: Secured, without: tuple[str, ...]) -> None:
    settings = secured.settings.model_copy(update=dict.fromkeys(without))
    with pytest.raises(StoreUnreachable, match=r"(?i)certificate|ssl|reset by peer|closed"):
        async with open_store(settings):
            pass


async def test_the_name_is_checked_unless_told_otherwise(secured: Secured) -> None:
    names = secured.certificates
    pair = ("tls-cert-file", str(names.certificate("elsewhere")), "tls-key-file", str(names.key("elsewhere")))
    await ask_server(secured.plain.port, "CONFIG", "SET", *pair)
    with pytest.raises(StoreUnreachable, match=r"127\.0\.0\.1"):
        async with open_store(secured.settings):
            pass
    async with open_store(secured.settings.model_copy(update={"tls_check_hostname": False})) as store:
        assert await store.commands.ping()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="there is no file"):
        RedisSettings(tls_ca_file=tmp_path / "nothing.pem")
