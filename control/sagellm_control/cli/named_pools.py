"""The pool that somebody means by a model's name."""

from __future__ import annotations

import click

from ..store.connect import Store
from ..store.inspect import list_pools, model_index


async def pool_of(store: Store, model: str) -> str:
    """The pool that serves a model, by any name that its engines answer to, or by its own if they have gone.

    Raises:
        click.ClickException: there is none; lists the names that are known.
    """
    index = await model_index(store)
    known = {pool: pool for pool in await list_pools(store)} | index
    if model not in known:
        raise click.ClickException(f"no pool serves {model!r}; known: {', '.join(sorted(known)) or 'none'}")
    return known[model]
