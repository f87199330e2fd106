"""Giving complete files to the apps: ways, addresses that may be called, and the outbox that never forgets."""
