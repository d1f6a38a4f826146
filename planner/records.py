"""The frozen record types that cross package boundaries.

Units are SI inside (seconds, tokens, requests) and stand in the field names. A time that ends in
``_s`` and is a moment counts seconds since the run's start (``RunManifest.started_unix_s``) on the
monotonic clock. ``None`` means "not reported", never zero. No record holds a secret.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from planner.shapes import OwnHardware

__all__ = [
    "ENGINES",
    "KV_BLOCK",
    "KV_TOKENS",
    "MAX_SLOTS",
    "SCHEMA",
    "Arrivals",
    "ClientFacts",
    "Crossover",
    "Demand",
    "EngineLimits",
    "Estimate",
    "Label",
    "LoadKind",
    "OperatingPoint",
    "Option",
    "PairCrossovers",
    "PlanContext",
    "Predicted",
    "Recommendation",
    "RequestRecord",
    "RunManifest",
    "SeenSlots",
    "Sensitivity",
    "ServerView",
    "Simulated",
    "Slo",
    "SlotLimit",
    "SlotsSource",
    "SourceFile",
    "StageInfo",
    "Status",
    "TargetInfo",
    "TelemetrySample",
    "TokenSource",
    "WorkerInfo",
    "Workload",
]

SCHEMA = 1
"""Version of the run folder that this code writes. Older ones are read, newer ones refused."""

Status = Literal["ok", "error", "timeout", "cancelled"]
"""``timeout`` and ``cancelled`` are censored: the latency is at least what was seen. ``cancelled``
means that Headroom itself ended the request because its stage was over."""

TokenSource = Literal["usage", "timings", "tokenizer", "chunks"]
"""Who counted the output tokens: the server's usage figures, its timings, our tokenizer, or nobody
(one per content event, which undercounts when a server batches several tokens in one event)."""

LoadKind = Literal["concurrency", "users", "rate"]
"""``concurrency``: requests in flight, the next sent when one ends. ``users``: people who pause to
think between requests. ``rate``: arrivals per second that wait for nobody."""

Label = Literal["measured", "interpolated", "extrapolated", "refused"]
"""How far a figure stands from the evidence."""

SlotsSource = Literal["told", "given", "seen"]
"""Who says how many slots a target has: the server itself, the user, or its telemetry."""

Name = Annotated[str, msgspec.Meta(max_length=300)]

KV_TOKENS, KV_BLOCK, ENGINES = "KV cache tokens", "block size", "engines"
"""Settings of a target that a simulation needs: of one engine's KV cache its tokens and those of a
block; the engines behind one address, where there are several."""

MAX_SLOTS = 100_000
"""More slots are a slip of the pen."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all records: comparable, and printable as JSON by msgspec.

    ``frozen`` and ``kw_only`` hold only for the class that states them, so each record does.
    """


class RequestRecord(Record, frozen=True, kw_only=True):
    """One request as the client saw it."""

    id: int
    stage: int  # index into RunManifest.stages
    target: Name
    backend: Name
    user: int
    turn: int = 0  # position in the conversation, from 0
    worker: int = 0  # which load-making process, from 1 where there are several
    scheduled_s: float  # the intended start; equals sent_s in a closed loop
    sent_s: float  # just before the request's first byte was written
    connect_s: float | None = None  # duration of TCP connect (+ TLS), None on a reused connection
    connect_ahead_s: float | None = None  # what of it lay before the intended start
    headers_s: float | None = None  # moment at which the response headers were complete
    first_token_s: float | None = None  # moment of the first content event
    ended_s: float  # moment of the last byte, the failure or the cancellation
    gaps_s: bytes = b""  # gaps between consecutive content events: float32 little-endian seconds
    prompt_tokens: int | None = None  # all prompt tokens, the cached ones included
    output_tokens: int | None = None
    cached_tokens: int | None = None
    token_source: TokenSource | None = None
    status: Status
    http_status: int | None = None
    finish_reason: Name | None = None
    error_kind: Name | None = None
    error: Annotated[str, msgspec.Meta(max_length=2000)] | None = None
    coalesced_share: float | None = None  # content events that shared one receive with another
    server_queue_s: float | None = (
        None  # the server's own account of this request, where it gives one
    )
    server_prompt_s: float | None = None
    server_decode_s: float | None = None

    @property
    def due_s(self) -> float:
        """Moment from which latencies count: the intended start, less the connecting behind it.

        A late send is what a user feels and counts; connecting is a figure of its own.
        """
        return self.scheduled_s + (self.connect_s or 0.0) - (self.connect_ahead_s or 0.0)


class EngineLimits(Record, frozen=True, kw_only=True):
    """What the engine itself says it can hold."""

    slots: int | None = None  # sequences it decodes at once
    context_tokens: int | None = None  # prompt + output that one request may hold
    queue_limit: int | None = None  # requests that may wait before it refuses


class SeenSlots(Record, frozen=True, kw_only=True):
    """What a server's telemetry shows of how many requests it answers at once."""

    most_running: int  # it answers at least so many at once
    limit: int | None = None  # ... and no more; None: it was not seen to keep others waiting
    agreeing: int = 0  # looks at which about so many ran ...
    queued: int = 0  # ... of those at which others were kept waiting with memory to spare
    full: int = 0  # looks at which they were kept waiting with none to spare


class SlotLimit(Record, frozen=True, kw_only=True):
    """How many requests a target answers at once, and who says so."""

    slots: int
    source: SlotsSource
    agreeing: int | None = None  # of what was seen: as in SeenSlots
    queued: int | None = None


class TargetInfo(Record, frozen=True, kw_only=True):
    """One server under test, as it was found."""

    name: Name
    backend: Name  # llamacpp, ollama, vllm, openai
    url: Name  # without credentials
    api: Literal["native", "openai"] | None = None  # which of its two APIs carried the chat
    model: Name | None = None
    engine: Name | None = None  # what the server says it is
    engine_version: Name | None = None
    limits: EngineLimits = EngineLimits()
    hardware: Name | None = None  # as the user declared it, e.g. "H100"
    gpus_per_replica: int | None = None  # None: this engine runs on the CPU or nobody said
    settings: dict[str, str] = {}  # engine settings worth knowing: threads, quantisation, ...
    warnings: tuple[str, ...] = ()  # what about it may spoil a measurement
    emulated: Name | None = (
        None  # what it stands in for: its figures are no measurement of a server
    )
    slots_given: Annotated[int, msgspec.Meta(ge=1, le=MAX_SLOTS)] | None = None  # as declared
    slots_seen: SeenSlots | None = None  # worked out where a run is read; a file has none

    @property
    def slot_limit(self) -> SlotLimit | None:
        """The user has the last word, then the server, then its telemetry."""
        if self.slots_given is not None:
            return SlotLimit(slots=self.slots_given, source="given")
        if self.limits.slots is not None:
            return SlotLimit(slots=self.limits.slots, source="told")
        seen = self.slots_seen
        if seen is None or seen.limit is None:
            return None
        return SlotLimit(
            slots=seen.limit, source="seen", agreeing=seen.agreeing, queued=seen.queued
        )

    @property
    def slots(self) -> int | None:
        """Requests that it answers at once, whoever says so."""
        limit = self.slot_limit
        return None if limit is None else limit.slots


class Workload(Record, frozen=True, kw_only=True):
    """What every user asks for. Distributions are kept as the user wrote them."""

    prompt_tokens: Name
    output_tokens: Name
    temperature: float = 0.8
    ignore_eos: bool = True  # ask the server to generate exactly the drawn output length
    vary_prompts: bool = True  # no two prompts share a prefix beyond the chat template
    api: Literal["native", "openai"] = "openai"  # superseded: TargetInfo.api tells it


class StageInfo(Record, frozen=True, kw_only=True):
    """One level of a sweep."""

    index: int
    target: Name
    load_kind: LoadKind
    load: float  # concurrency, users, or requests per second
    think_time_s: float = 0.0  # mean pause of a user between an answer and the next request
    arrivals: Name | None = None  # the pattern of a rate: constant, poisson, gamma:CV, trace:FILE
    send_late_p50_s: float | None = None  # of a rate: from the intended start to the send ...
    send_late_p99_s: float | None = None  # ... less connecting; a figure of the client
    started_s: float
    ended_s: float | None = None  # None while it runs, and for ever in a killed run
    stop_reason: Name | None = None  # steady, time limit, error limit, interrupted
    invalid: str | None = None  # why the stage must not be used: the client was the limit, ...
    together: tuple[Name, ...] = ()  # other targets that were loaded at the same time


class ClientFacts(Record, frozen=True, kw_only=True):
    """The machine and software that made the load."""

    platform: Name  # of what was imported: the tool that made the load
    cpu_count: int | None
    cpu_model: Name | None = None
    python: Name | None
    clock: Name | None  # which clock stamped the arrivals
    versions: dict[str, str] = {}


class WorkerInfo(Record, frozen=True, kw_only=True):
    """One of several processes that made the load together."""

    number: int  # as in its records; 0 is a process that makes the load alone
    name: Name  # its host and process
    joined_s: float
    left_s: float | None = None  # None: it stayed to the end
    fate: Name | None = None  # why it did not: killed, missing, told to go
    # Its clock less the run's, as last estimated, and half of that estimate's round trip. Moments
    # of its records have been corrected by it.
    clock_offset_s: float | None = None
    clock_bound_s: float | None = None


class PlanContext(Record, frozen=True, kw_only=True):
    """The question that the run was made for, so that a report can answer it again."""

    users: int
    think_time_s: float
    slo: tuple[str, ...]
    confidence: float
    spare: int | None = None  # replicas that may fail; None: one where more than one is needed
    gpu_cost: dict[str, float] = {}


class SourceFile(Record, frozen=True, kw_only=True):
    """A result file of another tool that a run was imported from."""

    name: Name
    sha256: Name
    tool: Name
    version: Name | None = None


class RunManifest(Record, frozen=True, kw_only=True):
    """Everything about a run that is not a request, rewritten as the run goes on."""

    schema: int = SCHEMA
    headroom_version: Name
    started_unix_s: float
    state: Literal["running", "complete", "interrupted"]
    seed: int
    targets: tuple[TargetInfo, ...]
    workload: Workload
    stages: tuple[StageInfo, ...] = ()
    client: ClientFacts
    plan: PlanContext | None = None
    notes: tuple[str, ...] = ()
    workers: tuple[WorkerInfo, ...] = ()  # empty: one process made the load
    sources: tuple[SourceFile, ...] = ()  # of an import, which has points and no requests
    hardware: OwnHardware = OwnHardware()  # the user's own GPUs and models, by which to judge it


class Estimate(Record, frozen=True, kw_only=True):
    """A figure with its interval. ``None`` at an end: the sample cannot bound it on that side."""

    value: float
    low: float | None
    high: float | None
    n: int  # observations it rests on


class TelemetrySample(Record, frozen=True, kw_only=True):
    """What one look at a server, its process or its GPU gave."""

    time_s: float  # when the answer was there
    target: Name
    source: Name  # /metrics, /slots, /api/ps, process, machine, gpu0, ...
    values: dict[str, float]  # by the names in planner.telemetry


class ServerView(Record, frozen=True, kw_only=True):
    """What a server told of itself over the steady window, and the client over the same time.

    ``client_`` figures are over the very moments at which the server was asked, so that a
    difference is no matter of sampling.
    """

    samples: int  # answers of the server in the window
    missed: int = 0  # looks that it did not answer in time
    running_mean: float | None = None
    waiting_mean: float | None = None
    client_in_flight_mean: float | None = None
    kv_usage_mean: float | None = None  # share of the KV cache
    kv_usage_max: float | None = None
    ttft_mean_s: float | None = None  # by the server's own histogram
    client_ttft_mean_s: float | None = None  # from sending
    queue_mean_s: float | None = None
    output_tokens_per_s: float | None = None  # by the server's own counter
    client_output_tokens_per_s: float | None = None
    preemptions: int | None = None
    cpu_cores_mean: float | None = None  # of the server's processes
    memory_bytes_max: float | None = None
    gpu_utilisation_mean: float | None = None  # over the GPUs that the server's processes use
    gpu_memory_bytes_max: float | None = None  # all of them together
    power_w_mean: float | None = None
    joules_per_output_token: float | None = None
    disagreements: tuple[str, ...] = ()  # where the two differ beyond tolerance, with the numbers


class OperatingPoint(Record, frozen=True, kw_only=True):
    """What one level of load gave, over its steady window.

    ``figures`` maps a figure's name to its estimate. The names are ``requests_per_s``,
    ``output_tokens_per_s``, ``error_rate`` and, for each of ttft, tpot, itl and e2e,
    ``{metric}_mean_s`` and ``{metric}_pNN_s`` (``ttft_p95_s``, ``e2e_p99.9_s``).
    """

    target: Name
    backend: Name
    stage: int | None
    load_kind: LoadKind
    load: float
    think_time_s: float = 0.0
    in_flight_mean: float | None
    window_start_s: float | None = None
    window_end_s: float | None = None
    completed: int
    failed: int
    censored: int
    prompt_tokens_mean: float | None = None
    output_tokens_mean: float | None = None
    figures: dict[str, Estimate]
    source: Name  # "measured", "emulated: PROFILE", or the tool whose file it was imported from
    problems: tuple[str, ...] = ()  # why it must not be used; empty when it may
    notes: tuple[str, ...] = ()  # what a reader of its figures must know
    together: tuple[Name, ...] = ()  # other targets that were loaded at the same time
    server: ServerView | None = None  # None: nobody looked, or the server tells nothing

    @property
    def usable(self) -> bool:
        """Whether the point passed every gate, and tells how its target serves alone."""
        return not self.problems and not self.together


class Slo(Record, frozen=True, kw_only=True):
    """One service-level objective: a figure, a direction and a bound in SI units."""

    figure: Name  # as in OperatingPoint.figures
    op: Literal["<=", ">="]
    bound: float
    text: Name  # as the user wrote it

    def met(self, value: float) -> bool:
        """Whether a value satisfies the objective."""
        return value <= self.bound if self.op == "<=" else value >= self.bound


class Arrivals(Record, frozen=True, kw_only=True):
    """Requests that wait for nobody."""

    rate_per_s: float
    # (seconds, variance over mean of the arrivals in windows so long), ascending; empty: Poisson.
    dispersion: tuple[tuple[float, float], ...] = ()
    gap_scv: float | None = None  # squared coefficient of variation of the gaps between them
    source: Name | None = None  # the trace that they were taken from


class Demand(Record, frozen=True, kw_only=True):
    """What must be served: users, or arrivals."""

    users: int | None = None
    think_time_s: float = 0.0
    arrivals: Arrivals | None = None
    prompt_tokens_mean: float | None = None  # None: the same as was measured
    output_tokens_mean: float | None = None
    gpus_per_replica: int | None = None  # None: as was measured


class Predicted(Record, frozen=True, kw_only=True):
    """A predicted figure with its interval and how it was come by."""

    value: float | None
    low: float | None
    high: float | None
    label: Label


class Option(Record, frozen=True, kw_only=True):
    """One way to serve the demand, or the reason why it cannot."""

    target: Name
    backend: Name
    hardware: Name | None = None
    replicas: int | None
    users_on_replica: int | None = None  # the most that one gets while the spares are down
    gpus: int | None  # None where a replica is not a whole number of GPUs (a CPU engine)
    cost_per_hour: float | None
    cost_per_million_tokens: float | None = None  # output tokens, at the demanded load
    watts_per_replica: float | None = None  # of its GPUs, with the spares up; None: not measured
    joules_per_output_token: float | None = None  # of the same
    kwh_per_million_tokens: float | None = None
    confidence: float | None  # P(every objective is met)
    predicted: dict[str, Predicted]
    binding: Name | None  # the objective that decides the number of replicas
    users_per_replica: dict[
        str, int | None
    ] = {}  # "0.5", "0.9", "0.95" -> users one replica carries
    users_known_to: int | None = None  # nothing is known of more users on one replica
    rate_per_replica: dict[str, float] = {}  # the same in requests/s, where arrivals are asked for
    rate_known_to: float | None = None  # nothing is known of more requests/s on one replica
    refused: str | None = None
    notes: tuple[str, ...] = ()
    emulated: Name | None = None  # the profile, where an emulator answered: no server was measured
    slots: SlotLimit | None = None  # of a replica; None: nobody told, and it was not seen

    def is_lower_bound(self, users: int | None) -> bool:
        """Whether one replica may carry more than so many users, of which nothing is known."""
        return users is not None and users == self.users_known_to

    def is_lower_bound_rate(self, rate_per_s: float) -> bool:
        """The same of requests per second, up to the rounding of a file."""
        known = self.rate_known_to
        return known is not None and rate_per_s >= known * (1 - 1e-9)


class Crossover(Record, frozen=True, kw_only=True):
    """From this many users on, this target is the better answer."""

    from_users: int
    target: Name
    low: int | None = None  # 90 % interval of from_users over the bootstrap draws ...
    high: int | None = None  # ... None: not bounded on that side, or nothing to change from


class PairCrossovers(Record, frozen=True, kw_only=True):
    """Which of two targets is the better answer, from how many users on."""

    a: Name
    b: Name
    crossovers: tuple[Crossover, ...]  # the first tells who is better for one user


class Sensitivity(Record, frozen=True, kw_only=True):
    """What the recommended target would need if the demand were another."""

    what: Name
    replicas: int | None
    gpus: int | None
    label: Label
    why: str | None = None  # the model behind it, or why it is refused


class Simulated(Record, frozen=True, kw_only=True):
    """The recommended option's figures a second way: its demand, simulated request by request."""

    figures: dict[str, Estimate] = {}  # of those in Option.predicted, with 90 % intervals
    why_not: str | None = None  # why an objective's figure has none, in one sentence


class Recommendation(Record, frozen=True, kw_only=True):
    """The answer: which backend, how many replicas and GPUs, how sure, and what to measure next."""

    schema: int = 1
    demand: Demand
    slo: tuple[Slo, ...]
    confidence: float  # as asked
    spare: int
    routing: Name  # how users are assumed to be spread over the replicas
    recommended: Option | None
    options: tuple[Option, ...]  # ranked, the best first, the refused last
    crossovers: tuple[Crossover, ...] = ()
    pairs: tuple[PairCrossovers, ...] = ()  # of every two targets that meet the objectives
    sensitivity: tuple[Sensitivity, ...] = ()
    simulated: Simulated | None = None  # None: nothing is recommended, or it was not asked for
    next_measurements: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
