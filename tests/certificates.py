"""Certificates for a test, made on the fly by the ``openssl`` program."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from sagellm_control.store.settings import RedisSettings


@dataclass(frozen=True)
class Certificates:
    """An authority, a server's certificate for 127.0.0.1, and a client's."""

    folder: Path

    @property
    def authority(self) -> Path:
        return self.folder / "authority.pem"

    def certificate(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    @property
    def server_options(self) -> dict[str, str]:
        """Settings of a server that wants to see a client's certificate; its ``tls-port`` is not among them."""
        return {
            "tls-cert-file": str(self.certificate("server")),
            "tls-key-file": str(self.key("server")),
            "tls-ca-cert-file": str(self.authority),
            "tls-auth-clients": "yes",
        }

    def client_settings(self, url: str) -> RedisSettings:
        """All that such a server asks for."""
        return RedisSettings(
            url=url,
            tls_ca_file=self.authority,
            tls_cert_file=self.certificate("client"),
            tls_key_file=self.key("client"),
        )


async def make_certificates(folder: Path) -> Certificates:
    """Make them; they are valid for a day."""
    made = Certificates(folder)
    await _openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"),
        *("-subj", "/CN=test authority", "-keyout", made.key("authority"), "-out", made.authority),
    )
    for name, alternative in (("server", "IP:127.0.0.1"), ("elsewhere", "DNS:elsewhere.example"), ("client", "DNS:me")):
        extensions = folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternative}\n")
        request = folder / f"{name}.csr"
        await _openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}"),
            *("-keyout", made.key(name), "-out", request),
        )
        await _openssl(
            *("x509", "-req", "-in", request, "-CA", made.authority, "-CAkey", made.key("authority")),
            *("-CAcreateserial", "-days", "1", "-extfile", extensions, "-out", made.certificate(name)),
        )
    return made


async def _openssl(*words: object) -> None:
    process = await asyncio.create_subprocess_exec(
        "openssl",
        *map(str, words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
