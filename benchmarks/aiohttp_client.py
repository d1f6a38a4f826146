"""aiohttp in the shape of vLLM's ``bench serve``, for an environment of its own.

Needs nothing but aiohttp: ``python aiohttp_client.py URL '{"streams": 256, ...}'``. What it saw
goes to stdout as JSON; ``benchmarks.client`` compares it with the truth.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp

__all__ = ["main"]


def _reading() -> dict[str, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "at_s": time.monotonic(),
        "cpu_s": used.ru_utime + used.ru_stime,
        "rss": int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize(),
        "waited_s": int(Path("/proc/self/schedstat").read_text().split()[1]) * 1e-9,
    }


async def _ask(
    session: aiohttp.ClientSession, url: str, body: dict[str, Any]
) -> tuple[int, list[int], str]:
    """One request: bytes as they come, cut into events, each decoded at once."""
    seen: list[int] = []
    texts: list[str] = []
    rest = ""
    sent_ns = time.monotonic_ns()
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        async for data in response.content.iter_any():
            *events, rest = (rest + data.decode()).split("\n\n")
            for event in events:
                payload = event.strip().removeprefix("data: ")
                if not payload or payload == "[DONE]":
                    continue
                now = time.monotonic_ns()
                choices = json.loads(payload)["choices"]
                if choices and (text := choices[0]["delta"].get("content")):
                    seen.append(now)
                    texts.append(text)
    return sent_ns, seen, "".join(texts)


async def _measure(url: str, scenario: dict[str, Any]) -> dict[str, Any]:
    streams, rounds = scenario["streams"], scenario["rounds"]
    body = {
        "model": "reference", "stream": True, "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": "hello " * 16}],
        "max_tokens": scenario["tokens"], "x_itl_us": scenario["itl_us"],
        "x_ttft_us": scenario["ttft_us"], "x_sync": scenario["sync"],
    }  # fmt: skip
    kept: list[tuple[int, list[int], str]] = []

    async def user(number: int) -> None:
        await asyncio.sleep(scenario["ramp_s"] * number / streams)
        for _ in range(rounds):
            answer = await _ask(session, url, body)
            kept.append(answer)

    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        gc.collect()
        gc.freeze()
        before = _reading()
        users = [asyncio.create_task(user(number)) for number in range(streams)]
        if rounds == 1:
            await asyncio.sleep(scenario["ramp_s"] + scenario["ttft_us"] * 1e-6 * 0.8)
        begun = _reading()
        await asyncio.gather(*users)
        done = _reading()
    return {"before": before, "begun": begun, "done": done, "observed": kept}


def main() -> None:
    """Run and print."""
    url, scenario = sys.argv[1], json.loads(sys.argv[2])
    if scenario["cpu"] is not None:
        os.sched_setaffinity(0, {scenario["cpu"]})
    print(json.dumps(asyncio.run(_measure(url, scenario))))


if __name__ == "__main__":
    main()
