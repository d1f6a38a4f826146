"""What cannot be measured is refused with one line that says what to do, and nothing is lost."""

from __future__ import annotations

import json
import shutil
import signal
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from loadtests.engines.base import EngineSpec, start_engine
from planner.manifest import is_run
from planner.runfolder import read_records, read_run
from tests.loadtests.measure.driving import SHORT, eventually, headroom, one_line, start
from tests.loadtests.measure.fakes import Chat
from tests.loadtests.servers import answer, serving

if TYPE_CHECKING:
    from pathlib import Path

    from loadtests.engines.base import RunningEngine
    from loadtests.engines.model import ModelFiles
    from tests.loadtests.measure.driving import Shell

KEY = "sk-this-must-never-be-seen-anywhere"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, shell: Shell) -> Path:
    """A small complete run."""
    out = tmp_path_factory.mktemp("kept") / "run"
    with serving(Chat()) as server:
        done = shell.run(
            "measure", f"openai={server.url}", *SHORT, "--concurrency", "2", "--duration", "1s",
            "--out", out,
        )  # fmt: skip
    assert done.code == 0, done
    return out


def _measure(shell: Shell, target: str, out: Path, *options: object, **keys: str | None) -> None:
    """Refuse a target: one line that names it, and no folder."""
    words = [str(option) for option in options if str(option).startswith("says:")]
    given = [option for option in options if not str(option).startswith("says:")]
    done = shell.run("measure", target, "--out", out, *given, **keys)
    one_line(done, "headroom measure: ", *(word.removeprefix("says:") for word in words))
    assert not out.exists()


def test_unreachable(shell: Shell, tmp_path: Path) -> None:
    """A port on which nothing listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        out = tmp_path / "run"
        _measure(shell, f"vllm={url}", out, f"says:{url}", "says:cannot be reached", "says:running")


def test_no_such_host(shell: Shell, tmp_path: Path) -> None:
    """A host that no resolver knows."""
    url = "http://nowhere.invalid:8000"
    _measure(shell, f"vllm={url}", tmp_path / "run", f"says:{url}", "says:cannot be reached")


def test_not_http(shell: Shell, tmp_path: Path) -> None:
    """A port where something else listens."""
    with serving([b"SSH-2.0-OpenSSH_9.6\r\n"]) as server:
        _measure(shell, f"vllm={server.url}", tmp_path / "run", "says:does not answer in HTTP")


def test_another_service(shell: Shell, tmp_path: Path) -> None:
    """A web server that is no inference server."""
    with serving([answer(b"<html>hello</html>")]) as server:
        _measure(shell, f"vllm={server.url}", tmp_path / "run", "says:neither llama.cpp, Ollama")


@pytest.mark.engine
def test_wrong_kind(shell: Shell, llamacpp: RunningEngine, tmp_path: Path) -> None:
    """A llama.cpp given as another kind of server: the line says how to name it."""
    for kind in ("vllm", "ollama"):
        remedy = f"says:use llamacpp={llamacpp.url}"
        _measure(shell, f"{kind}={llamacpp.url}", tmp_path / "run", remedy)


@pytest.mark.engine
def test_model_not_found(shell: Shell, llamacpp: RunningEngine, tmp_path: Path) -> None:
    """A model that the server does not have: the line names those that it has."""
    target = f"llamacpp={llamacpp.url}#llama-9"
    _measure(shell, target, tmp_path / "run", "says:'llama-9'", f"says:{llamacpp.model}")


@pytest.mark.engine
def test_context_too_small(shell: Shell, tiny_model: ModelFiles, tmp_path: Path) -> None:
    """Prompts that do not fit: the line has both numbers and the remedy."""
    spec = EngineSpec(kind="llamacpp", model=tiny_model.gguf, parallel=1, context=256)
    out = tmp_path / "run"
    with start_engine(spec) as engine:
        target = f"llamacpp={engine.url}"
        _measure(shell, target, out, "says:holds 256 tokens", "says:need 1536", "says:-c 1536")
        options = ("--prompt-tokens", "200", "--output-tokens", "60")
        _measure(shell, target, out, *options, "says:need 260")


def test_key_is_missing_or_wrong(shell: Shell, tmp_path: Path) -> None:
    """A server that wants a key: the line names the variable, and never shows the key."""
    with serving(Chat(key=KEY)) as server:
        target, out = f"vllm={server.url}", tmp_path / "run"
        none = {"HEADROOM_API_KEY": None, "HEADROOM_API_KEY_VLLM": None}
        _measure(shell, target, out, "says:HEADROOM_API_KEY_VLLM or HEADROOM_API_KEY", **none)
        wrong = {**none, "HEADROOM_API_KEY": "sk-wrong-wrong-wrong"}
        done = shell.run("measure", target, "--out", out, **wrong)
        one_line(done, "refuses the API key (HTTP 401)")
        assert "wrong-wrong" not in done.err


def test_key_is_never_kept(shell: Shell, tmp_path: Path) -> None:
    """A key from the environment reaches the server, and no file, log, table or report."""
    out, chat = tmp_path / "run", Chat(key=KEY, healthy=30)
    chat.then = answer(json.dumps({"error": {"message": f"bad key {KEY}"}}).encode(), 500)
    with serving(chat) as server:
        done = shell.run(
            "measure", f"openai={server.url}", *SHORT, "--concurrency", "4", "--duration", "1s",
            "--out", out, HEADROOM_API_KEY=KEY,
        )  # fmt: skip
    assert done.code == 0, done.err
    assert chat.refused > 0
    report = shell.run("report", out)
    assert report.code == 0, report.err
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    kept = {"manifest.json", "requests.parquet", "telemetry.parquet", "report.html"}
    assert {file.name for file in files} == kept
    for text in (done.out, done.err, report.out, report.err):
        assert KEY not in text
    for file in files:
        assert KEY.encode() not in file.read_bytes()
    assert KEY not in repr(read_run(out))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--slo", "ttft_p95<=1"], ["'ttft_p95<=1'", "ms"]),
        (["--slo", "ttft_p95<=1GB"], ["ttft_p95<=1GB"]),
        (["--slo", "speed<=1s"], ["'speed'", "ttft"]),
        (["--concurrency", "1,two"], ["'1,two'", "1,2,4,8"]),
        (["--concurrency", "0"], ["'0'"]),
        (["--concurrency", "1,-4"], ["'1,-4'"]),
        (["--concurrency", "\u0661"], ["1,2,4,8"]),
        (["--concurrency", "999999"], ["100000"]),
        (["--users", "4", "--concurrency", "4"], ["exclude each other"]),
        (["--users", "0"], ["0"]),
        (["--think-time", "4s"], ["--think-time needs --users"]),
        (["--users", "4", "--think-time", "4"], ["'4' is not a duration"]),
        (["--duration", "0s"], ["too short"]),
        (["--prompt-tokens", "many"], ["--prompt-tokens 'many'", "lognormal"]),
        (["--output-tokens", "0"], ["--output-tokens '0'"]),
        (["--hardware", "gpu=H100"], ["names no target: there are vllm"]),
        (["--hardware", "vllm=0xH100"], ["'0xH100'", "number of GPUs", "vllm=2xH100"]),
        (["--hardware", "vllm=-2xH100"], ["'-2xH100'", "number of GPUs"]),
        (["--hardware", "vllm=1.5xH100"], ["'1.5xH100'", "number of GPUs"]),
        (["--hardware", "vllm=2 x H100"], ["'2 x H100'", "number of GPUs"]),
        (["--hardware", "vllm=xH100"], ["'xH100'", "number of GPUs"]),
        (["--hardware", "vllm=H100x2"], ["'H100x2'", "number of GPUs"]),
    ],
)
def test_bad_option(shell: Shell, tmp_path: Path, options: list[str], words: list[str]) -> None:
    """A bad option is refused before any server is asked, with the value and what would do."""
    out = tmp_path / "run"
    with serving([60.0]) as server:
        done = shell.run("measure", f"vllm={server.url}", "--out", out, *options)
        assert server.connections == 0
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.err
    assert not out.exists()


def test_targets(shell: Shell, tmp_path: Path) -> None:
    """A target that is missing, unreadable, or not in the config file."""
    config = tmp_path / "headroom.toml"
    config.write_text('[targets.big]\nkind = "vllm"\nurl = "http://127.0.0.1:1"\n')
    out = tmp_path / "run"
    one_line(shell.run("measure", "--out", out), "no target: name at least one")
    one_line(shell.run("measure", "http://127.0.0.1:1", "--out", out), "what kind of server")
    one_line(shell.run("measure", "tgi=http://127.0.0.1:1", "--out", out), "unknown kind 'tgi'")
    done = shell.run("measure", "--config", config, "small", "--out", out)
    one_line(done, "'small' is not in the config file, which has big")
    assert not out.exists()


def test_number_of_gpus_in_the_config_file(shell: Shell, tmp_path: Path) -> None:
    """A number of GPUs is no part of the kind there either, where nobody would count it."""
    config = tmp_path / "headroom.toml"
    table = '[targets.big]\nkind = "vllm"\nurl = "http://127.0.0.1:1"\nhardware = "4xH100"\n'
    config.write_text(table)
    done = shell.run("measure", "--config", config, "big", "--out", tmp_path / "run")
    one_line(done, "hardware '4xH100' of target 'big'", "gpus_per_replica")


@pytest.mark.parametrize("kind", ["Xeon", "xeon-6", "MI300X", "RTX 4090", "rtx4090", "A100-80GB"])
def test_kinds_of_hardware_with_an_x(shell: Shell, tmp_path: Path, kind: str) -> None:
    """Names that hold an x of their own are kinds."""
    done = shell.run("measure", "vllm=http://127.0.0.1:1", "--hardware", f"vllm={kind}",
                     "--out", tmp_path / "run")  # fmt: skip
    one_line(done, "cannot be reached")


def test_config_names_the_target(shell: Shell, tmp_path: Path) -> None:
    """The config file holds the target and the options; the command line has the last word."""
    config, out = tmp_path / "headroom.toml", tmp_path / "run"
    with serving(Chat()) as server:
        config.write_text(
            'prompt_tokens = "uniform:8-16"\noutput_tokens = "4"\nduration = "60s"\n'
            f'concurrency = "3"\n[targets.big]\nkind = "openai"\nurl = "{server.url}"\n'
            'hardware = "H100"\ngpus_per_replica = 4\n'
            "[gpus.Abacus]\nmemory_gb = 1\nbandwidth_gb_s = 2\n"
        )
        done = shell.run("measure", "--config", config, "big", "--duration", "1s", "--out", out)
    assert done.code == 0, done.err
    manifest = read_run(out).manifest
    (target,) = manifest.targets
    assert (target.name, target.hardware, target.gpus_per_replica) == ("big", "H100", 4)
    assert manifest.hardware.gpus["Abacus"].bandwidth_gb_s == 2  # a later report needs no --config
    assert (manifest.workload.output_tokens, manifest.stages[0].load) == ("4", 3)


@pytest.mark.parametrize(
    ("typed", "kind"),
    [
        (["--concurrency", "2"], ("concurrency", 2, 0.0)),
        (["--users", "3"], ("users", 3, 0.2)),
        (["--think-time", "100ms"], ("users", 50, 0.1)),
        (["--rate", "9/s"], ("rate", 9, 0.0)),
    ],
)
def test_command_line_beats_the_kind_of_load_in_the_file(
    shell: Shell, tmp_path: Path, typed: list[str], kind: tuple[str, float, float]
) -> None:
    """A file with users serves a measurement of another kind of load; what is typed decides."""
    config, out = tmp_path / "headroom.toml", tmp_path / "run"
    config.write_text('users = 50\nthink_time = "200ms"\n')
    with serving(Chat()) as server:
        done = shell.run(
            "measure", "--config", config, f"openai={server.url}", *SHORT, *typed,
            "--duration", "1s", "--out", out,
        )  # fmt: skip
    assert done.code == 0, done.err
    (stage,) = read_run(out).manifest.stages
    assert (stage.load_kind, stage.load, stage.think_time_s) == kind


def test_two_kinds_of_load_in_the_file(shell: Shell, tmp_path: Path) -> None:
    """A file alone cannot ask for two kinds of load; nor can a command line, file or not."""
    config, out = tmp_path / "headroom.toml", tmp_path / "run"
    config.write_text('users = 50\nconcurrency = "4"\n')
    target = "openai=http://127.0.0.1:9"
    asked = ("measure", "--config", config, target, "--out", out)
    one_line(shell.run(*asked), "exclude each other")
    one_line(shell.run(*asked, "--users", "3", "--rate", "4/s"), "exclude each other")


def test_folder_that_holds_something_else(shell: Shell, tmp_path: Path) -> None:
    """--out that names a file, or a folder of somebody else's, which stays as it is."""
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("mine")
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with serving([60.0]) as server:
        for out in (file, folder):
            done = shell.run("measure", f"openai={server.url}", *SHORT, "--out", out)
            one_line(done, str(out))
        assert server.connections == 0
    assert file.read_text() == "mine"
    assert [f.name for f in folder.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("command", ["recommend", "report"])
def test_folder_that_is_no_run(shell: Shell, kept: Path, tmp_path: Path, command: str) -> None:
    """A run folder that is missing, empty, torn, of a newer schema or something else."""
    question = ("--users", "5", "--slo", "ttft_p95<=1s") if command == "recommend" else ()
    empty, other, torn, newer, cut = (
        tmp_path / name for name in ("empty", "other", "torn", "newer", "cut")
    )
    empty.mkdir()
    other.mkdir()
    (other / "notes.txt").write_text("hello")
    for folder in (torn, newer, cut):
        shutil.copytree(kept, folder)
    text = (kept / "manifest.json").read_text()
    (torn / "manifest.json").write_text(text[: len(text) // 2])
    (newer / "manifest.json").write_text(text.replace('"schema": 1', '"schema": 99'))
    parquet = (kept / "requests.parquet").read_bytes()
    (cut / "requests.parquet").write_bytes(parquet[: len(parquet) // 2])
    for folder, words in (
        (tmp_path / "absent", ["does not exist"]),
        (empty, ["is empty"]),
        (other, ["has no manifest.json"]),
        (torn, ["torn or not JSON"]),
        (newer, ["schema 99", "upgrade Headroom"]),
        (cut, ["requests.parquet"]),
    ):
        before = sorted(folder.iterdir()) if folder.exists() else []
        one_line(shell.run(command, folder, *question), f"headroom {command}: ", *words)
        assert (sorted(folder.iterdir()) if folder.exists() else []) == before


def test_kept_run_is_only_continued_alike(shell: Shell, kept: Path) -> None:
    """A kept run goes on with the same workload and server, and with nothing else."""
    before = (kept / "manifest.json").read_bytes()
    with serving(Chat()) as server:
        target = f"openai={server.url}"
        done = shell.run("measure", target, "--output-tokens", "9", "--out", kept)
        one_line(done, "another workload", "uniform:4-12")
    with ExitStack() as stack:
        renamed = Chat(model="other")
        server = stack.enter_context(serving(renamed))
        done = shell.run("measure", f"openai={server.url}", *SHORT, "--out", kept)
        one_line(done, "'openai'", "model was scripted, is other", "name a new folder")
    assert (kept / "manifest.json").read_bytes() == before
    assert len(read_run(kept).requests) > 10


def test_folder_that_another_process_writes(shell: Shell, tmp_path: Path) -> None:
    """A second run into a folder is refused before it looks at servers; the first goes on."""
    out = tmp_path / "run"
    with serving(Chat()) as server, serving([60.0]) as other:
        first = start("measure", f"openai={server.url}", *SHORT, "--concurrency", "2",
                      "--duration", "60s", "--slo", "ttft_p99.9<=1s", "--out", out)  # fmt: skip
        try:
            assert eventually(lambda: is_run(out) and len(read_run(out).requests) > 5)
            done = shell.run("measure", f"openai={other.url}", *SHORT, "--out", out)
            one_line(done, str(out), "is being written by another process")
            assert other.connections == 0
            first.send_signal(signal.SIGINT)
            first.communicate(timeout=30)
        finally:
            first.kill()
    assert first.returncode == 130
    run = read_run(out)
    assert (run.manifest.state, len(run.manifest.stages), run.notes) == ("interrupted", 1, ())
    assert len({record.id for record in read_records(out)}) == len(run.requests) > 5


def test_disk_that_is_full(tmp_path: Path) -> None:
    """When the folder cannot be written any more the run ends at once, with one line."""
    out = tmp_path / "run"
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))"
    with serving(Chat(pause_s=0)) as server:
        done = headroom(
            "measure", f"openai={server.url}", *SHORT, "--concurrency", "4", "--duration", "60s",
            "--slo", "ttft_p99.9<=1s", "--out", out, first=limited,
        )  # fmt: skip
    assert done.code == 2
    said = done.err.splitlines()
    assert said[0].startswith("openai: 4 in flight")
    assert said[1:] == [f"headroom measure: cannot write to {out}: File too large"]
    run = read_run(out)
    assert len(run.requests) > 5
    (stage,) = run.manifest.stages
    assert stage.ended_s is not None
    assert stage.ended_s - stage.started_s < 30
