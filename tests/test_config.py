"""The ``--config`` file: targets by name, and defaults that the command line overrides."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import headroom
from loadtests.resolve import resolve_targets
from planner import config as config_module
from planner.cli import DURATION, PRICE, SLO, Command, slots_option
from planner.config import KEYS, TargetConfig, config_option, load_config
from planner.errors import InputError
from planner.units import parse_slo
from tests.command_facts import commands

if TYPE_CHECKING:
    from pathlib import Path

    from loadtests.targets import Target

NOT_IN_A_FILE = {"config", "json", "no_telemetry"}
"""Options that say how to run, not what: the file itself, and the form of the output; and the other
name of a key that a file sets to false."""

GOOD = """
users = 50
think-time = "10s"
slo = "ttft_p95<=1s"
natural_stop = true
concurrency = [1, 4]

[gpu_cost]
H100 = 2.5
A10 = 1

[targets.big]
kind = "vllm"
url = "http://10.0.0.5:8000"
model = "llama-3.1-70b"
hardware = "H100"
gpus_per_replica = 4
slots = 256

[targets.small]
kind = "ollama"
url = "http://10.0.0.6:11434"
"""

BAD = [
    ("userz = 50", "has the unknown key 'userz': did you mean users?"),
    ("think-tyme = '3s'", "has the unknown key 'think-tyme': did you mean think_time?"),
    ("zzzzzz = 1", "has the unknown key 'zzzzzz': known are allow_cache, "),
    ("json = true", "has the unknown key 'json'"),
    ("users = [1", "is no TOML: Unclosed array"),
    ("users = 1\nusers = 2", "is no TOML: Cannot overwrite a value"),
    ("users = 1979-05-27", "users holds 1979-05-27: write a text or a number"),
    ("slo = [['ttft_p95<=1s']]", "slo holds ['ttft_p95<=1s']: write a text or a number"),
    ("[gpu_cost.H100]\nprice = 2", "gpu_cost holds {'price': 2}: write a text or a number"),
    ("targets = 3", "targets is no table: write [targets.NAME]"),
    ("[targets]\na = 'vllm'", "target 'a': Expected `object`, got `str`"),
    ("[targets.a]\nkind = 'vllm'", "target 'a': Object missing required field `url`"),
    ("[targets.a]\nkind='vllm'\nurl='u'\nport=3", "the unknown key 'port': known are api, g"),
    ("[targets.a]\nkind='vllm'\nurl='u'\ngpus=3", "target 'a' has the unknown key 'gpus': did you"),
    ("[targets.a]\nkind='vllm'\nurl='u'\ngpus_per_replica=0", "target 'a': Expected `int` >= 1"),
    ("[targets.a]\nkind='vllm'\nurl='u'\nslots=0", "target 'a': Expected `int` >= 1"),
    ("[targets.a]\nkind='vllm'\nurl='u'\nslots=100001", "target 'a': Expected `int` <= 100000"),
    ("a = " + "[" * 50_000, "is no TOML: "),
    ("users = 1 #" + "x" * 2**20, "is too large: at most 1048576 bytes are read"),
]  # fmt: skip


@click.command(cls=Command)
@click.argument("targets", nargs=-1)
@click.option("--users", type=click.IntRange(1))
@click.option("--think-time", type=DURATION)
@click.option("--slo", type=SLO, multiple=True)
@click.option("--gpu-cost", type=PRICE, multiple=True)
@click.option("--concurrency")
@click.option("--natural-stop", is_flag=True)
@click.option("--api")
@click.option("--hardware", multiple=True)
@slots_option
@config_option
@click.pass_context
def probe(
    context: click.Context,
    /,
    api: str | None,
    hardware: tuple[str, ...],
    slots: tuple[tuple[str, int], ...],
    **_: Any,
) -> None:
    """Keeps what a command would have been given."""
    context.obj.update(context.params)
    if context.params["targets"]:
        chosen = resolve_targets(context.params["targets"], api=api, hardware=hardware, slots=slots)
        context.obj["resolved"] = chosen


def run_probe(file: Path, text: str, *arguments: str) -> dict[str, Any]:
    """What a command gets for a configuration file and a command line."""
    file.write_text(text)
    seen: dict[str, Any] = {}
    CliRunner().invoke(
        probe, ["--config", str(file), *arguments], obj=seen, catch_exceptions=False
    )  # fmt: skip
    return seen


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a configuration file goes."""
    return tmp_path / "headroom.toml"


@pytest.mark.parametrize(("text", "says"), BAD)
@pytest.mark.parametrize("command", ["plan", "recommend"])
def test_bad_file_is_one_line(file: Path, command: str, text: str, says: str) -> None:
    """A wrong file ends the command with one line that names it, and exit code 2."""
    file.write_text(text)
    ran = CliRunner().invoke(headroom.main, [command, "--config", str(file), "x"])
    assert ran.exit_code == 2
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    assert line.startswith(f"headroom {command}: config {file}")
    assert says in line


@pytest.mark.parametrize(
    ("name", "says"),
    [("absent.toml", "No such file or directory"), (".", "Is a directory")],
)
def test_unreadable_file_is_one_line(tmp_path: Path, name: str, says: str) -> None:
    """A file that is not there or is none is told by name."""
    path = str(tmp_path / name)
    ran = CliRunner().invoke(headroom.main, ["plan", "--config", path])
    assert (ran.exit_code, ran.stderr) == (2, f"headroom plan: config {path}: {says}\n")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("think_time = 10", "'10' is not a duration"),
        ("users = 2.5", "'2.5' is not a valid integer"),
        ("users = true", "'true' is not a valid integer"),
        ("users = [1, 2]", "'1,2' is not a valid integer"),
        ("slo = ['ttft_p95<=1']", "is not a duration"),
        ("gpu_cost = 3", "price '3' cannot be read"),
        ("slots = 3", "slots '3' cannot be read"),
        ("[slots]\nbig = 0", "slots 'big=0' cannot be read"),
        ("natural_stop = 'maybe'", "'maybe' is not a valid boolean"),
    ],
)
def test_values_obey_the_rules_of_the_command_line(file: Path, text: str, says: str) -> None:
    """What the command line would refuse, the file may not say either."""
    file.write_text(text)
    ran = CliRunner().invoke(probe, ["--config", str(file)], obj={})
    assert ran.exit_code == 2
    assert says in ran.stderr


def test_file_sets_defaults(file: Path) -> None:
    """Each key becomes its option's value, with - or _, one value or several."""
    seen = run_probe(file, GOOD)
    assert seen["users"] == 50
    assert seen["think_time"] == 10.0
    assert seen["slo"] == (parse_slo("ttft_p95<=1s"),)
    assert seen["gpu_cost"] == (("H100", 2.5), ("A10", 1.0))
    assert seen["concurrency"] == "1,4"
    assert seen["natural_stop"] is True


@pytest.mark.parametrize("config_first", [True, False])
def test_command_line_wins(file: Path, *, config_first: bool) -> None:
    """What is typed replaces what the file says, wherever --config stands."""
    file.write_text(GOOD)
    typed = ["--users", "7", "--slo", "tpot_p95<=50ms", "--gpu-cost", "H100=9"]
    config = ["--config", str(file)]
    seen: dict[str, Any] = {}
    arguments = [*config, *typed] if config_first else [*typed, *config]
    CliRunner().invoke(probe, arguments, obj=seen, catch_exceptions=False)
    assert seen["users"] == 7
    assert seen["slo"] == (parse_slo("tpot_p95<=50ms"),)
    assert seen["gpu_cost"] == (("H100", 9.0),)
    assert seen["think_time"] == 10.0


def test_keys_are_the_options() -> None:
    """A file may hold every option of every command that takes one, and nothing else."""
    options = {
        flag.removeprefix("--").replace("-", "_")
        for facts in commands().values()
        if any(o["name"] == "config" for o in facts["options"])
        for option in facts["options"]
        for flag in option["flags"]
        if flag.startswith("--")
    }
    assert options - NOT_IN_A_FILE == KEYS


def test_example_of_the_documentation(file: Path) -> None:
    """The example that the module shows is a good file."""
    example = (config_module.__doc__ or "").partition("::\n")[2]
    file.write_text(textwrap.dedent(example))
    read = load_config(file)
    assert set(read.targets) == {"big"}
    assert read.defaults["gpu_cost"] == ["H100=2.5"]


def resolved(file: Path, *arguments: str) -> tuple[Target, ...]:
    """The targets that a command line names."""
    found: tuple[Target, ...] = run_probe(file, GOOD, *arguments)["resolved"]
    return found


def test_targets_by_name(file: Path) -> None:
    """A name on the command line stands for the file's whole entry."""
    big, small = resolved(file, "big", "small")
    assert (big.name, big.backend, big.url) == ("big", "vllm", "http://10.0.0.5:8000")
    assert (big.model, big.hardware, big.gpus_per_replica) == ("llama-3.1-70b", "H100", 4)
    assert (big.slots, small.slots) == (256, None)
    assert (small.name, small.backend, small.api, small.model) == (
        "small",
        "ollama",
        "native",
        None,
    )


def test_targets_may_be_mixed(file: Path) -> None:
    """Names and whole targets stand side by side; what is typed about hardware wins."""
    big, typed = resolved(file, "big", "vllm=http://10.0.0.7:8000", "--hardware", "big=8xH200")
    assert (big.hardware, big.gpus_per_replica) == ("H200", 8)
    assert (typed.name, typed.url) == ("vllm", "http://10.0.0.7:8000")


def test_slots_are_typed_or_named(file: Path) -> None:
    """What is typed about a target's slots wins; a target that is not there is refused."""
    typed = ["big", "small", "--slots", "small=4", "--slots", "big=64"]
    assert [target.slots for target in resolved(file, *typed)] == [64, 4]
    file.write_text(GOOD)
    ran = CliRunner().invoke(probe, ["--config", str(file), "big", "--slots", "bag=4"], obj={})
    assert ran.exit_code == 2
    assert "--slots bag=4 names no target: there are big (kinds are " in ran.stderr


def test_unknown_target_lists_the_known(file: Path) -> None:
    """A name that the file does not have is told with those that it has."""
    file.write_text(GOOD)
    ran = CliRunner().invoke(probe, ["--config", str(file), "bigg"], obj={})
    assert ran.exit_code == 2
    assert ran.stderr == (
        "headroom probe: target 'bigg' is not in the config file, which has big, small\n"
    )


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(file: Path, data: bytes) -> None:
    """No file raises anything but our own error."""
    file.write_bytes(data)
    try:
        read = load_config(file)
    except InputError:
        return
    assert set(read.defaults) <= KEYS


@given(
    kind=st.sampled_from(["vllm", "ollama"]),
    url=st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=30),
    gpus=st.integers(1, 64),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_target_round_trip(file: Path, kind: str, url: str, gpus: int) -> None:
    """What a target's table says is what is read."""
    quoted = url.replace("\\", "\\\\").replace('"', '\\"')
    file.write_text(f'[targets.t]\nkind = "{kind}"\nurl = "{quoted}"\ngpus_per_replica = {gpus}\n')
    expected = TargetConfig(kind=kind, url=url, gpus_per_replica=gpus)
    assert load_config(file).targets == {"t": expected}
