"""Processor and memory of real processes of this machine; GPUs by NVML's own conventions."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from loadtests.measure.gpus import Gpus
from loadtests.measure.hostfigures import HostFigures
from loadtests.stream import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

BUSY = """
import os, socket
server = socket.create_server(("127.0.0.1", 0))
child = os.fork()
if child:
    print(server.getsockname()[1], child, flush=True)
while True:
    sum(range(10000))
"""


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Endpoint, list[int]]]:
    """A process that listens and is busy, as is its child: its address, and both their ids.

    The fixture's parameter is the name that the process shows itself by.
    """
    program = tmp_path / getattr(request, "param", "engine")
    program.symlink_to(os.path.realpath(sys.executable))
    process = subprocess.Popen([program, "-c", BUSY], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port, child = map(int, process.stdout.readline().split())
    try:
        yield Endpoint.parse(f"http://127.0.0.1:{port}"), [process.pid, child]
    finally:
        for pid in (process.pid, child):
            os.kill(pid, 9)
        process.communicate()


def test_a_local_server_and_its_children(server: tuple[Endpoint, list[int]]) -> None:
    """Processor and memory are the sum over the process that listens and its child."""
    endpoint, pids = server
    host = HostFigures.of(endpoint)
    assert host is not None
    first = host.read()
    assert "cpu_cores" not in first["process"]  # nothing yet to compare with
    before, began = _used_s(pids), time.monotonic()
    time.sleep(1.0)
    second = host.read()
    used = (_used_s(pids) - before) / (time.monotonic() - began)
    assert second["process"]["cpu_cores"] == pytest.approx(used, abs=0.1)
    rss = sum(psutil.Process(pid).memory_info().rss for pid in pids)
    assert second["process"]["memory_bytes"] == pytest.approx(rss, rel=0.05)
    assert second["machine"]["cpu_cores"] >= second["process"]["cpu_cores"] - 0.2
    assert not any(source.startswith("gpu") for source in second)


def _used_s(pids: list[int]) -> float:
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


@pytest.mark.parametrize("server", ["docker-proxy", "ssh"], indirect=True)
def test_a_forwarder_is_no_server(server: tuple[Endpoint, list[int]]) -> None:
    """What only passes connections on gives no figures: the server is elsewhere."""
    assert HostFigures.of(server[0]) is None


def test_servers_elsewhere_give_no_figures() -> None:
    """A remote address, or a port on which nobody listens, gives none, and never 0."""
    assert HostFigures.of(Endpoint.parse("http://192.0.2.1:8000")) is None
    assert HostFigures.of(Endpoint.parse("http://127.0.0.1:1")) is None


def test_a_server_that_is_gone_gives_nothing(server: tuple[Endpoint, list[int]]) -> None:
    """A process that has ended, though nobody has asked for its end yet, has no figures."""
    endpoint, pids = server
    host = HostFigures.of(endpoint)
    assert host is not None
    assert host.read()["process"]["memory_bytes"] > 0
    os.kill(pids[0], 9)
    while psutil.Process(pids[0]).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert host.read() == {}


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has an NVIDIA GPU")
def test_without_a_gpu_there_is_none() -> None:
    """NVML's real bindings on a machine without its library: none, without an error."""
    import pynvml

    with pytest.raises(pynvml.NVMLError):
        pynvml.nvmlInit()
    assert Gpus.find() is None


def test_nvmls_units() -> None:
    """Percent, milliwatts and millijoules become shares, watts and joules; refusals leave gaps."""
    import pynvml

    def refuse(_: object) -> Any:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    process = SimpleNamespace(pid=77)
    nvml = SimpleNamespace(
        NVMLError=pynvml.NVMLError,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUtilizationRates=lambda _: SimpleNamespace(gpu=37),
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(used=2**30),
        nvmlDeviceGetPowerUsage=lambda device: 312_500 if device == 0 else refuse(device),
        nvmlDeviceGetTotalEnergyConsumption=lambda device: 5_000 if device else refuse(device),
        nvmlDeviceGetComputeRunningProcesses=lambda device: [process] if device == 0 else [],
    )
    for name in vars(nvml):
        assert hasattr(pynvml, name)  # the real bindings have all of them
    assert Gpus(nvml).read(frozenset([77])) == {
        "gpu0": {"utilisation": 0.37, "memory_bytes": 2.0**30, "power_w": 312.5, "serves": 1.0},
        "gpu1": {"utilisation": 0.37, "memory_bytes": 2.0**30, "energy_j_total": 5.0,
                 "serves": 0.0},
    }  # fmt: skip
