"""Annotation files, archives and names made by an enemy."""
