"""The report's words, for a reader who does not run inference servers."""

from __future__ import annotations

__all__ = ["GLOSSARY"]

GLOSSARY: tuple[tuple[str, str], ...] = (
    (
        "TTFT, time to first token",
        "From the moment a request should start to the first piece of its answer. Waiting in the "
        "server's queue counts.",
    ),
    (
        "TPOT, time per output token",
        "(E2E minus TTFT) divided by the tokens after the first. 50 ms are 20 tokens a second, "
        "faster than most people read.",
    ),
    ("ITL, inter-token latency", "The gap between two consecutive pieces of one answer."),
    ("E2E, end to end", "From the moment a request should start to the last byte of its answer."),
    (
        "p50, p95, p99",
        "Percentiles: 95 of 100 requests took at most the p95. They are read off the requests "
        "themselves, never derived from a mean.",
    ),
    (
        "Concurrency",
        "Requests in flight at once. As soon as one ends the next is sent, so it stays constant.",
    ),
    (
        "Users and think time",
        "People who read an answer and think before they ask again. Most of them are not waiting "
        "at any one moment, so there are more users than requests in flight.",
    ),
    (
        "Slots",
        "How many requests an engine decodes at the same time; further ones wait in its queue.",
    ),
    (
        "Replica",
        "One more copy of the same engine on the same hardware. Each is assumed to serve its share "
        "of the users.",
    ),
    ("Objective (SLO)", "A bound that a figure must keep, for example TTFT p95 of at most 1 s."),
    (
        "Confidence",
        "The probability, given these measurements, that every objective is met: the share of many "
        "resampled data sets (bootstrap) in which it is.",
    ),
    (
        "Interval",
        "Where the figure would fall if the measurement were repeated. Of a percentile it comes "
        "from the ranks of the requests, without assuming any distribution; where too few requests "
        "were seen to bound it, that is said.",
    ),
    (
        "Steady window",
        "The part of a level after its warm-up, in which its figures no longer drift. Only it counts.",
    ),
)
