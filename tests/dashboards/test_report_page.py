"""The report's page: complete, offline, and deaf to hostile names."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from dashboards.answer import Answer, Measured
from dashboards.commands import report
from dashboards.content import capacity_rows
from dashboards.page import render
from dashboards.replan import examine
from dashboards.report import write_report
from planner.answer import answer
from planner.errors import InputError
from planner.recommend import sentence
from planner.records import PlanContext, RequestRecord, RunManifest
from planner.runfolder import Run, RunWriter, read_run
from planner.table import RequestTable
from tests.dashboards import fabricate

HOSTILE_NAMES = (fabricate.HOSTILE, f"{fabricate.HOSTILE} again")


class Page(HTMLParser):
    """What a browser would see: elements with attributes, text, and the scripts."""

    def __init__(self, html: str) -> None:
        """Parse a page."""
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element."""
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Keep text apart from scripts and styles."""
        tag, attributes = self.elements[-1] if self.elements else ("", {})
        if self.cdata_elem == "script":
            self.scripts.append((attributes, data))
        elif self.cdata_elem is None and tag != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        """All visible text with single spaces."""
        return " ".join(" ".join(self.text).split())

    def figure(self, name: str) -> dict[str, list[dict[str, object]]]:
        """The data embedded for one figure."""
        (data,) = [
            text for attributes, text in self.scripts if attributes.get("id") == f"{name}-data"
        ]
        return json.loads(data)  # type: ignore[no-any-return] # JSON


def html_of(names: tuple[str, ...], manifest: RunManifest | None = None) -> str:
    """The page of the fabricated run and its answer, under some names for the targets."""
    made, records = fabricate.fabricated_run(names)
    found = fabricate.recommendation(names)
    notes = ("requests-0-0.journal: torn tail, 113 bytes dropped",)
    run = Run(Path("runs/a"), manifest or made, RequestTable.from_records(records), {}, notes)
    answer = Answer(
        question="50 users",
        sentence=f"For 50 users, run {names[1]} on 2 replicas: TTFT p95 550 to 710 ms (94 % sure).",
        recommendation=found,
        slo=found.slo,
        next_measurements=found.next_measurements,
        warnings=found.warnings,
    )
    return render([Measured(run, fabricate.points(names))], answer)


@pytest.fixture(scope="module")
def page() -> Page:
    """A page of harmless names."""
    return Page(html_of(tuple(fabricate.SLOTS)))


@pytest.fixture(scope="module")
def hostile() -> Page:
    """A page whose targets carry hostile names."""
    return Page(html_of(HOSTILE_NAMES))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as the run writer leaves it."""
    return write_run(tmp_path_factory.mktemp("runs") / "demo", *fabricate.fabricated_run())


def write_run(path: Path, manifest: RunManifest, records: list[RequestRecord]) -> Path:
    """Write a run folder."""
    writer = RunWriter.create(path, manifest)
    for record in records:
        writer.append(record)
    writer.finish(manifest)
    return path


def test_the_answer_stands_first(page: Page) -> None:
    """The sentence is the only main heading, ahead of tiles, options, capacity and steps."""
    words = page.words.replace("\u00a0", " ")
    order = [
        "For 50 users, run llama.cpp, 4 slots on 2 replicas:",
        "Confidence 94 %",
        "Decided by TTFT p95 must be ≤ 1 s",
        "The options",
        "refused needs a prediction at 4.1 times the highest load measured (16)",
        "What one replica carries",
        "from 15 on llama.cpp, 4 slots",
        "What if",
        "answers are twice as long 3",
        "extrapolated at the measured <TPOT>",
        "think time halves –",
        "headroom measure 'vllm=http://127.0.0.1:1' --concurrency 64 --out RUN the top",
        "measure elsewhere at concurrency 64",
        "the client used 81 % of one CPU",
        "Every level that was measured",
        "How it was measured",
        "torn tail, 113 bytes dropped",
    ]
    places = [words.find(text) for text in order]
    assert -1 not in places, order[places.index(-1)]
    assert places == sorted(places)
    assert [tag for tag, _ in page.elements].count("h1") == 1


def test_figures_carry_interval_unit_and_label(page: Page) -> None:
    """A predicted figure is never a bare number."""
    words = page.words
    assert "620 ms 550 – 710 ms interpolated" in words
    assert "36" not in words.partition("What one replica carries")[2][:200]
    assert "10.1 ms 9.80 – 10.7 ms measured" in words
    assert "880 ms at least 700 ms extrapolated" in words


def test_the_simulation_stands_beside_the_curves(page: Page) -> None:
    """Its figures with their intervals and the curves' value, and why an objective has none."""
    assert (
        "Simulated request by request: TTFT p95 660 ms (500 – 830 ms), by the curves 620 ms. "
        "Not simulated: the levels themselves would have a TPOT p95 <1.7> times off."
    ) in page.words


def test_a_rate_at_the_end_of_knowledge_is_marked() -> None:
    """What one replica carries in requests per second has the mark that users have."""
    best = fabricate.recommendation().options[0]
    of_rate = msgspec.structs.replace(
        best, users_per_replica={}, rate_per_replica={"0.1": 9.0, "0.5": 9.0, "0.9": 7.25}
    )
    (_, rows), known = capacity_rows([of_rate]), msgspec.structs.replace(of_rate, rate_known_to=9.0)
    assert rows[0][2] == ("9/s", "7.25/s")
    assert capacity_rows([known])[1][0][2] == ("≥ 9/s", "7.25/s")


def test_every_level_is_in_the_table(page: Page) -> None:
    """Ten levels, each with its window and why it ended."""
    assert page.words.count("25.0 s steady") == 10
    assert page.words.count("16 in flight") == 3  # of each target, and side by side


def test_nothing_is_loaded_from_anywhere(page: Page) -> None:
    """No element names another file or site, and the policy forbids every fetch."""
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "img", "form"}
        assert not {"src", "href", "srcset", "action"} & set(attributes), (tag, attributes)
    styles = [a.get("style") or "" for _, a in page.elements]
    assert not any("url(" in style for style in styles)
    (policy,) = [
        a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy
    assert "connect-src" not in policy


def test_only_our_two_scripts_may_run(page: Page) -> None:
    """The policy allows exactly the digests of the two scripts that stand in the page."""
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv")) or ""
    runnable = [text for attributes, text in page.scripts if "type" not in attributes]
    digests = {base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in runnable}
    assert len(digests) == 2
    assert set(re.findall(r"'sha256-([^']+)'", policy)) == digests
    assert "unsafe-inline" not in policy.partition("style-src")[0]


def test_hostile_names_stay_text(hostile: Page, page: Page) -> None:
    """A name made of markup adds no element, no script and no handler; it is read as text."""
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in page.elements]
    assert len(hostile.scripts) == len(page.scripts)
    assert not any(key.startswith("on") for _, a in hostile.elements for key in a)
    assert "<script>alert(1)</script></script><img src=x onerror=alert(2)>" in hostile.words
    assert "\u202e" not in "".join(hostile.text)


def test_hostile_names_stay_text_in_plotly(hostile: Page) -> None:
    """Plotly reads tags and placeholders in texts: none of ours may come from a name."""
    texts = json.dumps(hostile.figure("load-ttft_p95_s".replace("_", "-")))
    assert "&lt;script" in texts
    assert "<script" not in texts
    assert "<img" not in texts
    assert "%{x}" not in texts


def test_data_cannot_end_its_script_element() -> None:
    """In the page's source no data block holds a less-than sign or a line separator."""
    html = html_of(HOSTILE_NAMES)
    blocks = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', html, re.DOTALL)
    assert len(blocks) >= 8
    assert not any(set(block) & {"<", ">", "\u2028", "\u2029"} for block in blocks)


def test_without_a_question_the_page_says_so(tmp_path: Path) -> None:
    """A run that was made for no question still gives a report, which says how to ask."""
    run = write_run(tmp_path / "run", *fabricate.fabricated_run(plan=False))
    words = Page(write_report([run]).read_text()).words
    assert "No recommendation" in words
    assert "headroom recommend" in words
    assert "Every level that was measured" in words


def test_a_question_that_nothing_meets_is_answered(run_folder: Path, tmp_path: Path) -> None:
    """No option meets 1 ms: the page says so instead of recommending."""
    plan = PlanContext(users=5, think_time_s=1.0, slo=("ttft_p95<=1ms",), confidence=0.9)
    words = Page(write_report([run_folder], tmp_path / "r.html", plan=plan).read_text()).words
    assert "5 users who pause 1 s between requests, with TTFT p95 ≤ 1 ms" in words
    assert "recommended" not in words
    assert words.count(" refused ") >= 2


def test_the_command_prints_the_path_of_a_reproducible_report(
    run_folder: Path, tmp_path: Path
) -> None:
    """Stdout names the report in the run folder, and the same run gives the same bytes again."""
    result = CliRunner().invoke(report, [str(run_folder)])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(run_folder / "report.html")
    first = (run_folder / "report.html").read_bytes()
    assert write_report([run_folder], tmp_path / "again.html").read_bytes() == first


def test_an_interrupted_run_says_so() -> None:
    """A run that was stopped in its last stage is reported as such, and still drawn."""
    manifest, _ = fabricate.fabricated_run()
    last = msgspec.structs.replace(manifest.stages[-1], ended_s=None, stop_reason=None)
    cut = msgspec.structs.replace(
        manifest, state="interrupted", stages=(*manifest.stages[:-1], last)
    )
    page = Page(html_of(tuple(fabricate.SLOTS), cut))
    assert "this run was interrupted" in page.words
    assert page.figure("timeline-0")["data"]


def test_an_empty_run_is_reported(tmp_path: Path) -> None:
    """A run without any stage or request neither fails nor claims anything."""
    manifest, _ = fabricate.fabricated_run()
    empty = msgspec.structs.replace(manifest, stages=(), state="interrupted")
    words = Page(write_report([write_run(tmp_path / "run", empty, [])]).read_text()).words
    assert "0 requests" in words
    assert "> 99 %" not in words


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_the_command_refuses_what_is_no_run(tmp_path: Path, content: str | None) -> None:
    """A folder that is no run gives one line and exit code 2, and no report."""
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    result = CliRunner().invoke(report, [str(tmp_path)])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert str(tmp_path) in result.stderr
    assert not (tmp_path / "report.html").exists()


def test_an_unwritable_place_is_one_line(run_folder: Path, tmp_path: Path) -> None:
    """A report that cannot be written says where and why."""
    with pytest.raises(InputError, match=r"cannot write .*no/r\.html: there is no folder"):
        write_report([run_folder], tmp_path / "no" / "r.html")


def test_the_report_answers_as_recommend_does(run_folder: Path) -> None:
    """Sentence and capacities are those of ``headroom recommend`` for the same run."""
    run = read_run(run_folder)
    assert run.manifest.plan is not None
    found = answer([run], run.manifest.plan)
    _, shown = examine([run])
    assert shown.sentence == sentence(found)
    for curve in shown.capacities:
        option = next(o for o in found.options if o.target == curve.target)
        carried = option.users_per_replica["0.9"]
        assert carried is not None
        sure = curve.users[curve.probability >= 0.9]
        assert sure[-1] <= carried
        assert len(sure) == np.count_nonzero(curve.users <= carried)


def test_same_names_for_different_targets_are_told_apart(tmp_path: Path) -> None:
    """Two runs of one name but another model share a report, each under targets of its own."""
    runs = []
    for model in ("one", "two"):
        manifest, records = fabricate.fabricated_run(plan=False)
        targets = tuple(msgspec.structs.replace(t, model=model) for t in manifest.targets)
        other = msgspec.structs.replace(manifest, targets=targets)
        runs.append(read_run(write_run(tmp_path / model, other, records)))
    measured, shown = examine(runs)
    names = {p.target for m in measured for p in m.points}
    assert names == {*fabricate.SLOTS, *(f"{name} (two)" for name in fabricate.SLOTS)}
    assert {t.name for m in measured for t in m.run.manifest.targets} == names
    page = Page(render(measured, shown))
    assert page.figure("timeline-1")["data"]
    assert page.words.count("16 in flight") == 5  # of each target, and side by side
