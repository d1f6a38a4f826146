"""The command that starts one local engine."""

from __future__ import annotations

import signal
from pathlib import Path

import click
import msgspec

from loadtests.engines.base import ENGINES, EngineSpec, RunningEngine, start_engine
from planner.cli import Command

__all__ = ["serve"]


@click.command(
    cls=Command,
    epilog="""\b
Example:
  headroom serve llamacpp --port 8080 --parallel 4
  headroom measure llamacpp=http://127.0.0.1:8080 --out runs/first""",
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
def serve(
    kind: str,
    port: int,
    host: str,
    parallel: int,
    model: Path | None,
    context: int,
    threads: int,
) -> None:
    """Start a local engine and stop it on Ctrl-C or SIGTERM.

    KIND is llamacpp (embedded), vllm or ollama (where they are installed). When the engine has
    answered a generation, its address is printed as one line of JSON.
    """
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
    )
    try:
        with start_engine(spec) as engine:
            click.echo(_announcement(engine, spec))
            engine.wait()
    except KeyboardInterrupt:
        click.echo(f"{kind} stopped", err=True)


def _announcement(engine: RunningEngine, spec: EngineSpec) -> bytes:
    return msgspec.json.encode(
        {
            "url": engine.url,
            "kind": engine.kind,
            "model": engine.model,
            "pid": engine.pid,
            "parallel": spec.parallel,
            "target": f"{engine.kind}={engine.url}",
        }
    )
