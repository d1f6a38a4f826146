"""``python -m loadtests.refserver``: compile the reference server and say where it is."""

from __future__ import annotations

import click

from loadtests.refserver.build import build

if __name__ == "__main__":
    click.echo(build())
