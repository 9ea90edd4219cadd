"""Things done once by hand, whose results are committed."""
