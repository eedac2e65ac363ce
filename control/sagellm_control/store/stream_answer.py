"""What redis-py gives back for a read of streams: RESP2 answers with pairs, RESP3 with a mapping of lists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def stream_entries(answer: Any) -> Iterator[tuple[bytes, bytes, dict[bytes, bytes] | None]]:
    """Stream name, entry id and fields of each entry; no fields: it was deleted while it was pending."""
    for name, entries in answer.items() if isinstance(answer, dict) else answer or ():
        # Under RESP3 the entries are wrapped in one more list.
        nested = bool(entries) and isinstance(entries[0], list)
        for entry_id, fields in entries[0] if nested else entries:
            yield name, entry_id, fields
