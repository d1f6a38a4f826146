"""``headroom gate``: exit codes, files, bad input; and the CI templates, run as CI would."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import xmlschema
import yaml
from click.testing import CliRunner, Result

import headroom
from tests.planner.gates.runs import run_folder

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[3]
ACTION = ROOT / ".github" / "actions" / "headroom-gate" / "action.yml"
TEMPLATE = ROOT / "templates" / "headroom.gitlab-ci.yml"
JUNIT = xmlschema.XMLSchema(ROOT / "tests" / "reference" / "junit-10.xsd")

RULES = {
    "pass": 'check = "ttft_p95 <= 200ms"',
    "fail": 'check = "ttft_p95 <= 100ms"',
    "open": 'check = "ttft_p95 <= 200ms"\nconcurrency = 64',
    "relative": 'check = "e2e_mean <= baseline * 1.2"',
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, a slow one, rules of each outcome, and a saved baseline."""
    place = tmp_path_factory.mktemp("gate")
    run_folder(place / "run", requests=600)
    run_folder(place / "slow", requests=600, slow=1.5, seed=2)
    run_folder(place / "other", requests=600, target_facts={"model": "another"})
    for name, rule in RULES.items():
        (place / f"{name}.toml").write_text(f"[[rule]]\n{rule}\n")
    done = gate(place, "run", "--save-baseline", "base.json")
    assert done.exit_code == 0, done.output
    return place


def gate(place: Path, *arguments: str) -> Result:
    """``headroom gate`` in a folder."""
    before = Path.cwd()
    os.chdir(place)
    try:
        return CliRunner().invoke(headroom.main, ["gate", *arguments], prog_name="headroom")
    finally:
        os.chdir(before)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--rules", "pass.toml"), 0),
        (("--rules", "fail.toml"), 1),
        (("--rules", "fail.toml", "--inconclusive", "pass"), 1),
        (("--rules", "open.toml"), 3),
        (("--rules", "open.toml", "--inconclusive", "3"), 3),
        (("--rules", "open.toml", "--inconclusive", "pass"), 0),
        (("--rules", "open.toml", "--inconclusive", "fail"), 1),
        (("--rules", "relative.toml", "--baseline", "run"), 0),
        (("--rules", "relative.toml", "--baseline", "base.json"), 0),
    ],
)
def test_exit_codes(place: Path, arguments: tuple[str, ...], code: int) -> None:
    """1 where a rule fails, else what inconclusive ones ask for, else 0."""
    done = gate(place, "run", *arguments)
    assert done.exit_code == code, done.output
    assert done.stderr == ""


def test_all_outputs_at_once(place: Path) -> None:
    """A slow run fails against the baseline: JSON alone on stdout, files, annotations on stderr."""
    done = gate(
        place, "slow", "--rules", "relative.toml", "--baseline", "base.json", "--json",
        "--junit", "out/gate.xml", "--markdown", "out/gate.md", "--annotations", "github",
    )  # fmt: skip
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    (verdict,) = report["verdicts"]
    assert (report["outcome"], report["exit_code"], verdict["outcome"]) == ("fail", 1, "fail")
    assert verdict["change"] == pytest.approx(0.5, abs=0.06)
    assert verdict["change_low"] > 0.2
    JUNIT.validate((place / "out" / "gate.xml").read_text())
    assert "❌ **fail**" in (place / "out" / "gate.md").read_text()
    assert done.stderr.startswith("::error title=e2e_mean <= baseline * 1.2 ")


def test_a_name_in_a_table_is_no_command(place: Path) -> None:
    """GitHub's runner obeys a line of ``::`` after spaces: none in the table begins so."""
    name = "a" * 40 + " ::stop-commands::guess"
    (place / "named.toml").write_text(f'[[rule]]\nname = "{name}"\n{RULES["fail"]}\n')
    done = gate(place, "run", "--rules", "named.toml", "--annotations", "github")
    assert ": :stop-commands::guess" in done.stdout
    told = [line for line in done.stdout.splitlines() if line.strip().startswith("::")]
    assert [line[:14] for line in told] == ["::error title="]
    assert "::" not in gate(place, "run", "--rules", "fail.toml").stdout


def test_baseline_is_not_saved_by_a_run_that_fails(place: Path) -> None:
    """A regression cannot become the next baseline; bytes of one that is saved do not vary."""
    before = (place / "base.json").read_bytes()
    rules = ("--rules", "relative.toml", "--baseline", "base.json")
    done = gate(place, "slow", *rules, "--save-baseline", "base.json")
    assert done.exit_code == 1
    assert "base.json is left as it is: a rule failed" in done.stderr
    assert (place / "base.json").read_bytes() == before
    done = gate(place, "run", *rules, "--save-baseline", "again.json")
    assert done.exit_code == 0
    assert (place / "again.json").read_bytes() == before


def test_nothing_usable_is_no_baseline(place: Path, tmp_path: Path) -> None:
    """A run whose server failed cannot become a baseline: exit code 3, and no file."""
    run_folder(tmp_path / "dead", requests=100, failing=1.0)
    done = gate(place, str(tmp_path / "dead"), "--save-baseline", "dead.json")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "has no usable level to save as a baseline" in done.stderr
    assert not (place / "dead.json").exists()


DEEP = "[" * 10_000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run",), "no rules: name a file with --rules"),
        (("run", "--rules", "missing.toml"), "rules missing.toml: No such file"),
        (("run", "--rules", "run"), "rules run is not a file"),
        (("missing", "--rules", "pass.toml"), "missing does not exist"),
        (("run", "--rules", "relative.toml"), "needs a baseline"),
        (("run", "--rules", "relative.toml", "--baseline", "other"), "model: another in A"),
        (("run", "--rules", "relative.toml", "--baseline", "gone.json"), "No such file"),
        (("run", "--rules", "relative.toml", "--baseline", "pass.toml"), "is no baseline"),
        (("run", "--rules", "pass.toml", "--junit", "run"), "JUnit file run cannot be written"),
    ],
)
def test_bad_input_is_one_line(place: Path, arguments: tuple[str, ...], words: str) -> None:
    """What cannot be used ends in one line and exit code 2."""
    refused(gate(place, *arguments), words)


def refused(done: Result, words: str) -> None:
    """Check that a command refused its input in one line."""
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("headroom gate: ")
    assert words in line
    assert len(line) < 1500


def changed(text: str, *, by: dict[str, Any]) -> str:
    """A saved baseline with some fields of its first level's point and figures changed."""
    document = json.loads(text)
    data = document["levels"][0]["level"]["data"]
    for name, value in by.items():
        holder = data if name in data else data["point"]
        holder[name] = value
    return json.dumps(document)


FIGURE: dict[str, Any] = {"ttft_mean_s": {"value": 0.1, "low": 0.2, "high": 0.3, "n": 5}}
BROKEN: dict[str, Callable[[str], str]] = {
    "torn": lambda text: text[: len(text) // 2],
    "empty": lambda _: "",
    "deep": lambda _: DEEP,
    "deep inside": lambda _: f'{{"kind": "headroom baseline", "schema": 1, "x": {DEEP}',
    "foreign": lambda _: '{"results": [1, 2]}',
    "list": lambda _: "[]",
    "newer": lambda text: text.replace('"schema": 2,', '"schema": 9,', 1),
    "NaN": lambda text: re.sub(r'"load": 4\.0', '"load": NaN', text),
    "number as text": lambda text: re.sub(r'"load": 4\.0', '"load": "4"', text),
    "huge number": lambda text: re.sub(r'"load": 4\.0', '"load": 1e999', text),
    "negative": lambda text: changed(text, by={"completed": -1}),
    "impossible": lambda text: changed(text, by={"figures": FIGURE}),
    "no blocks": lambda text: changed(text, by={"blocks": -4.0}),
    "wrong type": lambda text: changed(text, by={"figures": [1]}),
    "another target": lambda text: changed(text, by={"target": "x\x1b[31m"}),
    "no levels": lambda text: json.dumps({**json.loads(text), "levels": []}),
    "large": lambda text: text + " " * 2**23,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_hostile_baseline_is_refused(place: Path, tmp_path: Path, kind: str) -> None:
    """A baseline that is torn, foreign or impossible ends in one line, soon."""
    file = tmp_path / "bad.json"
    file.write_text(BROKEN[kind]((place / "base.json").read_text()))
    start = time.process_time()
    refused(gate(place, "run", "--rules", "relative.toml", "--baseline", str(file)), "baseline")
    assert time.process_time() - start < 10


def shell(script: str, place: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A step of a CI system: bash as it starts it, with ``headroom`` on the path."""
    binary = place / "bin"
    binary.mkdir(exist_ok=True)
    command = binary / "headroom"
    command.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c "
        f'\'import headroom; headroom.main(prog_name="headroom")\' "$@"\n'
    )
    command.chmod(0o755)
    known = {k: v for k, v in os.environ.items() if not k.startswith(("COV_", "GITHUB_"))}
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        cwd=place, capture_output=True, text=True, timeout=120, check=False,
        env={**known, "PYTHONPATH": str(ROOT), "PATH": f"{binary}:{os.environ['PATH']}",
             **environment},
    )  # fmt: skip


def action(place: Path, **inputs: str) -> tuple[subprocess.CompletedProcess[str], str, str]:
    """Run the action's steps; its last process, its summary and its outputs."""
    document = yaml.safe_load(ACTION.read_text())
    declared = document["inputs"]
    assert inputs.keys() <= declared.keys()
    given = {name: inputs.get(name, declared[name].get("default", "")) for name in declared}
    assert "run" in inputs
    assert declared["run"]["required"]
    summary, output = place / "summary.md", place / "output"
    for file in (summary, output):
        file.write_text("")
    for step in document["runs"]["steps"]:
        assert step["shell"] == "bash"
        assert "${{" not in step["run"], "an input must never be part of a script"
        environment = {
            name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda m: given[m[1]], value)
            for name, value in step.get("env", {}).items()
        }
        done = shell(
            step["run"], place, GITHUB_STEP_SUMMARY=str(summary), GITHUB_OUTPUT=str(output),
            GITHUB_ACTION_PATH=str(ACTION.parent), **environment,
        )  # fmt: skip
        if done.returncode:
            break
    return done, summary.read_text(), output.read_text()


@pytest.mark.parametrize(("run", "code"), [("run", 0), ("slow", 1)])
def test_action_judges(place: Path, run: str, code: int) -> None:
    """The action's steps judge a run: summary, annotations, JUnit, output and exit code."""
    done, summary, output = action(
        place, **{"run": run, "rules": "relative.toml", "baseline": "base.json",
                  "allow-different": "client hardware", "inconclusive": "fail"},
    )  # fmt: skip
    assert (done.returncode, output) == (code, f"exit-code={code}\n"), done.stderr
    assert summary.startswith("## Gate ")
    assert ("::error title=" in done.stdout) == (code == 1)
    JUNIT.validate((place / "headroom-gate.xml").read_text())


def test_action_inputs_are_never_run(place: Path) -> None:
    """What an input holds is an argument, whatever it looks like; bad input still has its code."""
    nasty = '$(touch owned) "; touch owned; `touch owned` --json'
    done, summary, output = action(place, run=nasty, rules="pass.toml", summary="false")
    assert (done.returncode, summary, output) == (2, "", "exit-code=2\n")
    assert nasty in done.stderr
    assert not (place / "owned").exists()


@pytest.mark.parametrize(("run", "code"), [("run", 0), ("slow", 1)])
def test_gitlab_template_judges(place: Path, run: str, code: int) -> None:
    """The template's script judges a run and leaves the reports that its artifacts name."""
    inputs = {"run": run, "rules": "relative.toml", "baseline": "base.json",
              "allow_different": "client hardware"}  # fmt: skip
    head, body = TEMPLATE.read_text().split("\n---\n")
    declared = yaml.safe_load(head)["spec"]["inputs"]
    assert inputs.keys() <= declared.keys()
    assert {name for name in declared if "default" not in declared[name]} == {"run"}
    given = {name: inputs.get(name, (declared[name] or {}).get("default")) for name in declared}
    text = re.sub(r"\$\[\[ inputs\.(\w+) \]\]", lambda m: str(given[m[1]]), body)
    (job,) = yaml.safe_load(text).values()
    assert job["variables"]["HEADROOM_RUN"] == run
    script = "\n".join([*job["before_script"], *job["script"]])
    assert "inputs" not in script
    done = shell(script, place, **job["variables"])
    assert done.returncode == code, done.stderr
    JUNIT.validate((place / job["artifacts"]["reports"]["junit"]).read_text())
    assert all((place / path).exists() for path in job["artifacts"]["paths"])
    assert job["artifacts"]["when"] == "always"
