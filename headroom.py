"""Headroom's front door."""

__version__ = "0.1.0"
