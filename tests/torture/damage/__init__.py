"""Stores whose files are damaged, forged or missing, read by everything that reads stores."""
