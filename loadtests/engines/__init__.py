"""Start, warm, inspect and stop a local engine; the test model."""
