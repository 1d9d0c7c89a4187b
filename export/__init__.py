"""A trained run to files that run anywhere with the same numbers."""
