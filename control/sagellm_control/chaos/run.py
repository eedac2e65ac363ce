"""One chaos run, from the first process to the report."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

from ..client import QueueClient
from ..store.steps.accept import AcceptLimits
from .aftermath import read_aftermath, wait_until_settled
from .clients import Client
from .disturber import Disturber
from .http_asking import HttpAsking, http_session
from .ledger import Ledger
from .library_asking import LibraryAsking
from .plan import ChaosPlan
from .recovery import RecoveryWatch
from .report import ChaosReport, make_report
from .system import errors_logged, running_system


async def run_chaos(plan: ChaosPlan, folder: Path, tell: Callable[[str], None]) -> ChaosReport:
    """Start the system in ``folder``, disturb it, let it settle, and see what is left.

    Args:
        tell: gets a line about each step and each disturbance.

    Raises:
        SystemDidNotStart: the processes could not be brought up.
    """
    ledger = Ledger()
    async with (
        running_system(plan, folder, tell) as (system, store),
        http_session() as session,
        QueueClient.connect(system.redis, AcceptLimits(keep_result_ms=system.keep_s * 1000)) as queue,
    ):
        library = LibraryAsking(queue, system.valkey, ledger)
        recovery = RecoveryWatch(store, system.valkey)
        disturber = Disturber(system, plan, ledger, recovery.killed, tell)
        stop = asyncio.Event()
        clients: list[asyncio.Task[None]] = []
        async with asyncio.TaskGroup() as tasks:
            for number in range(1, plan.clients + 1):
                http = HttpAsking(session, system, ledger, random.Random(f"{plan.seed} gateways of {number}"))
                client = Client(number, plan.seed, http, library, ledger, store)
                clients.append(tasks.create_task(client.run(stop), name=client.name))
            await disturber.run()
            tell("no more disturbances; waiting until everything has ended")
            stop.set()
            _, waiting = await asyncio.wait(clients, timeout=plan.settle_s)
            for task in waiting:
                task.cancel()
        if not await wait_until_settled(store, plan.settle_s):
            tell(f"not everything has ended within {plan.settle_s:g} s")
        await recovery.close()
        aftermath = await read_aftermath(store, ledger)
    ledger.problems += errors_logged(folder)
    return make_report(plan, disturber, ledger, recovery, aftermath)
