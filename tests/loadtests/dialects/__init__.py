"""Tests of the wire formats, against streams recorded from real servers."""
