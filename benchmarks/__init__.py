"""Benchmarks: one module, one command each. See README.md in this folder."""
