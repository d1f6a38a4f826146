"""``headroom parity`` as it is typed: scripted servers with known texts, and real engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from loadtests.engines.base import EngineSpec, start_engine
from planner.parity_records import decode_parity
from tests.loadtests.measure.driving import one_line
from tests.loadtests.parity.speakers import Speaker
from tests.loadtests.servers import serving

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from loadtests.engines.base import RunningEngine
    from tests.loadtests.measure.driving import Shell


def echo(prompt: str, _: int) -> Sequence[str]:
    """Says the prompt."""
    return prompt.split(" ")


def other(prompt: str, _: int) -> Sequence[str]:
    """Says the prompt, but goes on otherwise after the second word."""
    return [*prompt.split(" ")[:2], "otherwise"]


def fickle(prompt: str, count: int) -> Sequence[str]:
    """Has another last word each time."""
    return [*prompt.split(" "), str(count)]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Six prompts of four words."""
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"how is sea {n}\n" for n in range(6)))
    return file


def test_real_difference(shell: Shell, prompts: Path) -> None:
    """Two steady servers that part at the third token: told so, with exit code 0."""
    with serving(Speaker(echo)) as a, serving(Speaker(other, prompt_tokens=10)) as b:
        targets = (f"a:openai={a.url}", f"b:openai={b.url}")
        done = shell.run("parity", *targets, "--prompts", prompts, "--repeat", 3, "--json")
        shown = shell.run("parity", *targets, "--prompts", prompts, "--repeat", 3)
    assert done.code == 0, done.err
    report = decode_parity(done.out.encode(), what="stdout")
    assert [own.identical and own.identical.value for own in report.own] == [1.0, 1.0]
    (pair,) = report.pairs
    assert (pair.verdict, pair.unit, pair.excess) == ("different", "tokens", 1.0)
    assert pair.parts_at is not None
    assert pair.parts_at.value == 2
    assert pair.other_prompt_tokens == 6
    assert {p.at for p in pair.partings} == {2}
    for words in ("the difference is real", "0 of 6", "chat template"):
        assert words in " ".join(shown.out.split())
    assert max(map(len, shown.out.splitlines())) <= 100


def test_same_servers_of_which_one_tells_no_tokens(shell: Shell, prompts: Path) -> None:
    """Equal texts are the same by words and marks where a server names no tokens."""
    with serving(Speaker(echo)) as a, serving(Speaker(echo, strict=True)) as b:
        done = shell.run(
            "parity", f"a:openai={a.url}", f"b:openai={b.url}", "--prompts", prompts,
            "--repeat", 2, "--company", 0, "--json",
        )  # fmt: skip
    assert done.code == 0, done.err
    report = decode_parity(done.out.encode(), what="stdout")
    assert [(p.verdict, p.unit) for p in report.pairs] == [("same", "pieces")]
    assert report.own[0].company_identical is None


def test_servers_that_differ_from_themselves(shell: Shell, prompts: Path) -> None:
    """Two servers that never repeat themselves cannot be compared: exit code 3."""
    with serving(Speaker(fickle)) as a, serving(Speaker(fickle)) as b:
        done = shell.run(
            "parity", f"a:openai={a.url}", f"b:openai={b.url}", "--prompts", prompts,
            "--repeat", 2, "--company", 2,
        )  # fmt: skip
    assert done.code == 3
    assert "cannot be told" in " ".join(done.out.split())
    assert "0 of 6" in done.out


def test_one_server_alone(shell: Shell, prompts: Path) -> None:
    """One target is compared with itself only, and that is done."""
    with serving(Speaker(echo)) as a:
        done = shell.run("parity", f"openai={a.url}", "--prompts", prompts, "--repeat", 2)
    assert done.code == 0, done.err
    assert "6 of 6" in done.out


def test_server_that_fails(shell: Shell, prompts: Path) -> None:
    """A server that stops answering ends it with its reason."""
    with serving(Speaker(echo, fails=3)) as a:
        done = shell.run("parity", f"openai={a.url}", "--prompts", prompts)
    assert done.code == 2
    assert "EngineDead" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err


def test_bad_input(shell: Shell, tmp_path: Path) -> None:
    """No target, nobody there, and a missing file are one line each."""
    one_line(shell.run("parity"), "no target")
    one_line(shell.run("parity", "vllm=http://127.0.0.1:1"), "cannot be reached")
    missing = tmp_path / "none.txt"
    one_line(shell.run("parity", "vllm=http://127.0.0.1:1", "--prompts", missing), "No such file")


@pytest.mark.engine
def test_real_llamacpp_of_one_and_of_four_slots(
    shell: Shell, llamacpp: RunningEngine, llamacpp_single: RunningEngine, prompts: Path
) -> None:
    """Two real servers of one model: asked one at a time they answer alike, token by token."""
    done = shell.run(
        "parity", f"one:llamacpp={llamacpp_single.url}", f"four:llamacpp={llamacpp.url}",
        "--prompts", prompts, "--repeat", 2, "--max-tokens", 12, "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    report = decode_parity(done.out.encode(), what="stdout")
    assert [own.identical and own.identical.value for own in report.own] == [1.0, 1.0]
    assert [(p.verdict, p.unit, p.other_prompt_tokens) for p in report.pairs] == [
        ("same", "tokens", 0)
    ]


@pytest.mark.vllm
def test_real_vllm_and_llamacpp(shell: Shell, prompts: Path, vllm: RunningEngine) -> None:
    """The real vLLM and llama.cpp compute the same tokens from the same float32 model."""
    with start_engine(EngineSpec(kind="llamacpp", parallel=2, context=512)) as one:
        done = shell.run(
            "parity", f"llamacpp={one.url}", f"vllm={vllm.url}",
            "--prompts", prompts, "--repeat", 2, "--max-tokens", 12, "--json",
        )  # fmt: skip
    assert done.code == 0, done.err
    (pair,) = decode_parity(done.out.encode(), what="stdout").pairs
    assert (pair.unit, pair.other_prompt_tokens) == ("tokens", 0)
    assert pair.identical is not None
    assert pair.identical.value >= 0.5
