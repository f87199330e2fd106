"""Bytes that nobody would send on purpose, by the ten thousand: ``python -m tests.fuzz``."""
