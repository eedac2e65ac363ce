"""Embeddings that are a pure function of the text: unit vectors, equal for equal texts."""

from __future__ import annotations

import base64
import hashlib
import math
import struct

DEFAULT_DIMENSIONS = 16
MAX_DIMENSIONS = 8192


def embedding(text: str, dimensions: int = DEFAULT_DIMENSIONS) -> list[float]:
    """A vector of length 1 with values that a 32-bit float holds exactly, so that every encoding agrees."""
    noise = hashlib.shake_128(text.encode("utf-8", "surrogatepass")).digest(4 * dimensions)
    values = [value / 2**31 for value in struct.unpack(f"<{dimensions}i", noise)]
    length = math.sqrt(sum(value * value for value in values)) or 1.0
    return list(struct.unpack(f"<{dimensions}f", _packed([value / length for value in values])))


def base64_embedding(vector: list[float]) -> str:
    """OpenAI's encoding_format "base64": little-endian 32-bit floats."""
    return base64.b64encode(_packed(vector)).decode()


def _packed(vector: list[float]) -> bytes:
    return struct.pack(f"<{len(vector)}f", *vector)
