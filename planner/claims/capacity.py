"""Rules on how many users one replica serves, and on what hardware can do at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.claims.records import Finding, Ruling
from planner.claims.remedies import measure_command
from planner.claims.weighing import NAMES, missing, ruled
from planner.ranking import confidence_key
from planner.records import Estimate
from planner.roofline import LEAST_BITS, decode_tokens_per_s_bound, weight_bytes

if TYPE_CHECKING:
    from planner.claims.records import Evidence
    from planner.claims.rules import OnlyOne, Possible
    from planner.records import Option, Recommendation

__all__ = ["judge_only_one", "judge_possible"]


def judge_only_one(check: OnlyOne, evidence: Evidence) -> Ruling:
    """Users that one replica serves within the objectives: surely, and not even perhaps.

    The others fail for certain above what they carry with a probability of 1 - confidence; the
    backend serves for certain up to what it carries with the confidence that was asked.
    """
    others = " nor ".join(NAMES[name] for name in check.over)
    asks = (
        f"from {check.from_users} users on {NAMES[check.backend]} meets your objectives, and "
        f"neither {others} does, by one replica each"
    )
    steps = [measure_command(evidence, [check.backend, *check.over], (1, 4, 16))]
    found = evidence.recommendation
    if found is None or found.demand.users is None:
        told = "no objectives were asked for, and who serves how many users depends on them"
        ask = "headroom claims RUN --users N --think-time 10s --slo 'ttft_p95<=1s'"
        finding = Finding(what="your objectives", state="open", told=told)
        return ruled("only_one", asks, [finding], next_steps=[ask])
    findings = [
        missing(name, evidence, "no server of this kind was measured")
        for name in (check.backend, *check.over)
        if not _options(found, name)
    ]
    own = [o for o in _options(found, check.backend) if _surely(o, found) is not None]
    rivals = [o for name in check.over for o in _options(found, name)]
    findings += [f for rival in rivals for f in _against(check, own, rival, found)]
    open_ended = any(f.state == "open" for f in findings)
    return ruled("only_one", asks, findings, next_steps=steps if open_ended else ())


def _options(found: Recommendation, backend: str) -> list[Option]:
    return [o for o in found.options if o.backend == backend and not o.emulated]


def _surely(option: Option, found: Recommendation) -> int | None:
    """Users that one replica carries at the asked confidence; ``None``: not known."""
    return option.users_per_replica.get(confidence_key(found.confidence))


def _perhaps(option: Option, found: Recommendation) -> int | None:
    """Users above which one replica fails for certain; ``None``: not known."""
    most = option.users_per_replica.get(confidence_key(1 - found.confidence))
    unknown_beyond = option.is_lower_bound(most)
    return None if unknown_beyond else most


def _against(
    check: OnlyOne, own: list[Option], rival: Option, found: Recommendation
) -> list[Finding]:
    """Where the claim fails, since the rival serves, and where it holds, since only its own do."""
    first, surely, perhaps = check.from_users, _surely(rival, found), _perhaps(rival, found)
    best = max(own, key=lambda option: _surely(option, found) or 0, default=None)
    if surely is None:
        told = "how many users it serves is not known"
        return [Finding(what=rival.target, state="open", told=told)]
    findings = []
    if surely >= first:
        estimate = Estimate(value=surely, low=surely, high=perhaps, n=0)
        told = f"one replica serves up to {surely:,} users"
        what = f"{rival.target}, {first:,} to {surely:,} users"
        findings.append(Finding(what=what, state="fails", told=told, estimate=estimate))
    if best is None:
        return findings
    most = _surely(best, found) or 0
    alone_from = None if perhaps is None else max(first, perhaps + 1)
    if alone_from is not None and alone_from <= most:
        told = f"{best.target} serves up to {most:,}, {rival.target} no more than {perhaps:,}"
        what = f"{best.target} over {rival.target}, {alone_from:,} to {most:,} users"
        findings.append(Finding(what=what, state="holds", told=told))
        unsure_from = max(first, surely + 1)
        if unsure_from < alone_from:
            what = f"{rival.target}, {unsure_from:,} to {alone_from - 1:,} users"
            told = "it may or may not serve them"
            findings.append(Finding(what=what, state="open", told=told))
    highest = _perhaps(best, found)
    if most < first and highest is not None and highest < first:
        told = f"one replica of {best.target} serves no more than {highest:,} users"
        findings.append(Finding(what=best.target, state="fails", told=told))
    if not findings:
        told = (
            f"{rival.target} surely serves {surely:,}, {best.target} surely {most:,}: neither "
            f"tells of {first:,} and more"
        )
        what = f"{best.target} over {rival.target}"
        findings.append(Finding(what=what, state="open", told=told))
    return findings


def judge_possible(check: Possible, evidence: Evidence) -> Ruling:
    """Whether the weights fit the card, and the rate is within what it can read.

    Generous to the claim: its own bits per weight, no KV cache, and all streams of a batch served
    by one reading of the weights.
    """
    where = f"{check.gpus} × {check.hardware}" if check.gpus > 1 else check.hardware
    streams = "one stream" if check.streams == 1 else f"{check.streams} streams at once"
    asks = (
        f"{where} can hold {check.model} at {check.bits_per_weight:g} bits and make "
        f"{check.tokens_per_s:g} tok/s with {streams}"
    )
    gpu, model = evidence.catalogue.gpu(check.hardware), evidence.catalogue.model(check.model)
    if gpu is None or model is None:
        unknown, kind = (check.hardware, "gpus") if gpu is None else (check.model, "models")
        finding = Finding(what=unknown, state="open", told="the catalogue does not know it")
        return ruled(
            "physics", asks, [finding],
            next_steps=[f"describe it as [{kind}.NAME] in a file for --config"],
        )  # fmt: skip
    weights = weight_bytes(model, check.bits_per_weight)
    memory = check.gpus * gpu.memory_bytes
    bound = check.streams * decode_tokens_per_s_bound(
        model, gpu, check.gpus, bits=check.bits_per_weight, kv_bits=LEAST_BITS
    )
    fits, reads = weights <= memory, check.tokens_per_s <= bound
    findings = [
        Finding(
            what="memory",
            state="open" if fits else "fails",
            told=f"the weights take {weights / 1e9:.3g} GB, {where} has {memory / 1e9:.3g} GB",
        ),
        Finding(
            what="bandwidth",
            state="open" if reads else "fails",
            told=f"{where} can read the weights for at most {bound:,.3g} tok/s with {streams}, "
            f"the claim says {check.tokens_per_s:g}",
        ),
    ]
    step = f"headroom measure TARGET --hardware '{check.hardware}' --concurrency {check.streams}"
    return ruled(
        "physics", asks, findings,
        next_steps=[f"{step} --out RUN, with {check.model}"] if fits and reads else (),
    )  # fmt: skip
