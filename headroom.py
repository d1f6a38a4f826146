"""Headroom's front door: one table of commands, each loaded on use.

``plan`` and ``demo`` join the three packages (make load, think, show), so they stand here and in
no package: they look, measure what the planner asks for, recommend, and write the report.
"""

from __future__ import annotations

import importlib
from typing import Any

import click

from planner import __version__

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "plan": ("joint:plan", "The whole job: look, measure what is needed, recommend, report."),
    "demo": ("joint:demo", "Plan on this machine, for engines that it starts itself."),
    "serve": ("loadtests.engines.commands:serve", "Start one local engine and stop it cleanly."),
    "measure": ("loadtests.commands:measure", "Make load on servers and write a run folder."),
    "recommend": ("planner.commands:recommend", "Which backend, how many replicas and GPUs."),
    "report": ("dashboards.commands:report", "One HTML file that shows a run and its answer."),
}
"""Command name -> where it lives, and its line in the overview."""
