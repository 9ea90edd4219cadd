"""Processes killed and stopped, power lost: at every file operation and at any moment."""
