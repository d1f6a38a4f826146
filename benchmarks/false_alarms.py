"""How often two runs of the same server fail a 10 % rule, and how often a slowdown is found.

::

    python -m benchmarks.false_alarms [--pairs 1000] [--case NAME ...] [--processes 1]

Each case is a server under one load, measured for some seconds as the load driver would. A pair is
two such runs with seeds of their own; of a slowed pair the second server takes 1.2 times as long
for everything. The rules are those of ``RULES``: no figure may be more than 10 % worse, all judged
together at a confidence of 0.99 (Holm). Prints, for each case:

- the share of same pairs that fail any rule (a false alarm), with the 95 % interval of Clopper &
  Pearson, and of those that are inconclusive in any;
- the same of slowed pairs (the power), and of those that fail no rule and pass one (a slowdown
  passed);
- the share of slowed pairs that fail a rule of 20 %: where everything takes 1.2 times as long,
  the truth lies on the bound itself;
- for each figure alone: the share of same pairs found worse at all at 5 % (what an exact p-value
  would give 5 % of), of slowed pairs found worse by more than 10 % and found worse at all, at
  0.95, how many would be found by one who knew how far runs scatter, which no method beats
  (*best*), and by how much longer the runs would have to be for the 10 % rule to find 95 of 100.
"""

from __future__ import annotations

import argparse
import functools
import math
from dataclasses import dataclass, field
from multiprocessing import Pool
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from benchmarks.interval_coverage import run_of, table_of
from planner.compare import compare_levels, higher_is_better, verdicts
from planner.compare_runs import level_data
from planner.records import StageInfo
from planner.simulate import simulate
from planner.simulation.engine import Engine
from planner.simulation.traffic import ClosedUsers, Lengths, OpenArrivals, gamma_arrivals
from planner.steptime import StepTime
from planner.table import CANCELLED, OK, RequestTable
from planner.uncertainty import share_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.compare import Difference, LevelData
    from planner.records import LoadKind
    from planner.table import Floats

RULES = ("ttft_p50_s", "ttft_p95_s", "tpot_p95_s", "e2e_mean_s", "e2e_p95_s", "requests_per_s")
MARGIN, SLOWDOWN, CONFIDENCE = 0.10, 0.20, 0.99
TOKENS = 50
DRAWS = 200


@dataclass(frozen=True, kw_only=True)
class Closed:
    """A closed loop whose latencies are drawn: independent, or under a common slow factor.

    The factor is the exponential of an AR(1) series over seconds, so requests that are near in
    time are slow together, as beside a noisy neighbour or a garbage collector.
    """

    seconds: float
    users: int = 8
    spread: float = 0.5  # standard deviation of the logarithm of TTFT
    factor: float = 0.0  # standard deviation of the logarithm of the common factor
    memory_s: float = 5.0  # after which its correlation has fallen to 1/e
    load_kind: LoadKind = field(default="concurrency", init=False)

    @property
    def load(self) -> float:
        """Requests in flight."""
        return self.users

    def table(self, seed: int, slower: float) -> RequestTable:
        """What the driver would have recorded."""
        rng = np.random.default_rng([seed, 3])
        factor = self._factors(rng)
        most = math.ceil(3 * self.seconds) + 20  # of one user: each takes about a second
        columns = [self._user(user, most, factor, slower, rng) for user in range(self.users)]
        user, sent, first, ended = (np.concatenate(c) for c in zip(*columns, strict=True))
        order = np.argsort(sent, kind="stable")
        user, sent, first, ended = user[order], sent[order], first[order], ended[order]
        cut, count = ended > self.seconds, len(sent)
        unknown = np.full(count, np.nan)
        return RequestTable(
            stage=np.zeros(count, dtype=np.int32),
            user=user.astype(np.int32),
            scheduled_s=sent,
            sent_s=sent,
            connect_s=unknown,
            connect_ahead_s=unknown,
            headers_s=unknown,
            first_token_s=np.where(first > self.seconds, np.nan, first),
            ended_s=np.where(cut, self.seconds, ended),
            prompt_tokens=np.full(count, 100.0),
            output_tokens=np.where(cut, np.nan, TOKENS),
            cached_tokens=unknown,
            status=np.where(cut, CANCELLED, OK).astype(np.uint8),
            gaps_s=np.zeros(0, dtype=np.float32),
            gap_offsets=np.zeros(count + 1, dtype=np.int64),
        )

    def _factors(self, rng: np.random.Generator) -> Floats:
        """The common factor in each tenth of a second."""
        steps = math.ceil(self.seconds * 10) + 1
        memory = math.exp(-0.1 / self.memory_s)
        noise = rng.normal(size=steps) * self.factor
        state = np.empty(steps)
        state[0] = noise[0]
        for i in range(1, steps):
            state[i] = memory * state[i - 1] + math.sqrt(1 - memory**2) * noise[i]
        return np.asarray(np.exp(state))

    def _user(
        self, user: int, most: int, factor: Floats, slower: float, rng: np.random.Generator
    ) -> tuple[Floats, Floats, Floats, Floats]:
        """One user's requests: user, sent, first token, end."""
        wait = 0.3 * np.exp(self.spread * rng.normal(size=most)) * slower
        pace = 0.7 * np.exp(0.15 * rng.normal(size=most)) * slower
        now, sent, first, ended = 0.0, [], [], []
        for ttft, decode in zip(wait.tolist(), pace.tolist(), strict=True):
            if now >= self.seconds:
                break
            f = float(factor[int(now * 10)])
            sent.append(now)
            first.append(now + ttft * f)
            now += (ttft + decode) * f
            ended.append(now)
        return np.full(len(sent), user), np.array(sent), np.array(first), np.array(ended)


@dataclass(frozen=True, kw_only=True)
class Served:
    """A simulated engine that batches, its queue under a closed loop or bursts of arrivals."""

    seconds: float
    load_kind: LoadKind
    load: float
    slots: int
    scv: float = 1.0  # of the gaps between arrivals

    def table(self, seed: int, slower: float) -> RequestTable:
        """What the driver would have recorded."""
        rng = np.random.default_rng([seed, 7])
        step = StepTime(
            base_s=0.015 * slower, per_sequence_s=3e-4 * slower, per_prompt_token_s=5e-5 * slower
        )
        engine, lengths = Engine(step=step, slots=self.slots), _lengths()
        if self.load_kind == "rate":
            moments = gamma_arrivals(
                self.load, self.scv, math.ceil(1.5 * self.load * self.seconds) + 200, rng
            )
            moments = moments[moments < self.seconds]
            source = OpenArrivals(moments, lengths.draw(len(moments), rng))
            outcome = simulate(engine, source, rng=rng)
            return table_of(outcome, np.arange(len(moments)), self.seconds)
        count = math.ceil(1.5 * self.slots / (60 * 0.0155) * self.seconds) + 50
        users = ClosedUsers(round(self.load), 0.0, lengths, requests=count, rng=rng)
        outcome = simulate(engine, users, rng=rng)
        return table_of(outcome, np.array(users.user[: outcome.arrival_s.size]), self.seconds)


def _lengths() -> Lengths:
    """The lengths of every run: about 60 output tokens, spread over a factor of four."""
    rng = np.random.default_rng(5)
    output = np.maximum(2, np.round(60 * np.exp(0.7 * rng.normal(size=4096))))
    return Lengths(prompt_tokens=rng.integers(50, 400, 4096), output_tokens=output.astype(np.int64))


def _closed_loop(seconds: float) -> Served:
    return Served(seconds=seconds, load_kind="concurrency", load=16, slots=8)


def _bursts(seconds: float) -> Served:
    return Served(seconds=seconds, load_kind="rate", load=4.0, slots=16, scv=9.0)


CASES: dict[str, Closed | Served] = {
    "independent, 30 s": Closed(seconds=30),
    "independent, 2 min": Closed(seconds=120),
    "independent, 10 min": Closed(seconds=600),
    "autocorrelated, 30 s": Closed(seconds=30, factor=0.2),
    "autocorrelated, 2 min": Closed(seconds=120, factor=0.2),
    "autocorrelated, 10 min": Closed(seconds=600, factor=0.2),
    "autocorrelated, 30 min": Closed(seconds=1800, factor=0.2),
    "closed loop with a queue, 2 min": _closed_loop(120),
    "closed loop with a queue, 10 min": _closed_loop(600),
    "bursty arrivals, 2 min": _bursts(120),
    "bursty arrivals, 10 min": _bursts(600),
}


def measured(case: Closed | Served, slower: float, seed: int) -> LevelData:
    """One simulated run of a case."""
    stage = StageInfo(
        index=0, target="t", load_kind=case.load_kind, load=case.load, started_s=0.0,
        ended_s=case.seconds,
    )  # fmt: skip
    run = run_of(stage, case.table(seed, slower), seed)
    ((level,),) = level_data(run, metrics=("ttft", "tpot", "e2e"), draws=DRAWS).values()
    return level


def differences(a: LevelData, b: LevelData) -> list[Difference]:
    """The rules' figures of a pair."""
    return [compare_levels([a], [b], figure) for figure in RULES]


def pair_of(case: Closed | Served, seed: int) -> tuple[list[Difference], list[Difference]]:
    """Two runs of the same, and the first with a slowed one."""
    a, b = measured(case, 1.0, 3 * seed), measured(case, 1.0, 3 * seed + 1)
    slowed = measured(case, 1 + SLOWDOWN, 3 * seed + 2)
    return differences(a, b), differences(a, slowed)


def main() -> None:
    """Measure each case and print it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--case", action="append", choices=CASES, help="repeatable; all by default")
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    with Pool(given.processes) as pool:
        for name in given.case or CASES:
            pairs = pool.map(
                functools.partial(pair_of, CASES[name]), range(given.pairs), chunksize=4
            )
            print_case(name, [same for same, _ in pairs], [slowed for _, slowed in pairs])


def print_case(name: str, same: list[list[Difference]], slowed: list[list[Difference]]) -> None:
    """The shares of one case."""
    alarms, found, edge = (
        [verdicts(pair, margin=margin, confidence=CONFIDENCE) for pair in pairs]
        for pairs, margin in ((same, MARGIN), (slowed, MARGIN), (slowed, SLOWDOWN))
    )
    requests = np.mean([pair[0].n_a for pair in same])
    usable = np.mean([all(one.why is None for one in pair) for pair in same])
    print(f"{name}: {len(same)} pairs, {requests:.0f} requests a run, {usable:.1%} usable")
    for told, shares in (
        ("same pairs that fail a rule", ["worse" in v for v in alarms]),
        ("same pairs, a rule inconclusive", ["inconclusive" in v for v in alarms]),
        ("slowed pairs that fail a rule", ["worse" in v for v in found]),
        ("slowed pairs that pass one, fail none",
         ["worse" not in v and "no evidence" in v for v in found]),
        ("slowed pairs that fail a 20 % rule", ["worse" in v for v in edge]),
    ):  # fmt: skip
        print(f"    {told:40}{_share(shares)}")
    print(
        f"    {'':16}{'same<5%':>9}{'<1%':>7}{'10% rule':>10}{'worse':>7}{'passed':>8}{'best':>8}"
        f"{'times':>8}"
    )
    for column, figure in enumerate(RULES):
        one, two = ([pair[column] for pair in pairs] for pairs in (same, slowed))
        times = [t for d in one if (t := d.needed_times(MARGIN, CONFIDENCE, SLOWDOWN)) is not None]
        print(
            f"    {figure:16}"
            f"{np.mean([d.p_worse() <= 0.05 for d in one]):9.1%}"
            f"{np.mean([d.p_worse() <= 0.01 for d in one]):7.1%}"
            f"{np.mean([d.p_worse(MARGIN) <= 0.05 for d in two]):10.1%}"
            f"{np.mean([d.p_worse() <= 0.05 for d in two]):7.1%}"
            f"{np.mean([d.p_within(MARGIN) <= 0.05 for d in two]):8.1%}"
            f"{_best(two):8.1%}"
            f"{np.median(times) if times else math.nan:8.1f}",
            flush=True,
        )


def _share(hits: Sequence[bool]) -> str:
    """A share with its 95 % interval."""
    low, high = share_interval(sum(hits), len(hits), 0.95)
    return f"{np.mean(hits):7.1%}  ({low:.1%} to {high:.1%})"


def _best(slowed: Sequence[Difference]) -> float:
    """The share of slowed pairs found beyond the margin at 0.95 if their scatter were known."""
    logs = np.array([math.log1p(d.relative) for d in slowed if d.relative is not None])
    worse = -logs if higher_is_better(slowed[0].figure) else logs
    score = (worse.mean() - math.log1p(MARGIN)) / worse.std(ddof=1)
    return float(special.ndtr(score - special.ndtri(0.95)))


if __name__ == "__main__":
    main()
