"""A certificate of its own for the reference server, new at each start; its key is never kept."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from planner.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Certificate", "own_certificate"]

_NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"
_PATIENCE_S = 30.0
_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Certificate:
    """Files in PEM form.

    Attributes:
        certificate: also the only authority that vouches for it.
        key: private; to be removed when the server has read it.
    """

    certificate: Path
    key: Path


@contextlib.contextmanager
def own_certificate() -> Iterator[Certificate]:
    """A certificate for the loopback that is good for a day; its files last as long as the block.

    Raises:
        EngineError: there is no ``openssl`` program, or it fails.
    """
    program = shutil.which("openssl")
    if program is None:
        raise EngineError("TLS needs the program openssl, which makes the server's certificate")
    with tempfile.TemporaryDirectory(prefix="headroom-") as folder:  # for this user only
        made = Certificate(Path(folder) / "certificate.pem", Path(folder) / "key.pem")
        done = subprocess.run(  # noqa: S603 - the user's openssl
            [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-days", "1", "-subj", "/CN=localhost", "-addext", _NAMES,
             "-keyout", str(made.key), "-out", str(made.certificate)],
            capture_output=True, text=True, timeout=_PATIENCE_S, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            why = " ".join(done.stderr.split())[-_SHOWN:]
            raise EngineError(f"{program} cannot make a certificate: {why}")
        yield made
