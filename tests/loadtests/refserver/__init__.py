"""Tests of loadtests/refserver/."""
