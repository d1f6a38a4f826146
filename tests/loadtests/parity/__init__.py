"""Tests of loadtests/parity/."""
