"""Processor and memory of a server that runs on this machine, and of the machine; its GPUs.

Figures only of what is surely the server: a process that merely passes connections on (a
container's proxy, an SSH tunnel) gives none, nor does one that this user may not look at.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psutil

from loadtests.loopback import is_loopback, listener

if TYPE_CHECKING:
    from loadtests.measure.gpus import Gpus
    from loadtests.stream import Endpoint

__all__ = ["HostFigures"]

FORWARDERS = frozenset([
    "docker-proxy", "rootlessport", "slirp4netns", "pasta", "passt", "ssh", "sshd", "autossh",
    "kubectl", "socat", "nginx", "haproxy", "envoy", "caddy", "traefik", "stunnel", "cloudflared",
])  # fmt: skip
"""Processes that listen for a server which is elsewhere."""

_FAMILY_EVERY_S = 10.0  # looking for children walks through all processes of the machine


class HostFigures:
    """Reads one local server; each reading tells of the time since the one before."""

    def __init__(self, process: psutil.Process, gpus: Gpus | None = None) -> None:
        """Begin.

        Args:
            process: the one that listens; its children count too.
            gpus: of this machine, if it has any.
        """
        self._process, self._gpus = process, gpus
        self._family: list[psutil.Process] = []
        self._family_s = -_FAMILY_EVERY_S
        self._used_s: dict[int, float] = {}
        self._machine_s: float | None = None
        self._read_s = 0.0

    @classmethod
    def of(cls, endpoint: Endpoint, gpus: Gpus | None = None) -> HostFigures | None:
        """The server at an address; ``None`` if it is not surely a process of this machine."""
        if not is_loopback(endpoint):
            return None
        try:
            pid = listener(endpoint.port)
            process = None if pid is None else psutil.Process(pid)
            if process is None or process.name() in FORWARDERS:
                return None
        except (psutil.Error, OSError):
            return None
        return cls(process, gpus)

    def read(self) -> dict[str, dict[str, float]]:
        """Source -> name -> value; what cannot be read is left out."""
        now_s = time.monotonic()
        elapsed_s, self._read_s = now_s - self._read_s, now_s
        try:
            found = {"process": self._processes(now_s, elapsed_s)}
        except (psutil.Error, OSError):
            return {}  # the server is gone
        found["machine"] = self._machine(elapsed_s)
        if self._gpus is not None:
            found |= self._gpus.read(frozenset(p.pid for p in self._family))
        return {source: figures for source, figures in found.items() if figures}

    def _processes(self, now_s: float, elapsed_s: float) -> dict[str, float]:
        if now_s - self._family_s >= _FAMILY_EVERY_S:
            self._family = [self._process, *self._process.children(recursive=True)]
            self._family_s = now_s
        used_s: dict[int, float] = {}
        memory = 0
        for process in self._family:
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    resident = process.memory_info().rss
                if not resident:  # it has ended, and nobody has taken note
                    raise psutil.ZombieProcess(process.pid)
                used_s[process.pid] = times.user + times.system
                memory += resident
            except psutil.Error:
                if process is self._process:
                    raise
        before, self._used_s = self._used_s, used_s
        figures = {"memory_bytes": float(memory)}
        if before:
            grown = [used - before[pid] for pid, used in used_s.items() if pid in before]
            figures["cpu_cores"] = max(sum(grown), 0.0) / elapsed_s
        return figures

    def _machine(self, elapsed_s: float) -> dict[str, float]:
        times = psutil.cpu_times()
        busy_s = times.user + times.system + getattr(times, "nice", 0.0)
        before, self._machine_s = self._machine_s, busy_s
        figures = {"memory_available_bytes": float(psutil.virtual_memory().available)}
        if before is not None:
            figures["cpu_cores"] = max(busy_s - before, 0.0) / elapsed_s
        return figures
