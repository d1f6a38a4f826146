"""Compile the optional C extension when the package is built, where that is possible.

Without a compiler, without Python's headers or elsewhere than on Linux the build goes on without
it, and ``loadtests/stream/sources.py`` does the same work in Python.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

__all__ = ["ExtensionHook"]

SOURCE = Path("loadtests/stream/_drain.c")
PRODUCT = SOURCE.with_name("_drain.abi3.so")
_FLAGS = ("-O2", "-std=gnu11", "-fPIC", "-shared", "-Wall")
_PATIENCE_S = 120.0


class ExtensionHook(BuildHookInterface):  # type: ignore[type-arg]
    """Puts the extension into a wheel, or beside its source for an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; never fail.

        Args:
            version: ``standard`` or ``editable``.
            build_data: what hatchling builds; the extension and its tag are added.
        """
        self._folder = tempfile.TemporaryDirectory()
        made = Path(self._folder.name) / PRODUCT.name
        problem = _compile(Path(self.root) / SOURCE, made)
        if problem is not None:
            self.app.display_warning(f"Headroom is built without its C extension: {problem}")
            return
        if version == "editable":
            place = Path(self.root) / PRODUCT
            beside = place.with_suffix(f".{os.getpid()}")  # a running process may have it loaded
            try:
                shutil.copyfile(made, beside)
                beside.replace(place)
            except OSError as error:
                beside.unlink(missing_ok=True)
                self.app.display_warning(f"Headroom is built without its C extension: {error}")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["force_include"][str(made)] = str(PRODUCT)
        build_data["pure_python"] = False
        build_data["tag"] = f"cp311-abi3-{platform}"  # the stable ABI: any Python from 3.11 on

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Clean up."""
        del version, build_data, artifact_path
        self._folder.cleanup()


def _compile(source: Path, product: Path) -> str | None:
    """Compile the extension; says why it could not be."""
    if not sys.platform.startswith("linux"):
        return "it needs Linux"
    command = shlex.split(os.environ.get("CC") or "cc")
    if not command or shutil.which(command[0]) is None:
        return "there is no C compiler (cc)"
    headers = sysconfig.get_path("include")
    if not Path(headers, "Python.h").is_file():
        return "Python's headers (Python.h) are not installed"
    try:
        done = subprocess.run(  # noqa: S603 - our own source, the user's compiler
            [*command, *_FLAGS, f"-I{headers}", "-o", str(product), str(source)],
            capture_output=True, text=True, timeout=_PATIENCE_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the compiler did not run: {error}"
    return None if done.returncode == 0 else f"the compiler failed: {done.stderr.strip()[-500:]}"
