"""Kills, stops, and restarts processes at random, and brings each back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum

from ..embedded.ports import LOOPBACK
from .ledger import Ledger
from .plan import ChaosPlan
from .process import Kind, Victim
from .system import STOP_WITHIN_S, System, last_line


class Deed(StrEnum):
    """What can be done to a process."""

    KILL = "kill"
    """SIGKILL, and started again after a while."""
    SHORT_STOP = "short stop"
    """SIGSTOP for less than a lease."""
    LONG_STOP = "long stop"
    """SIGSTOP for longer than a lease."""
    RESTART = "restart"
    """SIGTERM, and started again when it has ended."""


_DEEDS = {Deed.KILL: 5, Deed.SHORT_STOP: 2, Deed.LONG_STOP: 2, Deed.RESTART: 2}
"""How often each is done, in parts."""
_KINDS = {Kind.WORKER: 4, Kind.ENGINE: 2, Kind.SCHEDULER: 3, Kind.GATEWAY: 3, Kind.VALKEY: 1}
"""How often each kind meets it, in parts."""
_START_TRIES = 20
"""A process that is started while Valkey is away ends with a clear message; whoever runs it starts it again."""
_NO_SERVER = ("Error: no Redis at ", "Error: The queue cannot be reached", "Error: Redis: ")
"""What such a process says last."""
_SERVES_WITHIN_S = 30.0
"""A gateway listens within a second or two; one that is started while Valkey is stopped ends long before this."""


class Disturber:
    """Makes trouble for a while.

    No more than half of the processes of a kind are down at a time (but for Valkey, and for kinds of which there is
    only one), so that there is somebody to go on.

    Args:
        killed: told of each process that has just been killed.
    """

    def __init__(
        self,
        system: System,
        plan: ChaosPlan,
        ledger: Ledger,
        killed: Callable[[Victim], None],
        tell: Callable[[str], None],
    ) -> None:
        self._system = system
        self._plan = plan
        self._ledger = ledger
        self._killed = killed
        self._tell = tell
        self._dice = random.Random(f"{plan.seed} disturber")
        self.done: Counter[tuple[Kind, Deed]] = Counter()
        """What has been done to which kind, and how often."""
        self.crashes = 0
        """Processes that ended although nobody had ended them."""

    async def run(self) -> None:
        """Disturb for as long as planned; afterwards every process runs again."""
        ends = time.monotonic() + self._plan.seconds
        async with asyncio.TaskGroup() as deeds:
            while True:
                pause_s = min(self._dice.expovariate(1 / self._plan.every_s), 4 * self._plan.every_s)
                if time.monotonic() + pause_s > ends:
                    break
                await asyncio.sleep(pause_s)
                self._mind_crashes(deeds)
                # Thrown whether or not somebody is there to do it to, so that the same seed gives the same plan.
                kind = self._dice.choices(list(_KINDS), list(_KINDS.values()))[0]
                deed = self._dice.choices(list(_DEEDS), list(_DEEDS.values()))[0]
                number, how_long = self._dice.random(), self._dice.random()
                if victims := self._candidates(kind):
                    victim = victims[int(number * len(victims))]
                    victim.busy = True
                    self.done[kind, deed] += 1
                    deeds.create_task(self._disturb(victim, deed, how_long), name=f"{deed} {victim.name}")
            await asyncio.sleep(max(0.0, ends - time.monotonic()))
            self._mind_crashes(deeds)

    def _candidates(self, kind: Kind) -> list[Victim]:
        group = self._system.of(kind)
        well = [victim for victim in group if not victim.busy]
        return well if len(group) - len(well) < max(1, len(group) // 2) else []

    async def _disturb(self, victim: Victim, deed: Deed, how_long: float) -> None:
        lease_s = self._plan.lease_s
        try:
            match deed:
                case Deed.KILL:
                    await victim.kill()
                    self._killed(victim)
                    # One in five stays dead for longer than a lease.
                    away_s = 1.5 * how_long if how_long < 0.8 else lease_s * (1 + how_long)
                    await self._away(victim, deed, away_s if victim.kind is not Kind.VALKEY else 1.5 * how_long)
                    await self._start(victim)
                case Deed.SHORT_STOP | Deed.LONG_STOP:
                    short = deed is Deed.SHORT_STOP
                    victim.freeze()
                    await self._away(
                        victim, deed, lease_s * (0.05 + 0.65 * how_long if short else 1.1 + 0.5 * how_long)
                    )
                    victim.thaw()
                case Deed.RESTART:
                    self._tell(f"{deed} {victim.name}")
                    if not await victim.stop(STOP_WITHIN_S):
                        self._ledger.problems.append(f"{victim.name} did not stop within {STOP_WITHIN_S:g} s")
                    await self._start(victim)
        finally:
            victim.busy = False

    async def _away(self, victim: Victim, deed: Deed, seconds: float) -> None:
        self._tell(f"{deed} {victim.name}, for {seconds:.1f} s")
        await asyncio.sleep(seconds)

    async def _start(self, victim: Victim) -> None:
        """Start it, and wait until it serves."""
        for _ in range(_START_TRIES):
            await victim.start()
            if await self._serves(victim):
                victim.is_up()
                return
            if not self._found_no_server(victim):
                break
        if victim.exit_code is None:
            self._ledger.problems.append(f"{victim.name} did not serve within {_SERVES_WITHIN_S:g} s")
        else:
            self._note_crash(victim)

    def _found_no_server(self, victim: Victim) -> bool:
        """Whether it has ended because Valkey was away when it started; who is up already stays up."""
        told = last_line(victim.log).startswith(_NO_SERVER)
        return victim.exit_code == 1 and told and self._system.valkey.disturbed_since(victim.started_at)

    async def _serves(self, victim: Victim) -> bool:
        """Wait until it can be connected to, or a moment where it does not listen; False: it does not, or has ended."""
        if victim.kind in (Kind.VALKEY, Kind.ENGINE):
            return True
        port = self._system.ports.get(victim.name)
        ends = time.monotonic() + (_SERVES_WITHIN_S if port else 1.0)
        while time.monotonic() < ends:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await victim.wait()
            if victim.exit_code is not None:
                return False
            if port and await _listens(port):
                return True
        return not port

    def _mind_crashes(self, deeds: asyncio.TaskGroup) -> None:
        for victim in self._system.crashed():
            victim.busy = True
            if not self._found_no_server(victim):
                self._note_crash(victim)
            deeds.create_task(self._start_again(victim), name=f"start {victim.name} again")

    async def _start_again(self, victim: Victim) -> None:
        try:
            await self._start(victim)
        finally:
            victim.busy = False

    def _note_crash(self, victim: Victim) -> None:
        self.crashes += 1
        said = f"{victim.name} ended by itself with code {victim.exit_code}: {last_line(victim.log)}"
        self._ledger.problems.append(said)
        self._tell(said)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    writer.close()
    return True
