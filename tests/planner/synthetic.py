"""Level samples of a server whose behaviour is known in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from planner.records import EngineLimits, Estimate, OperatingPoint, TargetInfo
from planner.summary import QUANTILE_LEVELS, LevelSample
from planner.uncertainty import needed_for_percentile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from planner.records import LoadKind

DRAWS = 200


def target(name: str = "a", **facts: object) -> TargetInfo:
    """A target; ``slots`` stands for its engine limit."""
    slots = facts.pop("slots", None)
    return TargetInfo(
        name=name,
        backend="vllm",
        url="http://127.0.0.1:8000",
        limits=EngineLimits(slots=slots),  # type: ignore[arg-type]
        **facts,  # type: ignore[arg-type]
    )


def level(
    load: float,
    requests_per_s: float,
    quantile: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]],
    *,
    name: str = "a",
    noise: float = 0.02,
    completed: int = 500,
    draws: int = DRAWS,
    seed: int = 0,
    load_kind: LoadKind = "concurrency",
    think_time_s: float = 0.0,
    problems: tuple[str, ...] = (),
    prompt_tokens_mean: float | None = 100.0,
) -> LevelSample:
    """One level from its throughput and its quantile function (seconds), for all four metrics."""
    rng = np.random.default_rng([seed, round(load * 1000)])

    def jitter() -> npt.NDArray[np.float64]:
        return np.asarray(np.exp(np.concatenate([[0.0], rng.normal(0, noise, draws)])))

    rates = requests_per_s * jitter()
    rows = quantile(QUANTILE_LEVELS) * jitter()[:, None]
    mean = float(np.mean(quantile(np.linspace(0.0005, 0.9995, 1000))))
    figures = {}
    for share in (0.5, 0.9, 0.95, 0.99):
        value = float(quantile(np.array([share]))[0])
        bounded = completed >= needed_for_percentile(share)
        for metric in ("ttft", "tpot", "itl", "e2e"):
            figures[f"{metric}_p{share * 100:g}_s"] = Estimate(
                value=value,
                low=value * (1 - 2 * noise),
                high=value * (1 + 2 * noise) if bounded else None,
                n=completed,
            )
    point = OperatingPoint(
        target=name,
        backend="vllm",
        stage=0,
        load_kind=load_kind,
        load=load,
        think_time_s=think_time_s,
        in_flight_mean=load,
        completed=completed,
        failed=0,
        censored=0,
        prompt_tokens_mean=prompt_tokens_mean,
        output_tokens_mean=20.0,
        figures=figures,
        source="measured",
        problems=problems,
    )
    metrics = ("ttft", "tpot", "itl", "e2e")
    return LevelSample(
        point=point,
        requests_per_s=rates,
        output_tokens_per_s=rates * 20,
        quantiles=dict.fromkeys(metrics, rows),
        means={metric: mean * jitter() for metric in metrics},
    )


def batching_server(
    levels: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
    *,
    name: str = "a",
    base_s: float = 0.5,
    per_request_s: float = 0.02,
    noise: float = 0.02,
    completed: int = 500,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[LevelSample]:
    """A linear step time: R(N) = base + N per_request, X = N / R, latencies within ±20 %."""

    def sample(n: int) -> LevelSample:
        response = base_s + per_request_s * n
        return level(
            n,
            n / response,
            lambda share: response * (0.8 + 0.4 * share),
            name=name,
            noise=noise,
            completed=completed,
            draws=draws,
            seed=seed,
        )

    return [sample(n) for n in levels]
