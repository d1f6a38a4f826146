"""JUnit XML, Markdown, annotations, the terminal and JSON, for every verdict and hostile names."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import xmlschema
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from planner.gates.annotations import MAX_OF_A_KIND, github_annotations
from planner.gates.junit import junit_xml
from planner.gates.markdown import MAX_BYTES, markdown
from planner.gates.records import GateReport, Verdict
from planner.gates.terminal import print_report

if TYPE_CHECKING:
    from collections.abc import Callable

    from planner.gates.records import Inconclusive, Outcome

HERE = Path(__file__).parent
SCHEMA = xmlschema.XMLSchema(HERE.parents[1] / "reference" / "junit-10.xsd")


def verdict(outcome: Outcome, name: str = "rule", **facts: object) -> Verdict:
    """A verdict on a p95 with a bound of 800 ms."""
    told = {
        "rule": name, "check": "ttft_p95 <= 800ms", "outcome": outcome, "figure": "ttft_p95_s",
        "target": "vllm", "level": "8 in flight", "stages": (0,), "op": "<=", "bound": 0.8,
        "value": 0.7, "low": 0.65, "high": 0.75, "n": 500, "confidence": 0.95,
        "reason": "700 ms (650 ms to 750 ms, n = 500) meets <= 800 ms",
    }  # fmt: skip
    return msgspec.convert(told | facts, Verdict)


def report(*verdicts: Verdict, inconclusive: Inconclusive = "3", **facts: object) -> GateReport:
    """A report of some verdicts."""
    outcomes = {v.outcome for v in verdicts}
    outcome = next((o for o in ("fail", "inconclusive") if o in outcomes), "pass")
    told = {
        "run": "runs/nightly", "rules": "gates.toml", "outcome": outcome,
        "exit_code": {"pass": 0, "fail": 1, "inconclusive": 3}[outcome],
        "inconclusive": inconclusive, "verdicts": verdicts,
    }  # fmt: skip
    return GateReport(**(told | facts))  # type: ignore[arg-type]


EVERY = report(
    verdict("pass", "first token"),
    verdict(
        "fail", "pace | tail", figure="tpot_p99_s", value=0.2, low=0.15, high=None, bound=0.1,
        check="tpot_p99 <= 100ms", reason="200 ms (150 ms to open, n = 500) breaks <= 100 ms",
    ),
    verdict(
        "inconclusive", "errors", figure="error_rate", check="error_rate <= 0.1%", bound=0.001,
        value=0.0, low=0.0, high=0.006,
        reason="0 % meets <= 0.1 %, but its interval (0 % to 0.6 %, n = 500) holds the bound: "
        "500 requests without an error are too few, 2,995 would do",
    ),
    verdict(
        "fail", "no regression", check="ttft_p95 <= baseline * 1.10", factor=1.1, bound=0.55,
        baseline=0.5, change=0.4, change_low=0.3, change_high=0.5, p_value=0.0001, confidence=0.99,
        reason="700 ms against 500 ms, +40 % (+30 % to +50 %): beyond what the rule allows, +10 %",
    ),
    verdict(
        "inconclusive", "at 64", target=None, level=None, stages=(), value=None, low=None,
        high=None, n=None, reason="nothing was measured at 64 in flight: the run has vllm at 8",
    ),
    verdict("pass", "capacity", figure="users_at_slo", check="users_at_slo >= 40", op=">=",
            level=None, bound=40, value=55, low=48, high=60, reason="55 users are carried"),
    verdict(
        "fail", "served well", figure="goodput_share", check="goodput >= baseline * 0.95", op=">=",
        factor=0.95, bound=0.93, value=0.85, low=0.82, high=0.88, baseline=0.979, change=-0.132,
        change_low=-0.162, change_high=-0.1, p_value=0.0002, confidence=0.99,
        reason="85.0 % against 97.9 %, -13.2 % (-16.2 % to -10 %): beyond what the "
        "rule allows, -5 %",
    ),
    verdict(
        "inconclusive", "well a second", figure="goodput_per_s", op=">=", factor=0.9, bound=10.8,
        check="goodput_per_s >= baseline * 0.9", value=11.5, low=10.1, high=12.9, baseline=12.0,
        change=-0.042, change_low=-0.18, change_high=0.13, p_value=1.0, confidence=0.99,
        reason="11.5 req/s against 12.0 req/s, -4.17 % (-18 % to +13 %): the interval holds what "
        "the rule allows, -10 %: measure both about 3 times as long",
    ),
    notes=("vllm: torn tail, 12 bytes dropped",),
    emulated=("vllm",),
    baseline="base.json",
)  # fmt: skip
"""Every verdict on every kind of rule."""


def terminal(shown: GateReport) -> str:
    """What the terminal shows, without colours."""
    out = io.StringIO()
    print_report(shown, Console(file=out, width=120, highlight=False))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


OUTPUTS: dict[str, Callable[[GateReport], str]] = {
    "gate.xml": lambda shown: junit_xml(shown).decode(),
    "gate.md": markdown,
    "gate.annotations": lambda shown: "\n".join(github_annotations(shown)) + "\n",
    "gate.txt": terminal,
    "gate.json": lambda shown: msgspec.json.format(msgspec.json.encode(shown)).decode() + "\n",
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_golden(name: str) -> None:
    """Each output shows every verdict as it was read and approved."""
    assert OUTPUTS[name](EVERY) == (HERE / "golden" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("inconclusive", "counts"),
    [("3", ("3", "3", "0")), ("fail", ("6", "0", "0")), ("pass", ("3", "0", "3"))],
)
def test_junit_is_valid_and_counts(inconclusive: Inconclusive, counts: tuple[str, ...]) -> None:
    """JUnit XML keeps Jenkins's schema; an inconclusive rule is what it does to the build."""
    data = junit_xml(msgspec.structs.replace(EVERY, inconclusive=inconclusive))
    SCHEMA.validate(data.decode())
    (suite,) = ET.fromstring(data)  # noqa: S314 - our own
    assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == counts
    found = tuple(str(len(suite.findall(f".//{e}"))) for e in ("failure", "error", "skipped"))
    assert (found, suite.get("tests"), len(suite.findall("testcase"))) == (counts, "8", 8)


def test_schema_refuses_what_is_no_junit() -> None:
    """The schema is no rubber stamp."""
    data = junit_xml(EVERY).decode()
    for wrong in (data.replace("<failure ", "<fault "), data.replace(' tests="8"', "")):
        assert not SCHEMA.is_valid(re.sub("</failure>", "</fault>", wrong) if "<fault" in wrong
                                   else wrong)  # fmt: skip


NASTY = st.text(
    st.one_of(
        st.sampled_from("<>&\"'|:,%\n\r\t`*_[]()#!~$@\\\x00\x1b\x7f\ufffe\u202e\u2028"),
        st.characters(codec="utf-8"),
    ),
    min_size=1,
    max_size=40,
)
HOSTILE = (
    "\n::error::owned", "]]></failure><testcase name='x'/>", "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))", "@everyone", "\x1b]0;owned\x07", "a|b|c", "::set-output name=x::y",
    "http://evil.example", "%0A::error::x", "\u202egnp.exe", "`rm -rf`", "$(reboot)", "--><!--",
)  # fmt: skip


@given(NASTY | st.sampled_from(HOSTILE), NASTY | st.sampled_from(HOSTILE))
def test_no_name_breaks_an_output(name: str, problem: str) -> None:
    """Whatever names and problems hold, each output keeps its structure."""
    shown = report(
        verdict("fail", name, target=name, reason=problem),
        verdict("inconclusive", name, level=problem, reason=name),
        run=name, rules=problem, notes=(problem,), emulated=(name,),
    )  # fmt: skip
    data = junit_xml(shown)
    SCHEMA.validate(data.decode())
    (suite,) = ET.fromstring(data)  # noqa: S314 - our own
    assert [len(case) for case in suite.findall("testcase")] == [1, 1]
    commands = github_annotations(shown)
    assert all(re.fullmatch(r"::(error|warning) title=[^:,]*::.*", line) for line in commands)
    assert all(line.isprintable() for line in commands)
    page = markdown(shown)
    rows = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(rows) == 3
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {9}
    assert not re.search(r"<[a-zA-Z!/]|@|&#64;(?!&#8203;)|://|(?<!\\)`", page)
    assert all(char.isprintable() for line in terminal(shown).splitlines() for char in line)


def test_annotations_are_few() -> None:
    """GitHub shows ten of a kind: the tenth tells how many more there are."""
    shown = report(*(verdict("fail", f"rule {i}") for i in range(30)), verdict("pass"))
    lines = github_annotations(shown)
    assert len(lines) == MAX_OF_A_KIND
    assert lines[-1].endswith("::21 more rules: see the job's summary")
    (passed,) = github_annotations(report(verdict("pass")))
    assert passed == "::notice title=headroom gate::all rules passed (1)"


def test_summary_is_bounded() -> None:
    """A summary is below what GitHub takes, tells what it leaves out, and begins with failures."""
    long = "x" * 3000
    many = [verdict("pass", f"rule {i}", reason=long) for i in range(400)]
    page = markdown(report(*many, verdict("fail", "the one")))
    assert len(page.encode()) < MAX_BYTES + 200
    assert "further verdicts are left out here" in page
    assert page.index("the one") < page.index("rule 0")
