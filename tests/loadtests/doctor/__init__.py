"""Tests of loadtests/doctor/."""
