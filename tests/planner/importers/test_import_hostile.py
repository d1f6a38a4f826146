"""Files that are torn, hostile or absurd: one line, exit 2, within the bounds."""

from __future__ import annotations

import copy
import json
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from headroom import main
from planner.errors import InputError
from planner.importers import fields, formats, reading
from planner.importers.fields import Fields
from planner.importers.formats import read_files, read_source
from planner.importers.reading import objects_in
from tests.planner.importers.inputs import DATA, SAMPLES, points

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE = json.loads((DATA / "vllm_bench_c8.json").read_text())
TEXT = json.dumps(BASE)

HOSTILE = {
    "empty": (b"", "is empty"),
    "torn": (TEXT[:700].encode(), "torn or not JSON"),
    "deep lists": (b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "nested more than 100"),
    "deep objects": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "nested more than 100"),
    "NaN": (TEXT.replace("64.04968281668364", "NaN").encode(),
            "mean_ttft_ms: 'NaN' is a text, not a number"),
    "infinity": (TEXT.replace("64.04968281668364", "-Infinity").encode(),
                 "mean_ttft_ms: '-Infinity' is a text, not a number"),
    "a key twice": (b'{"completed": 1, "completed": 2}', 'key "completed" stands twice'),
    "NaN without end": (b'{"a": [' + b"NaN," * 100_000 + b"NaN]}", "more than 100,000 NaN"),
    "a number as text": (
        TEXT.replace("64.04968281668364", '"64"').encode(), "'64' is a text, not a number"
    ),
    "true as a number": (TEXT.replace('"max_concurrency": 8', '"max_concurrency": true').encode(),
                         "max_concurrency: Expected `float | null`, got `bool`"),
    "5,000 digits": (
        TEXT.replace('"completed": 60', f'"completed": {"9" * 5000}').encode(), "out of range"
    ),
    "1e999": (TEXT.replace('"completed": 60', '"completed": 1e999').encode(), "out of range"),
    "1e300": (TEXT.replace('"completed": 60', '"completed": 1e300').encode(), "lies outside"),
    "half a request": (TEXT.replace('"completed": 60', '"completed": 0.5').encode(),
                       "no whole number"),
    "a negative latency": (TEXT.replace("67.5605410001026", "-5").encode(), "-5 lies outside"),
    "falling percentiles": (TEXT.replace("67.5605410001026", "1.0").encode(), "do not fall"),
    "years": (TEXT.replace("64.04968281668364", "64e12").encode(), "is its unit as the tool"),
    "a load of 1e12": (
        TEXT.replace('"max_concurrency": 8', '"max_concurrency": 1e12').encode(), "out of range"
    ),
    "a list of zeros": (b'{"benchmarks": [' + b"0," * 100_000 + b"0]}", "benchmarks[0]: no object"),
    "not UTF-8": (b"concurrency,ttft_ms\n1,\xff\n", "neither JSON nor UTF-8"),
    "a page": (b"<html></html>", "not a result of"),
    "a list": (b"[1, 2]", "not a result of"),
    "a CSV with nan": (b"concurrency,ttft_ms\n1,nan\n", "line 2: ttft_ms is 'nan'"),
    "a CSV without a load": (b"concurrency,ttft_ms\n,5\n", "no concurrency"),
    "a CSV with an open quote": (b'concurrency,ttft_ms\n1,"5\n', "not CSV"),
    "a header": (b"concurrency,ttft_ms\n", "a header and no rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_one_line_and_exit_2(tmp_path: Path, name: str) -> None:
    """Each is refused in one line that says what is wrong, and nothing is written."""
    data, message = HOSTILE[name]
    file = tmp_path / "file.json"
    file.write_bytes(data)
    out = tmp_path / "run"
    result = CliRunner().invoke(main, ["import", str(file), "--out", str(out)])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not out.exists()


def test_a_file_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    """Its size alone refuses it."""
    file = tmp_path / "big.json"
    with file.open("wb") as opened:
        opened.truncate(2**30)
    with pytest.raises(InputError, match="more than 256 MiB"):
        points(file)


def test_too_many_strings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of strings and brackets bounds the time, and is counted before they are."""
    monkeypatch.setattr(reading, "MOST_TOKENS", 100)
    file = tmp_path / "many.json"
    file.write_text('{"a": [' + '"",' * 200 + '""]}')
    with pytest.raises(InputError, match="more than 100 strings, objects and lists"):
        points(file)


def test_a_list_of_numbers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single values take many times their bytes once decoded."""
    monkeypatch.setattr(fields, "MOST_LIST_BYTES", 100)
    found = Fields(Path("x.json"), b'{"queue_times": [' + b"0," * 100 + b"0]}")
    with pytest.raises(InputError, match=r"queue_times: a list of 203 bytes"):
        found.numbers("queue_times")


def test_folder_and_missing_file(tmp_path: Path) -> None:
    """An empty folder, and a file that is not there."""
    with pytest.raises(InputError, match=r"no \.json or \.jsonl file in it"):
        points(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        points(tmp_path / "none.json")


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """A pipe without a writer, a device without end and a link to itself are refused, if named."""
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "loop.json").symlink_to("loop.json")
    for path in (tmp_path / "pipe.json", Path("/dev/zero"), tmp_path / "loop.json"):
        with pytest.raises(InputError, match=r"is not a file|does not exist"):
            points(path)


def test_a_folder_is_not_walked_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pipes, links and what lies deeper than three levels are passed over; files are counted."""
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "loop.json").symlink_to("loop.json")
    (tmp_path / "again").symlink_to(".")
    deep = tmp_path / "a" / "b" / "c" / "d"
    deep.mkdir(parents=True)
    (tmp_path / "a" / "b" / "v.json").write_text(TEXT)
    (deep / "v.json").write_text("torn")
    assert len(points(tmp_path)) == 1
    seen: list[Path] = []
    listed = Path.iterdir

    def noted(path: Path) -> Iterator[Path]:
        seen.append(path)
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", noted)
    points(tmp_path)
    assert seen == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    monkeypatch.setattr(formats, "MOST_FILES", 3)
    for number in range(5):
        (tmp_path / f"{number}.json").write_text(TEXT)
    with pytest.raises(InputError, match="more than 3 files"):
        points(tmp_path)


def test_a_name_is_made_fit_for_a_terminal(tmp_path: Path) -> None:
    """What a file calls itself cannot move a cursor."""
    file = tmp_path / "v.json"
    file.write_text(json.dumps({**BASE, "model_id": "m\x1b[31m\n"}))
    out = tmp_path / "run"
    result = CliRunner().invoke(main, ["import", str(file), "--out", str(out)])
    assert result.exit_code == 0
    assert "\x1b" not in (out / "manifest.json").read_text()


NASTY = "b\x1b[31m\n::error::x.json"


def test_names_of_files_are_one_line_each(tmp_path: Path) -> None:
    """A line break or an escape in a file's name reaches neither the messages nor a terminal."""
    missing = CliRunner().invoke(main, ["import", str(tmp_path / NASTY), "--out", "x"])
    assert missing.exit_code == 2
    assert missing.stderr.rstrip("\n").isprintable()
    (tmp_path / "v.json").write_text(TEXT)
    (tmp_path / NASTY).write_text("{}")
    done = CliRunner().invoke(main, ["import", str(tmp_path), "--out", str(tmp_path / "run")])
    assert done.exit_code == 0
    left_out, *others = done.stderr.splitlines()
    assert (
        left_out == "! b\N{REPLACEMENT CHARACTER}[31m : :error::x.json left out: not a result file"
    )
    assert all(line.isprintable() for line in others)


@pytest.mark.parametrize(
    "command",
    [
        ("compare", "{run}", "{other}", "--allow-different", "target"),
        ("export", "{run}", "--format", "csv"),
        ("export", "{run}", "--format", "openmetrics"),
        ("export", "{run}", "--format", "vllm-bench"),
        ("recommend", "{run}", "--users", "3", "--slo", "ttft_p95<=1s"),
        ("claims", "{run}"),
        ("backtest", "{run}"),
    ],
)
@pytest.mark.parametrize("problem", [None, "torn\x1b[2J\n::error::x"])
def test_names_in_a_run_folder_are_not_obeyed(
    tmp_path: Path, command: tuple[str, ...], problem: str | None
) -> None:
    """A manifest from elsewhere holds what it likes: no command hands an escape to the terminal."""
    run, other = tmp_path / "run", tmp_path / "other"
    for folder in (run, other):
        done = CliRunner().invoke(
            main, ["import", str(DATA / "vllm_bench_c8.json"), "--out", str(folder)]
        )
        assert done.exit_code == 0
    nasty = "v\x1b[31m\n::error::x"
    for file in ("manifest.json", "points.json"):
        text = (run / file).read_text().replace('"vllm-bench"', json.dumps(nasty))
        if problem:
            text = text.replace('"problems": []', f'"problems": [{json.dumps(problem)}]')
        (run / file).write_text(text)
    told = CliRunner().invoke(main, [part.format(run=run, other=other) for part in command])
    assert told.exit_code in (0, 1, 2, 3), told.output
    lines = [line for line in told.output.splitlines() if line]
    assert all(line.isprintable() for line in lines)
    assert not [line for line in lines if line.startswith("::")]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


def changed(document: Any, value: Any, rng: random.Random) -> Any:
    """A document in which one value somewhere is another, or is gone."""
    holder, depth = document, 0
    while isinstance(holder, dict | list) and holder:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = rng.choice(keys)
        inner = holder[key]
        depth += 1
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.2:
            if rng.random() < 0.3:
                del holder[key]
            else:
                holder[key] = value
            return document
        holder = inner
    return document


@settings(max_examples=150, deadline=None)
@given(
    sample=st.sampled_from(SAMPLES),
    value=JSON,
    seed=st.integers(0, 2**32),
    times=st.integers(1, 4),
)
def test_changed_values_give_points_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, sample: str, value: Any, seed: int, times: int
) -> None:
    """Any value put in place of another: finite, positive figures or an InputError."""
    rng = random.Random(seed)
    text = (DATA / sample).read_text()
    if sample.endswith(".csv"):
        cells = text.split(",")
        cells[rng.randrange(len(cells))] = str(value)
        text = ",".join(cells)
    else:
        document = json.loads(text)
        for _ in range(times):
            document = changed(document, copy.deepcopy(value), rng)
        text = json.dumps(document)
    check(tmp_path_factory.mktemp("changed") / "file.json", text.encode("utf-8", "surrogatepass"))


@settings(max_examples=150, deadline=None)
@given(sample=st.sampled_from(SAMPLES), seed=st.integers(0, 2**32))
def test_changed_bytes_give_points_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, sample: str, seed: int
) -> None:
    """Bytes cut off, flipped or doubled anywhere."""
    rng = random.Random(seed)
    data = bytearray((DATA / sample).read_bytes())
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(data))
        kind = rng.randrange(3)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            del data[at : at + rng.randrange(200)]
        else:
            data[at:at] = data[at : at + rng.randrange(50)]
    check(tmp_path_factory.mktemp("bytes") / "file.json", bytes(data))


def check(file: Path, data: bytes) -> None:
    """Either the file has usable points or one line says why not."""
    file.write_bytes(data)
    try:
        found, line = points(file), ""
    except InputError as error:
        found, line = [], str(error)
    assert "\n" not in line
    assert found or line
    for point in found:
        assert 0 < point.load < float("inf")
        for estimate in point.figures.values():
            assert 0 <= estimate.value < float("inf")


@given(st.lists(st.dictionaries(st.text(max_size=4), JSON, max_size=3), max_size=5))
@settings(max_examples=100, deadline=None)
def test_objects_of_a_list_come_one_by_one(items: list[dict[str, Any]]) -> None:
    """The elements are those that a JSON decoder gives."""
    data = json.dumps(items).encode()
    if b"NaN" in data or b"Infinity" in data:
        return
    assert [json.loads(item or b"") for item in objects_in(data)] == items


@pytest.mark.parametrize("data", [b"[1]", b'["a"]', b'[{"a":1}, 2]', b'[{"a":1}, "b"]', b"[[]]"])
def test_what_is_no_object_is_told(data: bytes) -> None:
    """A number, a text or a list among the objects."""
    assert None in list(objects_in(data))


def test_formats_are_told_by_content(tmp_path: Path) -> None:
    """A name says nothing: every sample under another name is still told."""
    for number, sample in enumerate(SAMPLES):
        file = tmp_path / f"{number}" / "result.txt"
        file.parent.mkdir()
        file.write_bytes((DATA / sample).read_bytes())
        (expected,) = {one.tool for one in read_files([DATA / sample])[0]}
        assert {one.tool for one in read_files([file])[0]} == {expected}
        assert read_source(file).sha256
