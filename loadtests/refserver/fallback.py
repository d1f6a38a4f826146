"""The reference server in Python, for machines without a compiler: the same answers, more slowly.

Its stamps are as true as those of ``server.c``, because they too are read right before the send.
But it is as expensive per chunk as a client, so that it is the limit far earlier.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import sys
import time
from argparse import ArgumentParser, Namespace

__all__ = ["main"]

_MAX_REQUEST = 2**20
_US = 1e-6


class _Stats:
    """What ``/stats`` tells."""

    def __init__(self) -> None:
        self.chunks = 0
        self.late_s = 0.0
        self.late_max_s = 0.0

    def sent(self, late_s: float) -> None:
        self.chunks += 1
        self.late_s += late_s
        self.late_max_s = max(self.late_max_s, late_s)

    def document(self) -> dict[str, float]:
        return {
            "chunks": self.chunks,
            "late_mean_us": self.late_s / max(self.chunks, 1) / _US,
            "late_max_us": self.late_max_s / _US,
            "cpu_s": time.process_time(),
        }


class _Server:
    def __init__(self, pace: Namespace) -> None:
        self.pace = pace
        self.stats = _Stats()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while await self._answer_one(reader, writer):
                pass
        writer.close()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection stays."""
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = 0
        for line in head.split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = min(int(line.partition(b":")[2]), _MAX_REQUEST)
        body = await reader.readexactly(length)
        received_ns = time.monotonic_ns()
        if head.startswith(b"post /v1/chat/completions "):
            await self._stream(writer, json.loads(body), received_ns)
        elif head.startswith(b"get /stats "):
            writer.write(_whole(self.stats.document()))
            self.stats = _Stats()
        elif head.startswith(b"get /v1/models "):
            writer.write(_whole({"object": "list", "data": [{"id": "reference"}]}))
        else:
            writer.write(_whole({"error": {"message": "no such path"}}, "404 Not Found"))
        await writer.drain()
        return b"\r\nconnection: close" not in head

    async def _stream(
        self, writer: asyncio.StreamWriter, asked: dict[str, int], received_ns: int
    ) -> None:
        itl_s = asked.get("x_itl_us", self.pace.itl_us) * _US
        due_s = received_ns * 1e-9 + asked.get("x_ttft_us", self.pace.ttft_us) * _US
        if itl_s and asked.get("x_sync", self.pace.sync):
            due_s = -(-due_s // itl_s) * itl_s
        tokens = max(asked.get("max_completion_tokens", asked.get("max_tokens", 128)), 1)
        name = f"chatcmpl-{received_ns:016d}"
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for index in range(tokens):
            await asyncio.sleep(max(due_s - time.monotonic(), 0.0))
            if index == 0:
                writer.write(_event(_content(name, {"role": "assistant", "content": ""}, None)))
            now_ns = time.monotonic_ns()
            text = f" R{received_ns:016d} T{now_ns:016d}" if index == 0 else f" T{now_ns:016d}"
            finish = "length" if index == tokens - 1 else None
            writer.write(_event(_content(name, {"content": text}, finish)))
            self.stats.sent(now_ns * 1e-9 - due_s if itl_s else 0.0)
            await writer.drain()
            due_s = due_s + itl_s if itl_s else time.monotonic()
        usage = {"prompt_tokens": 16, "completion_tokens": tokens, "total_tokens": tokens + 16}
        end = _event({"id": name, "choices": [], "usage": usage})
        writer.write(end + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


def _content(name: str, delta: dict[str, str], finish: str | None) -> dict[str, object]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {"id": name, "object": "chat.completion.chunk", "model": "reference",
            "created": 1700000000, "choices": [choice]}  # fmt: skip


def _event(document: dict[str, object]) -> bytes:
    return _chunk(b"data: " + json.dumps(document).encode() + b"\n\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _whole(document: object, status: str = "200 OK") -> bytes:
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def _run(pace: Namespace) -> None:
    """Serve until the standard input ends, with the process that holds its other end."""
    trust = None
    if pace.certificate:
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trust.load_cert_chain(pace.certificate, pace.key)
    server = await asyncio.start_server(
        _Server(pace).serve, "127.0.0.1", pace.port, backlog=4096, ssl=trust
    )
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.buffer.read)


def main() -> None:
    """Serve with the options of ``server.c``."""
    parser = ArgumentParser(description="Headroom's reference server")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--itl-us", type=int, default=20_000)
    parser.add_argument("--ttft-us", type=int, default=100_000)
    parser.add_argument("--sync", action="store_true")
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
