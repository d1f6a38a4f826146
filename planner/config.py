"""The ``--config`` file: named targets, and a default for every option of the command line.

::

    users = 50                      # any option: its long name, with - or _
    think_time = "10s"
    slo = ["ttft_p95<=1s"]
    output_tokens = "lognormal:mean=200,cv=0.7,max=1024"

    [gpu_cost]                      # price of one GPU per hour
    H100 = 2.5

    [targets.big]                   # a TARGET on the command line may then be just: big
    kind = "vllm"
    url = "http://10.0.0.5:8000"
    model = "llama-3.1-70b"
    hardware = "H100"
    gpus_per_replica = 4
    slots = 256                     # requests that one replica answers at once

    [gpus.H100-custom]              # more GPUs and models for planner.hardware's catalogue
    memory_gb = 96
    bandwidth_gb_s = 4000
"""

from __future__ import annotations

import difflib
import tomllib
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import click
import msgspec

from planner.errors import InputError
from planner.files import read_bounded
from planner.hardware import Catalogue, builtin_catalogue
from planner.records import MAX_SLOTS, Record
from planner.shapes import Gpu, Model, OwnHardware

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

__all__ = [
    "KEYS",
    "Config",
    "TargetConfig",
    "catalogue_of",
    "config_of",
    "config_option",
    "load_config",
    "own_hardware_of",
    "slots_in",
]

KEYS = frozenset(
    {
        "allow_cache",
        "allow_different",
        "annotations",
        "api",
        "arrivals",
        "baseline",
        "budget",
        "claims",
        "company",
        "concurrency",
        "confidence",
        "doctor",
        "duration",
        "gpu_cost",
        "gpus_per_replica",
        "hardware",
        "inconclusive",
        "junit",
        "markdown",
        "max_in_flight",
        "max_tokens",
        "natural_stop",
        "only_together",
        "out",
        "output_tokens",
        "parity",
        "processes",
        "prompt_tokens",
        "prompts",
        "rate",
        "repeat",
        "routing",
        "rules",
        "save_baseline",
        "seed",
        "slo",
        "slots",
        "spare",
        "strict",
        "target",
        "telemetry",
        "temperature",
        "think_time",
        "together",
        "top",
        "trace",
        "url",
        "users",
    }
)
"""Every key beside the tables ``targets``, ``gpus`` and ``models``: the long names of the options
of all commands that take a file."""

_MAX_BYTES = 2**20
_META = "headroom.config"

Entry = TypeVar("Entry", bound=msgspec.Struct)


class TargetConfig(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ``[targets.NAME]`` table."""

    kind: str
    url: str
    model: str | None = None
    api: Literal["native", "openai"] | None = None
    hardware: str | None = None
    gpus_per_replica: Annotated[int, msgspec.Meta(ge=1)] | None = None
    slots: Annotated[int, msgspec.Meta(ge=1, le=MAX_SLOTS)] | None = None


class Config(Record, frozen=True, kw_only=True):
    """A configuration file, read and checked.

    Attributes:
        targets: by name.
        gpus, models: additions to the catalogue of hardware, by name.
        defaults: option -> what would be typed behind it, one text for each time it is given.
    """

    targets: dict[str, TargetConfig] = msgspec.field(default_factory=dict)
    gpus: dict[str, Gpu] = msgspec.field(default_factory=dict)
    models: dict[str, Model] = msgspec.field(default_factory=dict)
    defaults: dict[str, list[str]] = msgspec.field(default_factory=dict)


def load_config(path: str | Path) -> Config:
    """Read a configuration file.

    Raises:
        InputError: it is missing, too large, not TOML, or a table has a wrong or an unknown key.
    """
    try:
        document = tomllib.loads(read_bounded(path, _MAX_BYTES, "config").decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"config {path} is no TOML: {error}") from error
    return Config(
        targets=_tables(path, document, "targets", "target", TargetConfig),
        gpus=_tables(path, document, "gpus", "GPU", Gpu),
        models=_tables(path, document, "models", "model", Model),
        defaults=_defaults(path, document),
    )


def _tables(
    path: str | Path, document: dict[str, Any], key: str, what: str, entry: type[Entry]
) -> dict[str, Entry]:
    """Take the tables ``[key.NAME]`` out of the document."""
    tables = document.pop(key, {})
    if not isinstance(tables, dict):
        raise InputError(f"config {path}: {key} is no table: write [{key}.NAME]")
    found = {}
    known = {field.encode_name for field in msgspec.structs.fields(entry)}
    for name, table in tables.items():
        for written in table if isinstance(table, dict) else ():
            if written not in known:
                raise _unknown(f"config {path}, {what} {name!r}", written, written, known)
        try:
            found[name] = msgspec.convert(table, entry)
        except msgspec.ValidationError as error:
            raise InputError(f"config {path}, {what} {name!r}: {error}") from error
    return found


def _defaults(path: str | Path, document: dict[str, Any]) -> dict[str, list[str]]:
    """Options' values, as they would be typed, by the names that click gives them."""
    defaults = {}
    for written, value in document.items():
        key = written.replace("-", "_")
        if key not in KEYS:
            raise _unknown(f"config {path}", written, key, KEYS)
        if isinstance(value, dict):
            defaults[key] = [f"{name}={_typed(path, key, v)}" for name, v in value.items()]
        else:
            values = value if isinstance(value, list) else [value]
            defaults[key] = [_typed(path, key, v) for v in values]
    return defaults


def _unknown(where: str, written: str, key: str, known: Collection[str]) -> InputError:
    """That there is no such key, with the nearest one or all that there are."""
    near = difflib.get_close_matches(key, known, n=1)
    near += sorted(name for name in known if name.startswith(key))
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
    return InputError(f"{where} has the unknown key {written!r}: {hint}")


def _typed(path: str | Path, key: str, value: Any) -> str:
    """A value as typed on the command line, so that the file is read by the very same rules."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise InputError(f"config {path}: {key} holds {value!s:.100}: write a text or a number")


def config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--config FILE`` to a click command; its keys become the options' defaults."""
    return click.option(
        "--config",
        metavar="FILE",
        is_eager=True,  # before the options whose defaults it sets
        expose_value=False,
        callback=_take_defaults,
        help="TOML file with targets, and a default for any option.",
    )(command)


def config_of(context: click.Context) -> Config:
    """The configuration that the running command was given; an empty one without ``--config``."""
    config = context.meta.get(_META)
    return config if isinstance(config, Config) else Config()


def catalogue_of(context: click.Context) -> Catalogue:
    """The catalogue of hardware, with what the configuration of the running command adds."""
    config = config_of(context)
    return builtin_catalogue().extended(config.gpus, config.models)


def own_hardware_of(context: click.Context) -> OwnHardware:
    """What the configuration of the running command adds to the catalogue, for a run to keep."""
    config = config_of(context)
    return OwnHardware(gpus=config.gpus, models=config.models)


def slots_in(config: Config) -> dict[str, int]:
    """Slots that a configuration declares, by target."""
    return {name: t.slots for name, t in config.targets.items() if t.slots is not None}


def _take_defaults(context: click.Context, _: click.Parameter, path: str | None) -> None:
    if path is None:
        return
    config = load_config(path)
    context.meta[_META] = config
    repeatable = {option.name for option in context.command.params if option.multiple}
    context.default_map = {
        **(context.default_map or {}),
        **{key: v if key in repeatable else ",".join(v) for key, v in config.defaults.items()},
    }
