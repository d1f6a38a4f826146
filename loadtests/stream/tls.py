"""Whom to trust over TLS: verification is always on."""

from __future__ import annotations

import functools
import os
import ssl

from planner.errors import InputError

__all__ = ["CA_VARIABLE", "tls_context"]

CA_VARIABLE = "HEADROOM_CA_FILE"


def tls_context(ca_file: str | None = None) -> ssl.SSLContext:
    """A context that trusts the system's authorities and those of a PEM file.

    OpenSSL itself obeys ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``, which replace the system's.

    Args:
        ca_file: further authorities; by default the file that ``HEADROOM_CA_FILE`` names, if any.

    Raises:
        InputError: the file cannot be read or holds no certificate.
    """
    return _context(ca_file or os.environ.get(CA_VARIABLE) or None)


@functools.cache
def _context(ca_file: str | None) -> ssl.SSLContext:
    """Reading the authorities takes long, and each client would repeat it."""
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            why = getattr(error, "strerror", None) or type(error).__name__
            raise InputError(
                f"the authorities in {ca_file!r} cannot be read ({why}): "
                f"{CA_VARIABLE} must name a file of certificates in PEM form"
            ) from error
    return context
