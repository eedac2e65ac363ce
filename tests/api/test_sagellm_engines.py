"""Engines that speak sageLLM's wire: what they say reaches the caller, and what the caller says reaches them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from .conftest import Plane, StartEcho, StartPlane

ANSWER = {"output_text": "Hi", "output_tokens": [1], "finish_reason": "stop", "metrics": {}}


class Asked:
    """A manager and its one engine."""

    def __init__(self, plane: Plane, engine: Any) -> None:
        self.manager = plane.manager
        self.engine = engine

    def answers(self, reply: object, **more: Any) -> None:
        self.engine.answer(orjson.dumps(reply), **more)

    @property
    def sent(self) -> Any:
        """The body that reached the engine last."""
        return orjson.loads(self.engine.reached[-1].body)


@pytest.fixture
async def asked(start_plane: StartPlane, start_echo: StartEcho) -> Asked:
    plane, engine = await start_plane(), await start_echo()
    plane.register("e1", engine, model="echo-1", wire="sagellm")
    plane.register("v1", engine, model="vectors", engine_kind="embedding", wire="sagellm")
    await plane.ready("e1", "v1")
    asked = Asked(plane, engine)
    asked.answers(ANSWER)
    return asked


@pytest.mark.parametrize(
    "reply",
    [{"embeddings": [[1.0]]}, {"embeddings": [[1.0]] * 3}, {"embeddings": []}, {"embeddings": None}, {}, []],
    ids=str,
)
async def test_vectors_that_are_not_as_many_as_the_texts(asked: Asked, reply: object) -> None:
    asked.answers(reply)
    with pytest.raises(ValueError, match=r"^Invalid embeddings response: expected 2 vectors$"):
        await asked.manager.get_embeddings(["a", "b"], "vectors")
    assert len(asked.engine.reached) == 1, "an answer is not asked for again"
