"""The command that starts one local engine."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from click.core import ParameterSource

from loadtests.engines.base import ENGINES, EngineSpec, LiveEngine, open_engine
from loadtests.engines.emulator.launch import arguments_of
from loadtests.engines.emulator.options import OPTION_FLAGS, emulator_options, settings_from
from loadtests.engines.emulator.profiles import profiles
from loadtests.engines.facts import engine_facts
from planner.cli import Command
from planner.errors import InputError

if TYPE_CHECKING:
    from loadtests.engines.emulator.settings import Settings

__all__ = ["serve"]

_COMMAND_LINE = ParameterSource.COMMANDLINE


@click.command(
    cls=Command,
    epilog="""\b
Example:
  headroom serve llamacpp --port 8080 --parallel 4
  headroom measure llamacpp=http://127.0.0.1:8080 --out runs/first
  headroom serve emulator --kind vllm --profile vllm/h100/llama-3.1-70b/fp8/4gpu""",
)
@click.argument("kind", type=click.Choice(sorted(ENGINES)))
@click.option("--port", default=0, show_default="a free one", help="TCP port to listen on.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--parallel", default=4, show_default=True, help="Sequences decoded at once (slots).")
@click.option(
    "--model",
    type=click.Path(path_type=Path, exists=True),
    help="A GGUF file (llamacpp, ollama) or a Hugging Face folder (vllm). "
    "Default: a random-weight model that is made at first use.",
)
@click.option("--context", default=2048, show_default=True, help="Tokens that each slot can hold.")
@click.option("--threads", default=1, show_default=True, help="Compute threads.")
@emulator_options
@click.option(
    "--list-profiles",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, _, wanted: _list_profiles(ctx) if wanted else None,
    help="Print the emulator's profiles and end.",
)
@click.pass_context
def serve(
    ctx: click.Context,
    /,
    kind: str,
    port: int,
    host: str,
    parallel: int,
    model: Path | None,
    context: int,
    threads: int,
    **emulated: Any,
) -> None:
    """Start a local engine and stop it on Ctrl-C or SIGTERM.

    KIND is llamacpp (embedded), vllm or ollama (where they are installed), or emulator, which
    stands in for any of them on hardware that is not there; the options from --kind on are its
    own. When the engine has answered a generation, its address and what it is (version, model,
    context, slots, memory) are printed as one line of JSON. LLAMA_SERVER, VLLM_BIN and OLLAMA_HOST
    name a llama-server, a vllm program and a running Ollama to use.
    """
    given = {name for name in ctx.params if ctx.get_parameter_source(name) is _COMMAND_LINE}
    settings = None
    if kind == "emulator":
        _refuse(kind, given & {"model", "threads"})
        if "parallel" in given and emulated["slots"] is None:
            emulated["slots"] = parallel
        settings = settings_from(emulated, context=context if "context" in given else None)
        parallel, context = settings.engine.slots, settings.context_tokens
    else:
        _refuse(kind, given & set(OPTION_FLAGS))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    spec = EngineSpec(
        kind=kind,
        host=host,
        port=port,
        parallel=parallel,
        model=model,
        context=context,
        threads=threads,
        arguments=arguments_of(settings, emulated) if settings else (),
    )
    try:
        with open_engine(spec) as engine:
            click.echo(_announcement(engine, spec, settings))
            engine.wait()
    except KeyboardInterrupt:
        click.echo(f"{kind} stopped", err=True)


def _announcement(engine: LiveEngine, spec: EngineSpec, settings: Settings | None) -> bytes:
    backend = settings.kind if settings else engine.kind
    said: dict[str, object] = {
        "url": engine.url,
        "kind": engine.kind,
        "model": engine.model,
        "pid": engine.pid,
        "parallel": spec.parallel if engine.pid is not None else None,
        "target": f"{backend}={engine.url}",
        "facts": engine_facts(engine, backend),
    }
    if settings is not None:
        said["emulates"] = settings.profile
    return msgspec.json.encode(said)


def _refuse(kind: str, given: set[str]) -> None:
    """Refuse options that mean nothing to this kind of engine."""
    if given:
        context = click.get_current_context()
        names = {param.name: param.opts[0] for param in context.command.params}
        listed = ", ".join(sorted(names[name] for name in given))
        raise InputError(f"{listed} cannot be given to {kind}: see headroom serve --help")


def _list_profiles(ctx: click.Context) -> None:
    for name, profile in profiles().items():
        click.echo(f"{name}  ({profile.slots} slots; {profile.source})")
    ctx.exit()
