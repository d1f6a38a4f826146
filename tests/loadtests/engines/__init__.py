"""Tests of the local engines and the test model."""
