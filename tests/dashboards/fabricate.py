"""A run that never happened, from a closed-form batching model: its figures are known.

``users`` people share ``slots`` sequences. A step that decodes ``B`` sequences takes
``STEP_S + PER_SEQUENCE_S * B`` seconds, so a request of ``L`` tokens holds its slot for
``PREFILL_S + L * step`` seconds and waits first-come-first-served for it.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import numpy as np

from planner.records import (
    ClientFacts,
    Crossover,
    Demand,
    EngineLimits,
    Estimate,
    OperatingPoint,
    Option,
    PlanContext,
    Predicted,
    Recommendation,
    RequestRecord,
    RunManifest,
    Sensitivity,
    Simulated,
    Slo,
    StageInfo,
    TargetInfo,
    Workload,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

LEVELS = (1, 2, 4, 8, 16)
SLOTS = {"llama.cpp, 1 slot": 1, "llama.cpp, 4 slots": 4}
HOSTILE = "<script>alert(1)</script></script><img src=x onerror=alert(2)>\u2028%{x}\u202egnp"

STEP_S, PER_SEQUENCE_S, PREFILL_S, TOKENS = 0.006, 0.0006, 0.040, 60
STAGE_S, WARMUP_S = 30.0, 5.0


def slo_ttft() -> Slo:
    """The objective that the fabricated levels cross."""
    return Slo(figure="ttft_p95_s", op="<=", bound=1.0, text="ttft_p95<=1s")


def slo_tpot() -> Slo:
    """A second objective, which every level meets."""
    return Slo(figure="tpot_p95_s", op="<=", bound=0.05, text="tpot_p95<=50ms")


def service_s(slots: int, users: int) -> float:
    """Mean time that a request holds its slot when ``users`` requests are in flight."""
    return PREFILL_S + TOKENS * (STEP_S + PER_SEQUENCE_S * min(slots, users))


def stage_records(
    target: str, slots: int, users: int, stage: int, start_s: float, rng: np.random.Generator
) -> Iterator[RequestRecord]:
    """The requests of one closed-loop stage."""
    free = [start_s] * slots
    ready = [start_s] * users
    end_s = start_s + STAGE_S
    number = stage * 1_000_000
    while (sent := heapq.heappop(ready)) < end_s:
        begun = max(sent, heapq.heappop(free))
        scale = rng.lognormal(0.0, 0.08)
        first = begun + PREFILL_S * scale
        ended = begun + service_s(slots, users) * scale
        heapq.heappush(free, ended)
        heapq.heappush(ready, ended)
        cancelled, failed = ended > end_s, rng.random() < 0.004
        yield RequestRecord(
            id=number,
            stage=stage,
            target=target,
            backend="llamacpp",
            user=number % users,
            scheduled_s=sent,
            sent_s=sent,
            headers_s=min(first, end_s),
            first_token_s=None if failed or first > end_s else first,
            ended_s=min(ended, end_s),
            gaps_s=b"",
            prompt_tokens=32,
            output_tokens=None if cancelled or failed else TOKENS,
            token_source="usage",  # noqa: S106 - who counted
            status="cancelled" if cancelled else "error" if failed else "ok",
            error_kind="http_status" if failed and not cancelled else None,
        )
        number += 1


def fabricated_run(
    names: tuple[str, ...] = tuple(SLOTS), *, plan: bool = True, seed: int = 7
) -> tuple[RunManifest, list[RequestRecord]]:
    """A complete sweep of two targets over ``LEVELS``."""
    rng = np.random.default_rng(seed)
    stages: list[StageInfo] = []
    records: list[RequestRecord] = []
    clock_s = 1.0
    for name, slots in zip(names, SLOTS.values(), strict=True):
        for users in LEVELS:
            index = len(stages)
            stages.append(
                StageInfo(
                    index=index,
                    target=name,
                    load_kind="concurrency",
                    load=users,
                    started_s=clock_s,
                    ended_s=clock_s + STAGE_S,
                    stop_reason="steady",
                )
            )
            records += stage_records(name, slots, users, index, clock_s, rng)
            clock_s += STAGE_S + 1.5
    return manifest(names, tuple(stages), plan=plan), records


def manifest(names: tuple[str, ...], stages: tuple[StageInfo, ...], *, plan: bool) -> RunManifest:
    """The manifest of a fabricated sweep."""
    return RunManifest(
        headroom_version="0.1.0",
        started_unix_s=1_790_000_000.0,
        state="complete",
        seed=7,
        targets=tuple(
            TargetInfo(
                name=name,
                backend="llamacpp",
                url=f"http://127.0.0.1:{8080 + i}",
                model="random-45m",
                engine="llama.cpp",
                engine_version="b6900",
                limits=EngineLimits(slots=slots, context_tokens=2048),
                settings={"threads": "2", "quantisation": "f16"},
            )
            for i, (name, slots) in enumerate(zip(names, SLOTS.values(), strict=True))
        ),
        workload=Workload(prompt_tokens="32", output_tokens=str(TOKENS)),
        stages=stages,
        client=ClientFacts(
            platform="Linux x86_64",
            cpu_count=2,
            cpu_model="Test CPU",
            python="3.11.9",
            clock="CLOCK_MONOTONIC",
            versions={"locust": "2.43", "numpy": "2.4"},
        ),
        plan=PlanContext(
            users=50, think_time_s=10.0, slo=("ttft_p95<=1s", "tpot_p95<=50ms"), confidence=0.9
        )
        if plan
        else None,
    )


def point(name: str, slots: int, users: int, stage: int, **changes: object) -> OperatingPoint:
    """The operating point that the model predicts, with plausible intervals."""
    hold = service_s(slots, users)
    rate = min(slots, users) / hold
    wait = max(0.0, users / rate - hold)
    start = 1.0 + stage * (STAGE_S + 1.5)
    count = round(rate * (STAGE_S - WARMUP_S))
    tpot = hold / TOKENS
    middle = {
        "requests_per_s": rate,
        "output_tokens_per_s": rate * TOKENS,
        "ttft_p50_s": wait + PREFILL_S,
        "ttft_p95_s": 1.1 * wait + 1.2 * PREFILL_S,
        "tpot_p50_s": tpot,
        "tpot_p95_s": 1.14 * tpot,
        "e2e_p50_s": wait + hold,
        "e2e_p95_s": 1.1 * wait + 1.14 * hold,
    }
    fields: dict[str, object] = {
        "target": name,
        "backend": "llamacpp",
        "stage": stage,
        "load_kind": "concurrency",
        "load": users,
        "in_flight_mean": users - 0.02,
        "window_start_s": start + WARMUP_S,
        "window_end_s": start + STAGE_S,
        "completed": count,
        "failed": 0,
        "censored": min(users, 4),
        "prompt_tokens_mean": 32.0,
        "output_tokens_mean": float(TOKENS),
        "figures": {
            "error_rate": Estimate(value=0.0, low=0.0, high=3 / count, n=count),
            **{
                figure: Estimate(value=v, low=0.95 * v, high=1.07 * v, n=count)
                for figure, v in middle.items()
            },
        },
        "source": "measured",
        **changes,
    }
    return OperatingPoint(**fields)  # type: ignore[arg-type]


def points(names: tuple[str, ...] = tuple(SLOTS)) -> tuple[OperatingPoint, ...]:
    """One point for each stage of :func:`fabricated_run`."""
    pairs = [(n, s, u) for n, s in zip(names, SLOTS.values(), strict=True) for u in LEVELS]
    return tuple(point(n, s, u, i) for i, (n, s, u) in enumerate(pairs))


def recommendation(names: tuple[str, ...] = tuple(SLOTS)) -> Recommendation:
    """An answer with a winner, an interpolated and a refused option."""
    one, four = names

    def option(name: str, **changes: object) -> Option:
        fields: dict[str, object] = {
            "target": name,
            "backend": "llamacpp",
            "replicas": 2,
            "gpus": 2,
            "cost_per_hour": 5.0,
            "confidence": 0.94,
            "predicted": {
                "ttft_p95_s": Predicted(value=0.62, low=0.55, high=0.71, label="interpolated"),
                "tpot_p95_s": Predicted(value=0.0101, low=0.0098, high=0.0107, label="measured"),
            },
            "binding": "ttft_p95<=1s",
            "users_per_replica": {"0.1": 36, "0.5": 34, "0.9": 31, "0.95": 30},
            **changes,
        }
        return Option(**fields)  # type: ignore[arg-type]

    return Recommendation(
        demand=Demand(users=50, think_time_s=10.0),
        slo=(slo_ttft(), slo_tpot()),
        confidence=0.9,
        spare=0,
        routing="each replica serves an equal share of the users",
        recommended=option(four),
        options=(
            option(four),
            option(
                one,
                replicas=4,
                gpus=None,
                cost_per_hour=None,
                confidence=0.91,
                users_per_replica={"0.5": 16, "0.9": 14, "0.95": None},
                predicted={
                    "ttft_p95_s": Predicted(value=0.88, low=0.7, high=None, label="extrapolated")
                },
            ),
            option(
                "elsewhere",
                replicas=None,
                gpus=None,
                cost_per_hour=None,
                confidence=None,
                predicted={},
                binding=None,
                users_per_replica={},
                refused="needs a prediction at 4.1 times the highest load measured (16)",
            ),
        ),
        crossovers=(Crossover(from_users=1, target=one), Crossover(from_users=15, target=four)),
        sensitivity=(
            Sensitivity(
                what="answers are twice as long",
                replicas=3,
                gpus=6,
                label="extrapolated",
                why="at the measured <TPOT>",
            ),
            Sensitivity(what="think time halves", replicas=None, gpus=None, label="refused"),
        ),
        simulated=Simulated(
            figures={"ttft_p95_s": Estimate(value=0.66, low=0.5, high=0.83, n=900)},
            why_not="the levels themselves would have a TPOT p95 <1.7> times off",
        ),
        next_measurements=(
            "headroom measure 'vllm=http://127.0.0.1:1' --concurrency 64 --out RUN (the top)",
            "measure elsewhere at concurrency 64",
        ),
        warnings=("the client used 81 % of one CPU",),
    )
