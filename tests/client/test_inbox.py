"""What becomes of an answer that ends before anybody reads it."""

from __future__ import annotations

import pytest

from sagellm_control.client import inbox as inbox_module
from sagellm_control.client.answer import Answer
from sagellm_control.client.inbox import Inbox
from sagellm_control.store.connect import Store
from sagellm_control.wire.event import Ending
from sagellm_control.wire.states import Outcome

from ..waiting import wait_until


async def test_an_answer_that_is_whole_at_once_is_kept_for_its_submitter(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end may be heard before the submitter is told that its request was accepted."""
    monkeypatch.setattr(inbox_module, "UNREAD_KEPT_S", 0.05)
    inbox = Inbox(store)
    read, unread = (Answer(store, "pool", request_id) for request_id in ("read", "unread"))
    for answer in (read, unread):
        inbox.open(answer)
        payload = Ending(Outcome.COMPLETED).encode()
        inbox._deliver(b"%s 1-1 end %d\n%s\n" % (answer.request_id.encode(), len(payload), payload))
    assert inbox.find_unread("read", "pool") is read
    read.read = True
    await wait_until(lambda: inbox.pool_of("unread") is None, what="the one that nobody reads is closed")
    assert inbox.pool_of("read") == "pool"
    assert await read.next(0.0) is not None
    assert read.ended


async def test_nobody_reads_an_answer_whose_submitter_does_not_know_yet_that_it_is_one(store: Store) -> None:
    """It may turn out to be another's, of which a part has gone by: then its submitter begins anew."""
    inbox = Inbox(store)
    answer = Answer(store, "pool", "r")
    answer.accepted = False
    inbox.open(answer)
    assert inbox.find_unread("r", "pool") is None
    answer.accepted = True
    assert inbox.find_unread("r", "pool") is answer
