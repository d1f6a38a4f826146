"""Tests of loadtests/stream/."""
