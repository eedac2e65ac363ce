"""Every key name, one by one: they are an interface to people with redis-cli and to older processes."""

from __future__ import annotations

import inspect
from functools import cached_property

import pytest

from sagellm_control.wire.keys import Keys, PoolKeys, escaped, quote_pool, type_of

KEYS = Keys()
POOL = KEYS.pool("qwen2.5-7b")

NAMES = {
    KEYS.pools(): "sagellm:pools",
    KEYS.models(): "sagellm:models",
    KEYS.wake(): "sagellm:wake",
    KEYS.gateways(): "sagellm:gateways",
    KEYS.awaited(): "sagellm:awaited",
    KEYS.inbox("g1"): "sagellm:inbox:g1",
    KEYS.holder("h1"): "sagellm:holder:h1",
    POOL.prefix: "sagellm:{qwen2.5-7b}",
    POOL.intake[0]: "sagellm:{qwen2.5-7b}:intake:critical",
    POOL.intake[1]: "sagellm:{qwen2.5-7b}:intake:high",
    POOL.intake[2]: "sagellm:{qwen2.5-7b}:intake:normal",
    POOL.intake[3]: "sagellm:{qwen2.5-7b}:intake:low",
    POOL.intake[4]: "sagellm:{qwen2.5-7b}:intake:background",
    POOL.waiting: "sagellm:{qwen2.5-7b}:waiting",
    POOL.freed: "sagellm:{qwen2.5-7b}:freed",
    POOL.room: "sagellm:{qwen2.5-7b}:room",
    POOL.engines: "sagellm:{qwen2.5-7b}:engines",
    POOL.leases: "sagellm:{qwen2.5-7b}:leases",
    POOL.registrations: "sagellm:{qwen2.5-7b}:registrations",
    POOL.settings: "sagellm:{qwen2.5-7b}:settings",
    POOL.counters: "sagellm:{qwen2.5-7b}:counters",
    POOL.woken: "sagellm:{qwen2.5-7b}:woken",
    POOL.holding: "sagellm:{qwen2.5-7b}:holding",
    POOL.retries: "sagellm:{qwen2.5-7b}:retries",
    POOL.orphans: "sagellm:{qwen2.5-7b}:orphans",
    POOL.reranking: "sagellm:{qwen2.5-7b}:reranking",
    POOL.misranked: "sagellm:{qwen2.5-7b}:misranked",
    POOL.backlog: "sagellm:{qwen2.5-7b}:backlog",
    POOL.expiries: "sagellm:{qwen2.5-7b}:expiries",
    POOL.virtual_time: "sagellm:{qwen2.5-7b}:virtual_time",
    POOL.tenants: "sagellm:{qwen2.5-7b}:tenants",
    POOL.placements: "sagellm:{qwen2.5-7b}:placements",
    POOL.lengths: "sagellm:{qwen2.5-7b}:lengths",
    POOL.cards: "sagellm:{qwen2.5-7b}:cards",
    POOL.dead: "sagellm:{qwen2.5-7b}:dead",
    POOL.record("r1"): "sagellm:{qwen2.5-7b}:request:r1",
    POOL.body("r1"): "sagellm:{qwen2.5-7b}:request:r1:body",
    POOL.output("r1"): "sagellm:{qwen2.5-7b}:request:r1:output",
    POOL.engine("e1"): "sagellm:{qwen2.5-7b}:engine:e1",
    POOL.reservations("e1"): "sagellm:{qwen2.5-7b}:engine:e1:reservations",
    POOL.assigned("e1"): "sagellm:{qwen2.5-7b}:engine:e1:assigned",
}


@pytest.mark.parametrize(("made", "expected"), NAMES.items(), ids=NAMES.values())
def test_name(made: str, expected: str) -> None:
    assert made == expected


def test_no_name_is_missing_above() -> None:
    of_pool = {n for n, v in vars(PoolKeys).items() if isinstance(v, cached_property) or inspect.isfunction(v)}
    of_all = {n for n, v in vars(Keys).items() if inspect.isfunction(v)}
    public = {n for n in of_pool | of_all if not n.startswith("_")} - {"pool"}
    # "intake" stands for five, and "own" for most.
    assert len(NAMES) == len(public) + 3


def test_each_key_of_a_pool_has_the_type_that_is_said_of_it() -> None:
    types = {"Sorted set": "zset", "Set": "set", "Hash": "hash", "Stream": "stream", "String": "string"}
    for name, member in vars(PoolKeys).items():
        said = next((kind for words, kind in types.items() if (member.__doc__ or "").startswith(words)), None)
        if said and inspect.isfunction(member):
            # Ids of engines may hold a colon.
            ids = ["one", "ten:9000"] if "engine_id" in inspect.signature(member).parameters else ["one"]
            assert {type_of(member(POOL, some)) for some in ids} == {said}, name
        elif said:
            made = getattr(POOL, name)
            assert {type_of(key) for key in ([made] if isinstance(made, str) else made)} == {said}, name
            assert set([made] if isinstance(made, str) else made) <= set(POOL.own), name
    assert all(type_of(key) for key in POOL.own)
    assert type_of(KEYS.pools()) is type_of(KEYS.inbox("g1")) is None


def test_all_keys_of_a_pool_have_one_hash_tag() -> None:
    shared = {KEYS.pools(), KEYS.models(), KEYS.wake(), KEYS.gateways(), KEYS.awaited()}
    shared |= {KEYS.inbox("g1"), KEYS.holder("h1")}
    for name in set(NAMES) - shared:
        assert name[name.index("{") + 1 : name.index("}")] == "qwen2.5-7b"


def test_namespaces_do_not_meet() -> None:
    assert Keys("blue").pool("m").waiting == "blue:{m}:waiting"
    assert Keys("blue").pools() != Keys("green").pools()


@pytest.mark.parametrize(
    ("model", "quoted"),
    [
        ("org/model:7b", "org/model:7b"),
        ("a{b}c", "a%7Bb%7Dc"),
        ("100%", "100%25"),
        ("with space\n", "with%20space%0A"),
        ("", ""),
        ("modèle", "modèle"),
    ],
)
def test_a_model_name_cannot_break_the_hash_tag(model: str, quoted: str) -> None:
    assert quote_pool(model) == quoted


def test_two_models_never_share_a_tag() -> None:
    names = ["a b", "a%20b", "a%2520b", "a{b", "a%7Bb"]
    assert len({quote_pool(name) for name in names}) == len(names)


def test_the_name_of_a_pool_is_no_pattern() -> None:
    assert escaped(KEYS.pool("a*b?[c]\\").record("")) == r"sagellm:{a\*b\?\[c\]\\}:request:"
