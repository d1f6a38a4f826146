"""``headroom doctor`` as it is typed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.diagnosis import decode_doctor
from tests.loadtests.doctor.replayed import vllm
from tests.loadtests.measure.driving import one_line
from tests.loadtests.servers import serving

if TYPE_CHECKING:
    from pathlib import Path

    from tests.loadtests.measure.driving import Shell

NOBODY = "http://127.0.0.1:1"


def test_bare_address_as_json(shell: Shell) -> None:
    """A bare address gives one document that can be read again; warnings do not change the exit."""
    with serving(vllm()) as server:
        done = shell.run("doctor", server.url, "--json")
    assert (done.code, done.err) == (0, "")
    report = decode_doctor(done.out.encode(), what="stdout")
    (found,) = report.diagnoses
    assert (found.target.backend, found.target.url) == ("vllm", server.url)
    assert found.cautions
    assert report.failures == ()


def test_table_and_strict(shell: Shell) -> None:
    """The table names each question and warning; --strict makes warnings an exit code 1."""
    with serving(vllm()) as server:
        done = shell.run("doctor", f"big:vllm={server.url}", server.url, "--strict")
    assert (done.code, done.err) == (1, "")
    for words in ("vLLM 0.32.0", "tool calls", "not told", "prefix cache", "side by side"):
        assert words in done.out
    assert max(map(len, done.out.splitlines())) <= 100


def test_unreachable_target_does_not_hide_the_others(shell: Shell) -> None:
    """One target that cannot be reached makes the exit code 2; the others are told all the same."""
    with serving(vllm()) as server:
        done = shell.run("doctor", NOBODY, server.url, "--json")
    assert done.code == 2
    report = decode_doctor(done.out.encode(), what="stdout")
    assert len(report.diagnoses) == 1
    (failure,) = report.failures
    assert "cannot be reached" in failure.why
    assert failure.why in done.err
    assert "Traceback" not in done.err


def test_bad_input(shell: Shell) -> None:
    """No target, a bad address and a bad distribution are one line each."""
    one_line(shell.run("doctor"), "no target")
    one_line(shell.run("doctor", "http://"), "no host name")
    one_line(shell.run("doctor", "llama=http://h"), "unknown kind")
    one_line(shell.run("doctor", NOBODY, "--prompt-tokens", "many"), "--prompt-tokens")
    one_line(shell.run("doctor", "https://user:s3cret@h"), "credentials")


def test_target_of_a_config_file(shell: Shell, tmp_path: Path) -> None:
    """A target may be named in a file."""
    with serving(vllm()) as server:
        file = tmp_path / "c.toml"
        file.write_text(f'[targets.big]\nkind = "vllm"\nurl = "{server.url}"\n')
        done = shell.run("doctor", "big", "--config", file, "--json")
        again = shell.run("doctor", "--config", file, "--json")
    for ran in (done, again):
        assert ran.code == 0, ran.err
        (found,) = decode_doctor(ran.out.encode(), what="stdout").diagnoses
        assert found.target.name == "big"
