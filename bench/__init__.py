"""How fast we are, beside others, in one run: ``python -m bench``."""
