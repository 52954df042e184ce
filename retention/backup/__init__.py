"""Backup: recovery points in a second vault, and what is written through to it."""
