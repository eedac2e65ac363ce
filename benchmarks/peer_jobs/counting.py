"""Counts the jobs of a worker and times the middle of the run. Standard library only."""

from __future__ import annotations

import asyncio
import json
import time
from importlib.metadata import version

FROM, TO = 0.1, 0.9
"""Part of the jobs that is timed: the start of the worker and its idle end are left out."""


class Counting:
    """Call ``done`` in each job."""

    def __init__(self, jobs: int) -> None:
        self._marks = {round(jobs * part): 0.0 for part in (FROM, TO)}
        self._jobs = jobs
        self._done = 0
        self.all_done = asyncio.Event()

    def done(self) -> None:
        """A job has been run."""
        self._done += 1
        if self._done in self._marks:
            self._marks[self._done] = time.monotonic()
        if self._done == self._jobs:
            self.all_done.set()

    def tell(self, name: str, package: str, settings: str) -> None:
        """Print the result as one line of JSON."""
        (first, began), (last, ended) = sorted(self._marks.items())
        rate = (last - first) / (ended - began)
        print(json.dumps({"name": name, "version": version(package), "settings": settings, "jobs_per_s": rate}))
