"""A report as JUnit XML, the form that Jenkins, GitLab, GitHub apps and others read.

Valid by the schema of Jenkins's xUnit plug-in (junit-10.xsd). A failed rule is a ``failure``. An
inconclusive one is what its effect on the build is: ``skipped`` where it is let pass, ``failure``
where it counts as failed, and else an ``error``, since the rule could not be judged.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from planner.gates.text import bound_told, interval_told, place_told, value_told
from planner.phrases import one_line

if TYPE_CHECKING:
    from planner.gates.records import GateReport, Inconclusive, Verdict

__all__ = ["junit_xml"]

_ELEMENT: dict[Inconclusive, str] = {"fail": "failure", "pass": "skipped", "3": "error"}
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, not even escaped."""


def junit_xml(report: GateReport) -> bytes:
    """The XML document, UTF-8."""
    elements = [_element(verdict, report.inconclusive) for verdict in report.verdicts]
    counts = {
        "tests": len(elements),
        "failures": elements.count("failure"),
        "errors": elements.count("error"),
    }
    told = " ".join(f'{name}="{count}"' for name, count in counts.items())
    properties = {"run": report.run, "rules": report.rules, "baseline": report.baseline}
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuites name="headroom gate" {told}>',
        f'  <testsuite name="headroom gate" {told} skipped="{elements.count("skipped")}">',
        "    <properties>",
        *(
            f"      <property name={_quoted(name)} value={_quoted(value)}/>"
            for name, value in properties.items()
            if value is not None
        ),
        "    </properties>",
        *(
            line
            for verdict, element in zip(report.verdicts, elements, strict=True)
            for line in _case(verdict, element)
        ),
        *([f"    <system-out>{_escaped(note)}</system-out>" for note in _notes(report)]),
        "  </testsuite>",
        "</testsuites>",
    ]
    return ("\n".join(lines) + "\n").encode()


def _notes(report: GateReport) -> list[str]:
    emulated = [f"emulated, not measured: {', '.join(report.emulated)}"] if report.emulated else []
    notes = [*emulated, *report.notes]
    return ["\n".join(one_line(note) for note in notes)] if notes else []


def _element(verdict: Verdict, inconclusive: Inconclusive) -> str | None:
    """What a verdict's test case holds; ``None``: it passed."""
    if verdict.outcome == "inconclusive":
        return _ELEMENT[inconclusive]
    return "failure" if verdict.outcome == "fail" else None


def _case(verdict: Verdict, element: str | None) -> list[str]:
    place = place_told(verdict)
    name = f"{verdict.rule} [{place}]"
    group = f"headroom.{verdict.target or 'gate'}"
    head = f"    <testcase classname={_quoted(group)} name={_quoted(name)}"
    evidence = _escaped(
        f"{value_told(verdict)}, interval {interval_told(verdict)}, bound {bound_told(verdict)}, "
        f"n = {'-' if verdict.n is None else verdict.n}"
    )
    if element is None:
        return [f"{head}>", f"      <system-out>{evidence}</system-out>", "    </testcase>"]
    why = f'<{element} type="{verdict.outcome}" message={_quoted(verdict.reason)}>'
    return [f"{head}>", f"      {why}{evidence}</{element}>", "    </testcase>"]


def _quoted(text: str) -> str:
    return quoteattr(_NO_XML.sub("\N{REPLACEMENT CHARACTER}", one_line(text)))


def _escaped(text: str) -> str:
    return escape(_NO_XML.sub("\N{REPLACEMENT CHARACTER}", text))
