"""How late the emulator sends: many streams on one core, judged by its own truth.

``python -m benchmarks.emulator [--streams 2000] [--rate 20] [--tokens 300] [--replicas 32]``

The emulator runs on one core and a reader that only empties its sockets on another. A token is due
when its step ends; lateness is the moment at which it was written to its socket, less that. Tokens
count while all streams run. With one replica all streams tick together, and the last of them is
late by what the kernel needs to send to all others.
"""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

import numpy as np
import psutil

from loadtests.engines.base import EngineSpec, start_engine
from loadtests.engines.emulator.truth import read_truth

SETTLE_S = 1.0
SHARED = ("streams", "tokens", "rate", "replicas")
MOST_BETWEEN_S = 0.002


def main() -> None:
    """Measure once and print a line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=20.0, help="chunks a second of each stream")
    parser.add_argument("--tokens", type=int, default=600)
    parser.add_argument("--replicas", type=int, default=32)
    parser.add_argument(
        "--realtime", action="store_true", help="keep others off its core (SCHED_FIFO, needs root)"
    )
    parser.add_argument("--read", type=int, help="be the reader of this port")
    asked = parser.parse_args()
    if asked.read:
        _read(asked)
        return
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        truth = Path(folder) / "truth.jsonl"
        slots = -(-asked.streams // asked.replicas)
        options = (
            *("--slots", str(slots), "--replicas", str(asked.replicas)),
            *("--step", f"{1 / asked.rate!r}s", "--truth", str(truth)),
        )
        with start_engine(EngineSpec(kind="emulator", arguments=options)) as engine:
            os.sched_setaffinity(engine.pid, {cores[0]})
            if asked.realtime:
                os.sched_setscheduler(engine.pid, os.SCHED_FIFO, os.sched_param(1))
            process = psutil.Process(engine.pid)
            port = engine.url.rpartition(":")[2]
            same = [f"--{name}={getattr(asked, name)}" for name in SHARED]
            before, began = _accounts(engine.pid), time.monotonic()
            subprocess.run(
                [sys.executable, "-m", "benchmarks.emulator", "--read", port, *same],
                check=True,
            )
            took = time.monotonic() - began
            cpu, waited = (a - b for a, b in zip(_accounts(engine.pid), before, strict=True))
            rss = process.memory_info().rss
        _judge(asked, truth)
        print(
            f"  {cpu / took:.2f} of a core, {waited / took:.0%} of the time kept from it; "
            f"{rss / 2**20:.0f} MiB; load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores"
        )


def _accounts(pid: int) -> tuple[float, float]:
    """Seconds that a process ran, and seconds that it was ready to and another did."""
    ran, waited, _ = Path(f"/proc/{pid}/schedstat").read_text("ascii").split()
    return int(ran) / 1e9, int(waited) / 1e9


def _judge(asked: Namespace, path: Path) -> None:
    found = read_truth(path)
    first = max(one.arrival_unix_s + one.sent_s[0] for one in found) + SETTLE_S
    last = min(one.arrival_unix_s + one.sent_s[-1] for one in found)
    late, count = [], 0
    for one in found:
        sent, due = np.array(one.sent_s), np.array(one.due_s)
        inside = (sent + one.arrival_unix_s >= first) & (sent + one.arrival_unix_s <= last)
        late.append((sent - due)[inside])
        count += int(inside.sum())
    if not count:
        sys.exit("the streams did not all run at once: give more --tokens, or a quieter machine")
    lateness = 1e3 * np.concatenate(late)
    p50, p99, p999 = np.percentile(lateness, [50, 99, 99.9])
    print(
        f"{len(found)} streams, {asked.replicas} replicas, {count / (last - first):.0f} chunks/s "
        f"for {last - first:.1f} s: lateness p50 {p50:.2f} ms, p99 {p99:.2f} ms, p99.9 {p999:.2f} "
        "ms"
    )


def _read(asked: Namespace) -> None:
    """Open the streams and empty their sockets until all have ended.

    They come so that the first of each replica, which sets when its steps end, are spread evenly
    over the time of a step.
    """
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    chat = {
        "messages": [{"role": "user", "content": "go"}],
        "max_tokens": asked.tokens,
        "stream": True,
    }
    body = json.dumps(chat).encode()
    call = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    call += b"Content-Length: %d\r\n\r\n" % len(body) + body
    poll = select.epoll()
    streams: dict[int, socket.socket] = {}
    between_s = min(1 / (asked.rate * asked.replicas), MOST_BETWEEN_S)
    began, opened = time.monotonic(), 0
    while opened < asked.streams or streams:
        while opened < min(asked.streams, (time.monotonic() - began) / between_s):
            one = socket.create_connection(("127.0.0.1", asked.read))
            one.sendall(call)
            streams[one.fileno()] = one
            poll.register(one, select.EPOLLIN)
            opened += 1
        for number, _ in poll.poll(between_s / 2):
            if not streams[number].recv(65536):
                streams.pop(number).close()


if __name__ == "__main__":
    main()
