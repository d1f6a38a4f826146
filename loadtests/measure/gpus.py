"""This machine's NVIDIA GPUs, by NVML, where the ``gpu`` extra and a driver are installed."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Gpus"]


class Gpus:
    """Reads every GPU that NVML lists."""

    def __init__(self, nvml: Any) -> None:
        """List them.

        Args:
            nvml: the module ``pynvml``, initialised.
        """
        self._nvml = nvml
        count = nvml.nvmlDeviceGetCount()
        self._devices = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]

    @classmethod
    def find(cls) -> Gpus | None:
        """The GPUs of this machine; ``None`` without NVML or without a GPU."""
        try:
            import pynvml
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
            gpus = cls(pynvml)
        except pynvml.NVMLError:
            return None
        return gpus if gpus._devices else None

    def read(self, pids: frozenset[int]) -> dict[str, dict[str, float]]:
        """``gpu0``, ... -> name -> value; what a GPU does not tell is left out.

        Args:
            pids: the server's processes. In a container NVML may number processes otherwise, so
                that none is found there: nothing is then ascribed to the server.
        """
        return {f"gpu{n}": self._device(device, pids) for n, device in enumerate(self._devices)}

    def _device(self, device: Any, pids: frozenset[int]) -> dict[str, float]:
        nvml = self._nvml

        def serves() -> float:
            running = nvml.nvmlDeviceGetComputeRunningProcesses(device)
            return float(any(process.pid in pids for process in running))

        ways: dict[str, Callable[[], float]] = {
            "utilisation": lambda: nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100,
            "memory_bytes": lambda: float(nvml.nvmlDeviceGetMemoryInfo(device).used),
            "power_w": lambda: nvml.nvmlDeviceGetPowerUsage(device) / 1000,  # milliwatts
            "energy_j_total": lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(device) / 1000,
            "serves": serves,
        }
        figures = {}
        for name, read in ways.items():
            with suppress(nvml.NVMLError):  # older or virtual GPUs tell less
                figures[name] = read()
        return figures
