"""What the load was made with and on: recorded in the manifest, shown in the report."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from loadtests.stream.sources import clock_name
from planner.records import ClientFacts

__all__ = ["client_facts", "cpu_model"]

_TOLD = ("locust", "gevent", "numpy", "scipy", "httptools", "msgspec")
_CPUINFO = Path("/proc/cpuinfo")


def client_facts() -> ClientFacts:
    """Facts about this process's machine and software. No host or user names."""
    return ClientFacts(
        platform=platform.platform(),
        cpu_count=os.cpu_count() or 1,
        cpu_model=cpu_model(),
        python=platform.python_version(),
        clock=clock_name(),
        versions=_versions(),
    )


def cpu_model() -> str | None:
    """The processor's name, where the system tells it."""
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())[:100] or None
    return platform.processor() or None


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _TOLD:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
