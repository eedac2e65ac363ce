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

from ..certificates import Certificates, make_certificates
from ..cluster_group import ask_server, cluster_servers
from ..flow.asking import CHAT_PATH, MODEL, chat, expected_text
from ..flow.conftest import StartEngine
from ..flow.in_process import InProcessSystem, in_process_system
from ..sentinel_group import DOWN_AFTER_MS, sentinel_servers
from ..servers import Backend, server_binary
from ..waiting import wait_until
from .failing_over import SOON, impatient

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
        return self.certificates.client_settings(f"rediss://127.0.0.1:{self.port}/0")


@pytest.fixture
async def certificates(tmp_path: Path) -> Certificates:
    return await make_certificates(tmp_path)


@pytest.fixture
async def secured(certificates: Certificates) -> AsyncGenerator[Secured, None]:
    port = free_port()
    options = certificates.server_options | {"tls-port": str(port)}
    async with EmbeddedValkey(persist=False, options=options, binary=server_binary(Backend.REDIS)) as server:
        yield Secured(server, port, certificates)


async def test_a_chat_over_tls_with_a_client_certificate(secured: Secured, start_engine: StartEngine) -> None:
    engine = await start_engine()
    async with in_process_system(secured.settings, [engine.url]) as system:
        await answers(system, "secret")


async def test_a_cluster_over_tls(certificates: Certificates, tmp_path: Path, start_engine: StartEngine) -> None:
    """Every node is found by its TLS port, also the one that takes over."""
    engine = await start_engine()
    tls = certificates.server_options | {"tls-cluster": "yes", "tls-replication": "yes"}
    async with cluster_servers(Backend.REDIS, tmp_path, tls=tls) as servers:
        settings = impatient(certificates.client_settings(servers.url))
        await refuses(settings.model_copy(update={"tls_ca_file": None}))
        async with in_process_system(settings, [engine.url], scheduler=SOON) as system:
            await answers(system, "secret")
            key = system.store.keys.pool(MODEL).waiting
            master = await servers.owner_of(key)
            await servers.kill(master)

            async def failed_over() -> bool:
                return await servers.owner_of(key) != master

            await wait_until(failed_over, 20, what="its replica is the master")
            await answers(system, "still secret")


async def test_sentinels_over_tls(certificates: Certificates, tmp_path: Path, start_engine: StartEngine) -> None:
    """The Sentinels want to see the certificate as well as the master and the replica that takes over."""
    engine = await start_engine()
    tls = certificates.server_options | {"tls-replication": "yes"}
    async with sentinel_servers(Backend.REDIS, tmp_path, down_after_ms=DOWN_AFTER_MS, tls=tls) as servers:
        settings = impatient(certificates.client_settings(servers.url))
        await refuses(settings.model_copy(update={"tls_ca_file": None}))
        async with in_process_system(settings, [engine.url], scheduler=SOON) as system:
            await answers(system, "secret")
            master = await servers.master()
            await servers.kill(master)
            await servers.failed_over(master)
            await answers(system, "still secret")


async def answers(system: InProcessSystem, text: str) -> None:
    """Wait until a chat is answered; after a failover the first ones may be told to come back."""

    async def answered() -> bool:
        async with system.session.post(system.url + CHAT_PATH, json=chat(text, max_tokens=4, stream=False)) as response:
            if response.status == 503:
                return False
            return (await response.json())["choices"][0]["message"]["content"] == expected_text(text, 4)

    await wait_until(answered, 20, what="a chat is answered")


async def refuses(settings: RedisSettings) -> None:
    with pytest.raises(StoreUnreachable, match=r"(?i)certificate|ssl|reset by peer|closed"):
        async with open_store(settings):
            pass


@pytest.mark.parametrize(
    "without", [("tls_ca_file",), ("tls_cert_file", "tls_key_file")], ids=["no authority", "no client certificate"]
)
async def test_what_is_missing_is_an_error(secured: Secured, without: tuple[str, ...]) -> None:
    await refuses(secured.settings.model_copy(update=dict.fromkeys(without)))


async def test_who_does_not_know_the_authority_is_told_where_it_is_named(secured: Secured) -> None:
    with pytest.raises(StoreUnreachable, match=r"set redis\.tls_ca_file"):
        async with open_store(secured.settings.model_copy(update={"tls_ca_file": None})):
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
