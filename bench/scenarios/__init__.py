"""One module for a scenario or a family of them; each has a function for a letter, which gives a report."""
