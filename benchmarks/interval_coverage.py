"""How often the 90 % intervals of a measured stage hold the truth, by simulation.

::

    python -m benchmarks.interval_coverage [--seeds 300] [--case NAME ...]

Each case is a stage as the load driver would measure it: the first moments of a server, its
unfinished requests cancelled at the end. The truth is the same server over three hundred times as
long. Prints, for each figure, the share of seeds whose interval holds the truth, the share that
lies below and above it, the share of stages that could bound the figure at both ends, and the mean
width of such an interval as a share of the truth. An open end holds whatever lies beyond. A
binomial standard error of 300 seeds is 1.7 points.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from planner.records import ClientFacts, RunManifest, StageInfo, TargetInfo, Workload
from planner.runfolder import Run
from planner.simulate import simulate
from planner.simulation.engine import Engine
from planner.simulation.traffic import ClosedUsers, Lengths, OpenArrivals
from planner.steptime import StepTime
from planner.summary import operating_points
from planner.table import CANCELLED, OK, RequestTable

if TYPE_CHECKING:
    import numpy.typing as npt

    from planner.records import LoadKind, OperatingPoint
    from planner.simulation.outcome import Outcome

FIGURES = (
    "requests_per_s", "ttft_mean_s", "ttft_p50_s", "ttft_p90_s", "ttft_p95_s", "ttft_p99_s",
    "e2e_mean_s", "e2e_p50_s", "e2e_p95_s", "e2e_p99_s", "tpot_p95_s",
)  # fmt: skip
LONGER = 300
"""How many stages long the simulation of the truth is."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One server under one load for some seconds."""

    load_kind: LoadKind
    load: float
    slots: int
    seconds: float
    think_time_s: float = 0.0
    spread: float = 0.7  # standard deviation of the logarithm of the output length

    @property
    def engine(self) -> Engine:
        """Steps of 15 ms and more: a request of 60 tokens alone takes a second."""
        step = StepTime(base_s=0.015, per_sequence_s=3e-4, per_prompt_token_s=5e-5)
        return Engine(step=step, slots=self.slots)

    def simulated(self, seconds: float, seed: int) -> tuple[Outcome, npt.NDArray[np.int64]]:
        """The requests of this load over some seconds or more, and their users."""
        rng = np.random.default_rng([seed, 7])
        count = math.ceil(1.5 * self._most_per_s * seconds) + 50
        lengths = self._lengths()
        if self.load_kind == "rate":
            count = rng.poisson(self.load * seconds)
            arrival_s = np.sort(rng.uniform(0, seconds, count))
            source = OpenArrivals(arrival_s, lengths.draw(count, rng))
            return simulate(self.engine, source, rng=rng), np.arange(count)
        users = ClosedUsers(round(self.load), self.think_time_s, lengths, requests=count, rng=rng)
        outcome = simulate(self.engine, users, rng=rng)
        return outcome, np.array(users.user[: outcome.arrival_s.size])

    def _lengths(self) -> Lengths:
        """The lengths of every simulation, the truth's included: a population of their own."""
        rng = np.random.default_rng(5)
        output = np.maximum(2, np.round(60 * np.exp(self.spread * rng.normal(size=4096))))
        return Lengths(
            prompt_tokens=rng.integers(50, 400, 4096), output_tokens=output.astype(np.int64)
        )

    @property
    def _most_per_s(self) -> float:
        return self.slots / (60 * 0.0155)


CASES = {
    "4 in flight, 4 slots, 120 s": Case(load_kind="concurrency", load=4, slots=4, seconds=120),
    "16 in flight, 4 slots, 60 s": Case(load_kind="concurrency", load=16, slots=4, seconds=60),
    "16 in flight, 4 slots, 120 s": Case(load_kind="concurrency", load=16, slots=4, seconds=120),
    "16 in flight, 4 slots, 600 s": Case(load_kind="concurrency", load=16, slots=4, seconds=600),
    "16 users think 3 s, 4 slots, 120 s": Case(
        load_kind="users", load=16, slots=4, seconds=120, think_time_s=3
    ),
    "16 users think 1 s, 4 slots, 120 s": Case(
        load_kind="users", load=16, slots=4, seconds=120, think_time_s=1
    ),
    "64 in flight, 32 slots, 120 s": Case(load_kind="concurrency", load=64, slots=32, seconds=120),
    "8/s, 32 slots, 120 s": Case(load_kind="rate", load=8, slots=32, seconds=120),
    "2.4/s, 4 slots, 120 s": Case(load_kind="rate", load=2.4, slots=4, seconds=120),
    "2.4/s, 4 slots, 600 s": Case(load_kind="rate", load=2.4, slots=4, seconds=600),
}


def table_of(outcome: Outcome, user: npt.NDArray[np.int64], until_s: float) -> RequestTable:
    """What the driver would have recorded until the end of the stage."""
    sent = np.flatnonzero(outcome.arrival_s < until_s)
    cut = outcome.ended_s[sent] > until_s
    count = sent.size
    first = outcome.first_token_s[sent]
    unknown = np.full(count, np.nan)
    return RequestTable(
        stage=np.zeros(count, dtype=np.int32),
        user=user[sent].astype(np.int32),
        scheduled_s=outcome.arrival_s[sent],
        sent_s=outcome.arrival_s[sent],
        connect_s=unknown,
        connect_ahead_s=unknown,
        headers_s=unknown,
        first_token_s=np.where(first > until_s, np.nan, first),
        ended_s=np.where(cut, until_s, outcome.ended_s[sent]),
        prompt_tokens=outcome.prompt_tokens[sent].astype(float),
        output_tokens=np.where(cut, np.nan, outcome.output_tokens[sent]),
        cached_tokens=unknown,
        status=np.where(cut, CANCELLED, OK).astype(np.uint8),
        gaps_s=np.zeros(0, dtype=np.float32),
        gap_offsets=np.zeros(count + 1, dtype=np.int64),
    )


def run_of(stage: StageInfo, requests: RequestTable, seed: int) -> Run:
    """A simulated stage as a run of its own."""
    manifest = RunManifest(
        headroom_version="0", started_unix_s=0.0, state="complete", seed=seed,
        targets=(TargetInfo(name="t", backend="vllm", url="http://127.0.0.1:8000"),),
        workload=Workload(prompt_tokens="225", output_tokens="60"), stages=(stage,),
        client=ClientFacts(platform="none", cpu_count=1, python="3", clock="monotonic"),
    )  # fmt: skip
    return Run(Path("run"), manifest, requests, {})


def point_of(case: Case, seconds: float, seed: int) -> OperatingPoint:
    """The operating point of one simulated stage."""
    outcome, user = case.simulated(seconds, seed)
    stage = StageInfo(
        index=0, target="t", load_kind=case.load_kind, load=case.load, started_s=0.0,
        think_time_s=case.think_time_s, ended_s=seconds,
    )  # fmt: skip
    (point,) = operating_points(run_of(stage, table_of(outcome, user, seconds), seed))
    return point


def main() -> None:
    """Measure each case and print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--case", action="append", choices=CASES, help="repeatable; all by default")
    given = parser.parse_args()
    print(f"{'':36}{'figure':16}{'held':>6}{'below':>7}{'above':>7}{'bounded':>9}{'width':>7}")
    for name in given.case or CASES:
        case = CASES[name]
        truth = point_of(case, LONGER * case.seconds, 10**6).figures
        points = [point_of(case, case.seconds, seed) for seed in range(given.seeds)]
        steady = [point for point in points if not point.problems]
        print(f"{name}: {len(steady)} of {len(points)} stages pass every gate")
        for figure in FIGURES:
            print_line(figure, truth[figure].value, steady)


def print_line(figure: str, truth: float, points: list[OperatingPoint]) -> None:
    """The coverage of one figure."""
    found = [point.figures[figure] for point in points if figure in point.figures]
    if not found:
        return
    below = np.mean([one.high is not None and one.high < truth for one in found])
    above = np.mean([one.low is not None and one.low > truth for one in found])
    widths = [
        (one.high - one.low) / truth
        for one in found
        if one.low is not None and one.high is not None
    ]
    width = f"{np.mean(widths):7.0%}" if widths else f"{'-':>7}"
    print(
        f"{'':36}{figure:16}{1 - below - above:6.1%}{below:7.1%}{above:7.1%}"
        f"{len(widths) / len(points):9.0%}{width}"
    )


if __name__ == "__main__":
    main()
