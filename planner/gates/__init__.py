"""Gates: rules and a run, and perhaps a baseline, to verdicts and an exit code."""
