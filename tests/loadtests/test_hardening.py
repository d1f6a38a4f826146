"""What anybody can send to a master's port: it goes on hearing its workers."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import locust  # first: it patches what the others import
import json, math, random, sys
import gevent, msgpack, msgspec
import zmq.green as zmq
from locust.env import Environment
from loadtests import hardening
from loadtests.orders import Batch, Hello, HELLO, RECORDS
from loadtests.roster import Roster
from loadtests.stream.clock import Clock
from planner.records import RequestRecord

class Ears:
    def __init__(self):
        self.pids, self.records = [], []
    def hello(self, number, pid):
        self.pids.append(pid)
    def take(self, number, record):
        self.records.append(record.id)
    greeted = drained = judge = leaving = lambda *_: None

if "soft" not in sys.argv:
    hardening.install()
runner = Environment(user_classes=[]).create_master_runner("127.0.0.1", 0)
ears = Ears()
roster = Roster(runner, ears)
roster.begin(Clock(), keep=False, folder=None)
sitting = roster._orders.sitting
socket = zmq.Context().socket(zmq.DEALER)
socket.setsockopt(zmq.IDENTITY, b"w1")
socket.connect(f"tcp://127.0.0.1:{runner.server.port}")

def say(kind, data, node="w1"):
    socket.send(msgpack.dumps((kind, data, node)))

say("client_ready", -1)
good = msgpack.dumps(("heartbeat", {"state": "ready", "current_cpu_usage": 1}, "w1"))
rng = random.Random(7)
junk = [good[:i] for i in range(len(good))] + [rng.randbytes(40) for _ in range(200)]
junk += [b"", b"\\xc1", b"\\x91" * 2000, msgpack.dumps(1), msgpack.dumps({}), msgpack.dumps((1, 2))]
junk += [msgpack.dumps({"__datetime__": 1}), msgpack.dumps(("x", {"__datetime__": True}, "w1"))]
for data in junk:
    socket.send(data)
socket.send_multipart([good, good, good])
kinds = ["client_ready", "client_stopped", "heartbeat", "stats", "spawning", "spawning_complete",
         "logs", "quit", "exception", "locustfile", "nonsense"]
kinds += [k for k in runner.custom_messages]
for kind in kinds:
    for data in (None, 1, "x", b"x", [], {}, {"state": 3}, {"user_classes_count": []}, b"\\xc1",
                 msgpack.dumps({}), msgpack.dumps({"sitting": sitting})):
        say(kind, data)
say(["unhashable"], None)
say({}, None, {})
say(HELLO, msgspec.msgpack.encode(Hello(pid=2)), node="another")
say("client_ready", -1)

def record(id, **changes):
    fields = dict(id=id, stage=0, target="t", backend="b", user=0, scheduled_s=0.0, sent_s=0.0,
                  ended_s=1.0, status="ok")
    return RequestRecord(**{**fields, **changes})

records = [record(1), record(2, sent_s=math.nan), record(3, ended_s=math.inf), record(2**64 - 1),
           record(4, stage=-1), record(5, gaps_s=b"abc"), record(6, first_token_s=-math.inf),
           record(7)]
say(RECORDS, msgspec.msgpack.encode(Batch(sitting=sitting, records=records)))
say(RECORDS, msgspec.msgpack.encode(Batch(sitting="another", records=records)))
say(HELLO, msgspec.msgpack.encode(Hello(pid=1)))
with gevent.Timeout(10, False):
    while not ears.pids:
        gevent.sleep(0.01)
print(json.dumps([ears.pids, ears.records]))
"""


def _heard(*options: str) -> list[list[int]]:
    """What the master heard in the end: processes that said hello, and records."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    heard: list[list[int]] = json.loads(done.stdout.splitlines()[-1])
    return heard


def test_master_outlives_what_is_sent_to_it() -> None:
    """After torn, wrong and hostile messages of every kind a worker is still heard.

    Of a batch only those records count that a measurement can give.
    """
    assert _heard() == [[1], [1, 7]]


def test_without_it_the_master_is_deaf() -> None:
    """Locust's own master hears nothing more after them: if it does one day, ours is not needed."""
    assert _heard("soft") == [[], []]
