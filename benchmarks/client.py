"""The load client beside its peers: errors against the truth, CPU, memory. Writes Markdown.

::

    python -m benchmarks.client [--rounds 3] [--aiohttp-python PATH] [--aiperf PATH]
                                [--guidellm PATH] [--only WORDS] [--realtime] > table.md

Every client runs as a process of its own on one processor, the reference server on another. The
clients take turns within each scenario (A B C, A B C, ...), and a cell is the median of its runs.
A run in which the client waited over 5 % of the time for its processor was made on a busy machine:
its row is marked with ``*``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from benchmarks.aims import aims_table
from benchmarks.scenario import Figures, Lateness, Reading, Scenario, figures_of
from benchmarks.tables import capacity_table, clients_table, lateness_table
from benchmarks.tools import TOOLS, run_tool
from loadtests.engines.model import ensure_model
from loadtests.measure.facts import cpu_model
from loadtests.measure.truth import Observed
from loadtests.refserver import reference_server
from loadtests.stream.tls import CA_VARIABLE

if TYPE_CHECKING:
    from loadtests.refserver import ReferenceServer

__all__ = ["main"]

ROOT = Path(__file__).parents[1]
SECOND_US = 1_000_000
PATIENCE_S = 180.0
TRUST_VARIABLES = (CA_VARIABLE, "SSL_CERT_FILE")
"""Ours, and OpenSSL's own."""

CLIENTS = ("headroom", "fasthttpuser", "httpuser", "aiohttp", *TOOLS)
CAPACITY_RATES = (40_000, 60_000, 80_000, 105_000, 115_000, 125_000, 150_000)
CAPACITY_STREAMS, CAPACITY_S = 2048, 3.0
"""Answers are so long, and users begin over that time: ends and beginnings are spread evenly."""

MOST_OF_GAP = 0.01
"""An arrival error has grown when its p99 is above this share of the gap between two events."""
LEAST_OF_RATE = 0.95
"""A server that sends less than this share of a rate in its busiest second is the limit itself."""

OPEN_RATE_PER_S, OPEN_S = 200, 15.0


@dataclass(frozen=True)
class Case:
    """A scenario under a title.

    Attributes:
        tls: the server speaks TLS and every client verifies it.
        tools: aiperf and guidellm take part.
    """

    title: str
    scenario: Scenario
    tls: bool = False
    tools: bool = False


CASES = (
    Case(
        "256 streams at 20 ms",
        Scenario(streams=256, tokens=250, itl_us=20_000, ttft_us=SECOND_US, ramp_s=1.0),
        tools=True,
    ),
    Case(
        "1,024 streams at 50 ms, ticking together",
        Scenario(streams=1024, tokens=140, itl_us=50_000, ttft_us=2 * SECOND_US, sync=1,
                 ramp_s=2.0),
        tools=True,
    ),
    Case(
        "2,048 streams at 50 ms, ticking together",
        Scenario(streams=2048, tokens=160, itl_us=50_000, ttft_us=3 * SECOND_US, sync=1,
                 ramp_s=3.0),
    ),
    Case(
        "256 requests at once",
        Scenario(streams=256, tokens=20, itl_us=20_000, ttft_us=SECOND_US),
        tools=True,
    ),
    Case(
        "requests of 2 tokens, 8 at a time",
        Scenario(streams=8, tokens=2, itl_us=1000, ttft_us=1000, rounds=400),
    ),
    Case(
        "256 streams at 20 ms over TLS",
        Scenario(streams=256, tokens=250, itl_us=20_000, ttft_us=2 * SECOND_US, ramp_s=2.0),
        tls=True,
    ),
)  # fmt: skip
CAPACITY = "chunks per second and core"
LATENESS = f"open loop, Poisson {OPEN_RATE_PER_S}/s, answers of 50 tokens at 20 ms"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """How to run: the clients, how often, and where."""

    clients: list[str]
    programs: dict[str, str] = field(default_factory=dict)
    rounds: int
    cpu: int

    def case(self, case: Case) -> dict[str, list[Figures]]:
        """All clients in turn, so many times."""
        scenario = replace(case.scenario, cpu=self.cpu)
        names = [name for name in self.clients if name not in TOOLS or case.tools]
        runs: dict[str, list[Figures]] = {name: [] for name in names}
        with reference_server(
            itl_s=scenario.itl_us * 1e-6, ttft_s=scenario.ttft_us * 1e-6,
            sync=bool(scenario.sync), cpu=0, compiled=True, tls=case.tls,
        ) as server:  # fmt: skip
            for _ in range(self.rounds):
                for name in names:
                    found = self._run(name, server, scenario)
                    if found is not None:
                        runs[name].append(found)
        return runs

    def capacity(self) -> dict[str, list[tuple[float, Figures]]]:
        """Each client at rising rates until its error has grown."""
        runs: dict[str, list[tuple[float, Figures]]] = {}
        for name in self.clients:
            if name in TOOLS or name == "httpuser":
                continue  # ended by their first rate; FastHttpUser is the better of the two
            runs[name] = []
            for rate in CAPACITY_RATES:
                found = self._at_rate(name, rate)
                if found is None:
                    break
                runs[name].append((rate, found))
                if has_grown(found, CAPACITY_STREAMS / rate) or is_short(found, rate):
                    break
        return runs

    def _at_rate(self, name: str, rate_per_s: int) -> Figures | None:
        itl_us = round(CAPACITY_STREAMS / rate_per_s * 1e6)
        scenario = Scenario(
            streams=CAPACITY_STREAMS, tokens=round(CAPACITY_S * 1e6 / itl_us), itl_us=itl_us,
            ttft_us=SECOND_US // 10, rounds=3, ramp_s=CAPACITY_S, cpu=self.cpu,
        )  # fmt: skip
        with reference_server(
            itl_s=itl_us * 1e-6, ttft_s=scenario.ttft_us * 1e-6, cpu=0, compiled=True
        ) as server:
            return self._run(name, server, scenario)

    def lateness(self) -> list[Lateness]:
        """The open loop, so many times."""
        runs = []
        with reference_server(itl_s=0.02, ttft_s=0.1, cpu=0, compiled=True) as server:
            for _ in range(self.rounds):
                words = (server.url, str(OPEN_RATE_PER_S), str(OPEN_S), str(self.cpu))
                said = _output([sys.executable, "-m", "benchmarks.lateness", *words], {})
                if said is not None:
                    runs.append(msgspec.json.decode(said, type=Lateness))
        return runs

    def _run(self, name: str, server: ReferenceServer, scenario: Scenario) -> Figures | None:
        server.stats()
        found = self._once(name, server, scenario)
        if found is None or not found.requests:
            _say(f"  {name}: nothing that could be compared")
            return None
        late_s = server.stats().late_mean_us * 1e-6
        waited = "?" if found.waited_share is None else f"{found.waited_share:.1%}"
        _say(f"  {name}: waited {waited}")
        return msgspec.structs.replace(found, server_late_s=late_s)

    def _once(self, name: str, server: ReferenceServer, scenario: Scenario) -> Figures | None:
        if name in TOOLS:
            try:
                tokenizer = ensure_model("tiny").hf
                return run_tool(name, self.programs[name], server.url, scenario, tokenizer)
            except RuntimeError as error:
                _say(str(error))
                return None
        fields = json.dumps(asdict(scenario))
        trust = dict.fromkeys(TRUST_VARIABLES, str(server.ca_file)) if server.ca_file else {}
        if name != "aiohttp":
            command = [sys.executable, "-m", "benchmarks.load_client", name, server.url, fields]
            said = _output(command, trust)
            return None if said is None else msgspec.json.decode(said, type=Figures)
        script = str(ROOT / "benchmarks" / "aiohttp_client.py")
        said = _output([self.programs["aiohttp"], script, server.url, fields], trust)
        return None if said is None else _of_aiohttp(said, scenario.streams)


def has_grown(found: Figures, itl_s: float) -> bool:
    """Whether the client no longer keeps up."""
    p99_s = found.arrival.p99_s if found.arrival else None
    return p99_s is None or p99_s > MOST_OF_GAP * itl_s or found.wrong > 0


def is_short(found: Figures, rate_per_s: float) -> bool:
    """Whether the server did not reach the rate."""
    return (found.sent_per_s or 0.0) < LEAST_OF_RATE * rate_per_s


def highest(runs: list[tuple[float, Figures]]) -> float:
    """The highest rate whose error has not grown; 0 if there is none."""
    good = (f.sent_per_s for rate, f in runs if not has_grown(f, CAPACITY_STREAMS / rate))
    return max((sent for sent in good if sent is not None), default=0.0)


def _output(command: list[str], trust: dict[str, str]) -> str | None:
    """What the command prints; ``None`` if it failed."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S, check=False,
            env=os.environ | trust,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        _say(f"{command[-3]} did not end within {PATIENCE_S:.0f} s")
        return None
    if done.returncode != 0:
        _say(f"{' '.join(command)} failed: {done.stderr[-500:]}")
        return None
    return done.stdout


def _of_aiohttp(said: str, streams: int) -> Figures:
    found = json.loads(said)
    observed = [
        Observed(sent, np.array(seen, dtype=np.float64), text)
        for sent, seen, text in found["observed"]
    ]
    before, begun, done = (
        msgspec.convert(found[key], Reading) for key in ("before", "begun", "done")
    )
    return figures_of(observed, before, begun, done, streams)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--realtime", action="store_true",
                        help="run server and clients under SCHED_FIFO (as root): others that use "
                        "this machine then hold up neither")  # fmt: skip
    parser.add_argument("--only", default="", help="only scenarios whose title has these words")
    parser.add_argument("--clients", default=",".join(CLIENTS))
    parser.add_argument("--aiohttp-python", help="a Python that has aiohttp; left out without")
    for name in TOOLS:
        parser.add_argument(f"--{name}", help=f"the program {name}; left out without")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    asked = _asked()
    cpus = os.sched_getaffinity(0)
    if len(cpus) < 2:
        sys.exit("this needs two processors: one for the server, one for the client")
    if asked.realtime:  # inherited by all that is started
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    programs = {"aiohttp": asked.aiohttp_python} | {name: getattr(asked, name) for name in TOOLS}
    clients = [name for name in asked.clients.split(",") if programs.get(name, "-")]
    bench = Bench(clients=clients, programs=programs, rounds=asked.rounds, cpu=max(cpus))
    load = " / ".join(f"{value:.2f}" for value in os.getloadavg())
    print(f"{platform.platform()}, {cpu_model()}, Python {platform.python_version()};")
    how = " under SCHED_FIFO" if asked.realtime else ""
    print(f"load average at the start {load}; medians of {asked.rounds} runs{how}.\n")
    ours: dict[str, list[Figures]] = {}
    for case in CASES:
        if asked.only in case.title:
            runs = bench.case(case)
            ours[case.title] = runs.get("headroom", [])
            print(f"**{case.title}**\n\n{clients_table(runs)}\n", flush=True)
    most_per_s, late = None, []
    if asked.only in CAPACITY:
        rising = bench.capacity()
        most_per_s = highest(rising["headroom"]) if "headroom" in rising else None
        print(f"**{CAPACITY}** ({CAPACITY_STREAMS:,} streams)\n\n{capacity_table(rising)}\n")
    if asked.only in LATENESS and "headroom" in clients:
        late = bench.lateness()
        print(f"**{LATENESS}**\n\n{lateness_table(late)}\n")
    load = " / ".join(f"{value:.2f}" for value in os.getloadavg())
    print(f"Load average at the end {load}.\n\n### Against what was aimed at\n")
    print(aims_table(ours, most_per_s, late))


if __name__ == "__main__":
    main()
