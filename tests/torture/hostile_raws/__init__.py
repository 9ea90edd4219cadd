"""Raws spoilt on purpose, and our parsers fuzzed."""
