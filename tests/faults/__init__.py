"""The fault laboratory: what happens to uploads when things die, fill up, lie or hang.

Each campaign injects one kind of fault, a great many times, each time another way; ``python -m tests.faults --list``
tells which there are. All randomness comes from one seed, which is printed: any case can be run again by its number.
"""
