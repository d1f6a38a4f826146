"""The options that the commands which make load share.

Declarations only, so that a command's help does not load what makes the load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["OUTPUT_TOKENS", "PROMPT_TOKENS", "telemetry_option", "workload_options"]

PROMPT_TOKENS = "lognormal:mean=256,cv=0.6,max=1024"
OUTPUT_TOKENS = "lognormal:mean=128,cv=0.6,max=512"
"""Lengths of prompts and answers where nobody says otherwise."""

telemetry_option = click.option(
    "--telemetry/--no-telemetry",
    default=True,
    show_default=True,
    help="Ask each server once a second for its own figures (/metrics, /slots, /api/ps) and, where "
    "it runs on this machine, look at its process and GPUs.",
)


def workload_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what every user asks for."""
    for option in reversed(
        (
            click.option(
                "--prompt-tokens",
                default=PROMPT_TOKENS,
                show_default=True,
                metavar="D",
                help="Prompt lengths: 512, uniform:100-500, lognormal:mean=512,cv=0.8,max=4096 or "
                "file:lengths.csv.",
            ),
            click.option(
                "--output-tokens",
                default=OUTPUT_TOKENS,
                show_default=True,
                metavar="D",
                help="Answer lengths, in the same forms.",
            ),
            click.option(
                "--temperature",
                default=0.8,
                show_default=True,
                type=click.FloatRange(0, 2),
                help="How random the sampling is; 0 always takes the likeliest token.",
            ),
            click.option(
                "--natural-stop",
                is_flag=True,
                help="Let the model end its answers itself; by default the server is asked to "
                "ignore the end-of-text token, so that lengths are as declared.",
            ),
            click.option(
                "--allow-cache",
                is_flag=True,
                help="Do not ask llama.cpp to skip its prompt cache. Prompts still differ.",
            ),
            click.option(
                "--api",
                type=click.Choice(["native", "openai"]),
                help="Which API of the server carries the chat [default: Ollama's native one, the "
                "OpenAI one elsewhere].",
            ),
            click.option(
                "--hardware",
                multiple=True,
                metavar="TARGET=[NUMBERx]KIND",
                help="What one replica of a target runs on, as in vllm=2xH100. Repeatable.",
            ),
            click.option(
                "--seed",
                default=1,
                show_default=True,
                type=click.IntRange(0, 2**32 - 1),
                help="Seed of lengths and pauses. The words of the prompts are new in each run, so "
                "that no server has them in a cache.",
            ),
        )
    ):
        command = option(command)
    return command
