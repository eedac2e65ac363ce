"""Keeping an engine: its lease is renewed, also while the event loop is blocked."""
