"""aiperf and guidellm under the reference server, each in its own environment.

Both are run as their manuals say, as whole programs with their own workers; what they saw is read
from their own result files, and the truth from the text that they received and kept in them. Their
CPU time is that of the whole tree of processes, from the first to the last event that the server
sent: starting up and writing reports is not in it.

aiperf keeps the moment of every event (``--export-level raw``), guidellm those of a request's
start, first and last token, so that single gaps cannot be compared. Both count connecting into
TTFT.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import psutil

from benchmarks.scenario import Error, Figures, Scenario
from loadtests.measure.truth import Observed, compare

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["TOOLS", "run_tool"]

_SAMPLE_S = 0.1
_PATIENCE_S = 240.0
_SENT = re.compile(r" T(\d{16})")


class _TreeCpu:
    """CPU time of a process and all its descendants over time, sampled in a thread."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._seconds: dict[tuple[int, float], float] = {}  # of those that have ended, too
        self._at_ns: list[int] = []
        self._total_s: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def between(self, begin_ns: float, end_ns: float) -> float:
        """CPU seconds between two readings of ``time.monotonic_ns()``."""
        begin_s, end_s = np.interp([begin_ns, end_ns], self._at_ns, self._total_s)
        return float(end_s - begin_s)

    def _run(self) -> None:
        while not self._over.wait(_SAMPLE_S):
            with contextlib.suppress(psutil.Error):
                for process in (self._root, *self._root.children(recursive=True)):
                    with contextlib.suppress(psutil.Error):
                        used = process.cpu_times()
                        key = (process.pid, process.create_time())
                        self._seconds[key] = used.user + used.system
            self._at_ns.append(time.monotonic_ns())
            self._total_s.append(sum(self._seconds.values()))


def _aiperf(url: str, scenario: Scenario, tokenizer: Path) -> list[str]:
    requests = scenario.streams * scenario.rounds
    return [
        "profile", "--model", "reference", "--url", url, "--endpoint-type", "chat", "--streaming",
        "--tokenizer", str(tokenizer), "--concurrency", str(scenario.streams),
        "--request-count", str(requests), "--synthetic-input-tokens-mean", "16",
        "--synthetic-input-tokens-stddev", "0", "--output-tokens-mean", str(scenario.tokens),
        "--output-tokens-stddev", "0", "--export-level", "raw", "--ui-type", "none",
        "--no-gpu-telemetry", "--no-server-metrics", "--artifact-dir", "out",
    ]  # fmt: skip


def _aiperf_saw(folder: Path) -> list[Observed]:
    """Of ``profile_export_raw.jsonl``; its ``perf_ns`` is CLOCK_MONOTONIC, as the server's is."""
    observed: list[Observed] = []
    with (folder / "out" / "profile_export_raw.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            record = msgspec.json.decode(line)
            seen: list[float] = []
            texts: list[str] = []
            for response in record["responses"]:
                for packet in response.get("packets", ()):
                    if text := _content(packet["value"]):
                        seen.append(response["perf_ns"])
                        texts.append(text)
            observed.append(Observed(record["start_perf_ns"], np.array(seen), "".join(texts)))
    return observed


def _content(value: str) -> str | None:
    if not value.startswith("{"):
        return None  # [DONE]
    choices = msgspec.json.decode(value).get("choices")
    text: str | None = choices[0]["delta"].get("content") if choices else None
    return text


def _guidellm(url: str, scenario: Scenario, tokenizer: Path) -> list[str]:
    backend = {"kind": "openai_http", "target": url, "model": "reference",
               "validate_backend": False}  # fmt: skip
    return [
        "run", "--backend", json.dumps(backend),
        "--tokenizer", json.dumps({"kind": "huggingface_auto", "model": str(tokenizer)}),
        "--data", f"kind=synthetic_text,prompt_tokens=16,output_tokens={scenario.tokens}",
        "--profile", json.dumps({"kind": "concurrent", "streams": [scenario.streams]}),
        "--constraint", f"kind=max_requests,count={scenario.streams * scenario.rounds}",
        "--output", "kind=json,path=report.json",
    ]  # fmt: skip


def _guidellm_saw(folder: Path) -> list[Observed]:
    """Of its report: the first and the last event of each request, by the wall clock."""
    report = msgspec.json.decode((folder / "report.json").read_bytes())
    offset_ns = time.time_ns() - time.monotonic_ns()
    observed: list[Observed] = []
    for request in report["benchmarks"][0]["requests"]["successful"]:
        timings = request["info"]["timings"]
        sent_ns, first_ns, last_ns = (
            timings[key] * 1e9 - offset_ns
            for key in ("request_start", "first_token_iteration", "last_token_iteration")
        )
        text = request["output"]
        begin, *_, last = _SENT.finditer(text)
        text = text[: begin.end()] + last.group()
        observed.append(Observed(sent_ns, np.array([first_ns, last_ns]), text))
    return observed


TOOLS: dict[
    str,
    tuple[Callable[[str, Scenario, Path], list[str]], Callable[[Path], list[Observed]]],
] = {"aiperf": (_aiperf, _aiperf_saw), "guidellm": (_guidellm, _guidellm_saw)}


def run_tool(name: str, program: str, url: str, scenario: Scenario, tokenizer: Path) -> Figures:
    """Run it once, on the scenario's processor.

    Args:
        name: of :data:`TOOLS`.
        program: its executable.
        url: of a reference server with the scenario's pace: these tools set none of their own.
        scenario: what to ask.
        tokenizer: a folder with a Hugging Face tokenizer, to make prompts and count tokens.

    Raises:
        RuntimeError: it failed, did not end, or its report is not understood.
    """
    arguments, saw = TOOLS[name]
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
        process = subprocess.Popen(
            [*_pinned(scenario), program, *arguments(url, scenario, tokenizer)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=folder,
            env=os.environ | ({"HF_HUB_OFFLINE": "1"} if name == "guidellm" else {}),
        )  # fmt: skip
        tree = _TreeCpu(process.pid)
        try:
            _, said = process.communicate(timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"{name} did not end within {_PATIENCE_S:.0f} s") from error
        finally:
            process.kill()
            tree.stop()
        if process.returncode != 0:
            raise RuntimeError(f"{name} failed: {said.decode(errors='replace')[-500:]}")
        try:
            observed = saw(Path(folder))
        except (OSError, ValueError, KeyError, TypeError, msgspec.DecodeError) as error:
            raise RuntimeError(f"{name}'s report is not understood: {error!r}") from error
    return _figures(observed, tree, scenario, every_event=name == "aiperf")


def _pinned(scenario: Scenario) -> list[str]:
    return [] if scenario.cpu is None else ["taskset", "-c", str(scenario.cpu)]


def _figures(
    observed: list[Observed], tree: _TreeCpu, scenario: Scenario, *, every_event: bool
) -> Figures:
    errors = compare(observed)
    sent = _moments(observed)
    chunks = errors.requests * scenario.tokens
    elapsed_s = float(sent[-1] - sent[0]) * 1e-9
    cpu_s = tree.between(sent[0], sent[-1])
    return Figures(
        requests=errors.requests,
        chunks=chunks,
        wrong=errors.wrong + scenario.streams * scenario.rounds - len(observed),
        arrival=Error.of(errors.arrival),
        itl=Error.of(errors.itl) if every_event else None,
        ttft=Error.of(errors.ttft),
        shared_share=errors.coalesced_share if every_event else None,
        cpu_per_chunk_s=cpu_s / chunks,
        cpu_share=cpu_s / elapsed_s,
    )


def _moments(observed: list[Observed]) -> NDArray[np.int64]:
    """When the server sent what was seen, in order."""
    return np.sort([int(ns) for request in observed for ns in _SENT.findall(request.text)])
