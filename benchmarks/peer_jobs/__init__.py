"""No-op jobs on other job queues, each run by one worker; started by ``benchmarks.scheduling`` in a venv of theirs."""
