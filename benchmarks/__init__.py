"""Paired measurements, never tests; see README.md."""
