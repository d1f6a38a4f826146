"""Whether two runs measured the same thing, so that a difference between them means something."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from planner.errors import InputError
from planner.records import Name, Record

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from planner.records import RunManifest, TargetInfo

__all__ = ["KEYS", "Mismatch", "check_comparable", "mismatches", "target_pairs"]

KEYS = (
    "target", "backend", "api", "model", "engine", "limits", "settings", "hardware",
    "gpus_per_replica", "emulated", "workload", "client",
)  # fmt: skip
"""What may be allowed to differ. ``client`` is the machine that made the load, where the server ran
on it too. The version of an engine always may: runs are often compared for its sake."""

_PLAIN = ("backend", "api", "model", "engine", "hardware", "gpus_per_replica", "emulated")
_LOCAL = re.compile(r"\w+://(\[::1\]|127\.[\d.]+|localhost)(?=[:/?#]|$)", re.IGNORECASE)
_LONGEST = 60
_MOST_TOLD = 5


class Mismatch(Record, frozen=True, kw_only=True):
    """One thing that two runs do not share.

    Attributes:
        key: one of ``KEYS``, or ``engine_version``.
        what: what differs, such as ``settings.threads``.
        a, b: its value in either run.
    """

    key: Name
    what: Name
    a: str
    b: str

    def __str__(self) -> str:
        """``settings.threads: 4 in A, 8 in B``."""
        return f"{self.what}: {self.a} in A, {self.b} in B"


def target_pairs(a: RunManifest, b: RunManifest) -> tuple[tuple[TargetInfo, TargetInfo], ...]:
    """Which target of A is compared with which of B: by name, or the only one with the only one."""
    by_name = {target.name: target for target in b.targets}
    pairs = tuple((one, by_name[one.name]) for one in a.targets if one.name in by_name)
    if not pairs and len(a.targets) == len(b.targets) == 1:
        return ((a.targets[0], b.targets[0]),)
    return pairs


def mismatches(a: RunManifest, b: RunManifest) -> tuple[Mismatch, ...]:
    """Everything that differs and may explain a difference in figures."""
    return tuple(dict.fromkeys(_mismatches(a, b)))


def check_comparable(
    a: RunManifest, b: RunManifest, *, allowed: Collection[str] = (), names: Sequence[str]
) -> tuple[Mismatch, ...]:
    """Refuse to compare what is not the same.

    Args:
        a: the baseline.
        b: the other run.
        allowed: keys that may differ.
        names: what to call the two runs.

    Returns:
        What differs and is allowed to, to be shown beside the comparison.

    Raises:
        InputError: no target in common, or something differs that is not allowed to.
    """
    if not target_pairs(a, b):
        raise InputError(
            f"{names[0]} (A) and {names[1]} (B) have no target in common: {_list(a)} in A, "
            f"{_list(b)} in B"
        )
    found = mismatches(a, b)
    refused = [one for one in found if one.key not in {*allowed, "engine_version"}]
    if refused:
        keys = dict.fromkeys(one.key for one in refused)
        remedy = " ".join(f"--allow-different {key}" for key in keys)
        told = [str(one) for one in refused[:_MOST_TOLD]]
        told += [f"and {len(refused) - _MOST_TOLD} more"] if len(refused) > _MOST_TOLD else []
        raise InputError(
            f"{names[0]} (A) and {names[1]} (B) did not measure the same thing: "
            f"{'; '.join(told)}: measure both alike, or compare them knowingly with {remedy}"
        )
    return found


def _mismatches(a: RunManifest, b: RunManifest) -> Iterator[Mismatch]:
    pairs = target_pairs(a, b)
    for one, other in pairs:
        yield from _of_targets(one, other)
    for name in a.workload.__struct_fields__:
        if name != "api":  # superseded by that of the target
            yield from _differ(
                "workload", f"workload.{name}", getattr(a.workload, name), getattr(b.workload, name)
            )
    if any(_is_local(target) for pair in pairs for target in pair):
        for name in ("cpu_model", "cpu_count"):
            yield from _differ(
                "client", f"client.{name}", getattr(a.client, name), getattr(b.client, name)
            )


def _of_targets(a: TargetInfo, b: TargetInfo) -> Iterator[Mismatch]:
    yield from _differ("target", "target", a.name, b.name)
    for key in (*_PLAIN, "engine_version"):
        yield from _differ(key, key, getattr(a, key), getattr(b, key))
    for name in a.limits.__struct_fields__:
        yield from _differ(
            "limits", f"limits.{name}", getattr(a.limits, name), getattr(b.limits, name)
        )
    for name in sorted(a.settings.keys() | b.settings.keys()):
        yield from _differ(
            "settings", f"settings.{name}", a.settings.get(name), b.settings.get(name)
        )


def _is_local(target: TargetInfo) -> bool:
    """Whether the server ran on the machine that made the load, as far as its address tells."""
    return _LOCAL.match(target.url) is not None


def _differ(key: str, what: str, a: object, b: object) -> Iterator[Mismatch]:
    if a != b:
        yield Mismatch(key=key, what=_short(what), a=_short(a), b=_short(b))


def _short(value: object) -> str:
    """A value for a terminal: what a server says is not trusted."""
    text = "not reported" if value is None else str(value)
    clean = "".join(c if c.isprintable() else "?" for c in text)
    return clean if len(clean) <= _LONGEST else f"{clean[: _LONGEST - 3]}..."


def _list(manifest: RunManifest) -> str:
    return ", ".join(_short(target.name) for target in manifest.targets) or "none"
