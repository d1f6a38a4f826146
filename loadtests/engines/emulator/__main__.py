"""``python -m loadtests.engines.emulator``: serve until SIGINT or SIGTERM."""

from __future__ import annotations

from loadtests.engines.emulator.process import main

if __name__ == "__main__":
    main(prog_name="emulator")
