"""What the tests of several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.loadtests.measure.driving import Shell

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def shell() -> Iterator[Shell]:
    """A process that runs one command after the other."""
    shell = Shell()
    yield shell
    shell.close()
