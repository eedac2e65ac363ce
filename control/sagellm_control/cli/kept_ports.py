"""Ports that a system keeps from one start to the next, so that URLs and engine ids stay the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from ..embedded.ports import LOOPBACK, PortInUseError, free_port, require_free

FILE = "ports.json"


class KeptPorts:
    """Free loopback ports under names; ``keep`` writes them to ``FOLDER/ports.json``."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._ports = self._read()

    def take(self, name: str, wanted: int = 0) -> int:
        """The wanted port; else (0) that of the last time if nobody has it now, else a free one."""
        if wanted:
            self._ports[name] = wanted
            return wanted
        port = self._ports.get(name)
        if not (isinstance(port, int) and 0 < port < 65_536 and _is_free(port)):
            port = self._ports[name] = free_port()
        return port

    def keep(self) -> None:
        """Remember what was taken; for a process that knows that the folder is its own."""
        self._file.write_text(json.dumps(self._ports))

    def _read(self) -> dict[str, Any]:
        try:
            known: Any = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return {}  # the first start; or somebody wrote into it, and any port will do
        return cast(dict[str, Any], known) if isinstance(known, dict) else {}


def _is_free(port: int) -> bool:
    try:
        require_free(LOOPBACK, port, "")
    except PortInUseError:
        return False
    return True
