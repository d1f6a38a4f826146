"""A chat server that stamps the truth, to measure the client against."""

from __future__ import annotations

from loadtests.refserver.build import build
from loadtests.refserver.launch import ReferenceServer, ServerStats, reference_server

__all__ = ["ReferenceServer", "ServerStats", "build", "reference_server"]
