"""Makes a plain ``locust -f`` run a Headroom run: options, a look at the server, records.

Importing this module hooks it into Locust. Every locustfile here does so by importing
``ChatUser`` from it. Options may come from the command line, Locust's configuration file,
``LOCUST_HEADROOM_…`` variables, or the form of the web UI.
"""

from __future__ import annotations

import logging
import sys
from argparse import SUPPRESS
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
import msgspec
from locust import events
from locust.runners import MasterRunner, WorkerRunner

from loadtests import hardening, locust_stats
from loadtests.dialects import DEFAULT_API
from loadtests.live import LiveRun
from loadtests.measure.interrupt import interrupt_here
from loadtests.member import Member
from loadtests.options import OUTPUT_TOKENS, PROMPT_TOKENS
from loadtests.remote import Remote
from loadtests.resolve import traffic_of
from loadtests.stagetab import StageTab
from loadtests.targets import parse_target, unique_names
from loadtests.users import ChatUser
from planner.errors import HeadroomError, InputError, Refused
from planner.units import parse_duration

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable, Sequence

    from locust.argument_parser import LocustArgumentParser
    from locust.env import Environment
    from locust.runners import Runner

    from loadtests.gating import LiveGate
    from loadtests.histograms import StageHistograms
    from loadtests.targets import Target
    from planner.records import StageInfo

__all__ = ["ChatUser"]

locust_stats.install()
hardening.install()

_LOG = logging.getLogger("headroom")
_OPTIONS = (
    ("model", "", "Model to ask for, where the server has several."),
    ("prompt_tokens", PROMPT_TOKENS, "Distribution of prompt lengths."),
    ("output_tokens", OUTPUT_TOKENS, "Distribution of answer lengths."),
    ("think_time", "0s", "Mean pause of a user, as in 10s; 0s keeps a request in flight for each."),
    ("seed", "1", "Seed of lengths and pauses; the words of prompts are always new."),
    ("out", "", "Run folder to write, for headroom recommend and headroom report."),
)
_GATE_OPTIONS = (
    ("gates", "TOML file of rules that set the exit code; see headroom gate."),
    ("gates_baseline", "Run folder or file that rules compare with."),
)
_HOST_OPTIONS = {
    "llamacpp_host": "http://127.0.0.1:8080",
    "ollama_host": "http://127.0.0.1:11434",
    "vllm_host": "http://127.0.0.1:8000",
}


@events.init_command_line_parser.add_listener
def _add_options(parser: LocustArgumentParser) -> None:
    for name, default, text in _OPTIONS:
        variable = f"LOCUST_HEADROOM_{name.upper()}"
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, default=default, env_var=variable, help=text)
    parser.add_argument(
        "--no-telemetry",
        action="store_true",
        env_var="LOCUST_HEADROOM_NO_TELEMETRY",
        help="Do not ask the servers for their own figures (/metrics, /slots, /api/ps) once a "
        "second, nor look at the processes and GPUs of those on this machine. Without --out "
        "nothing is asked either.",
    )
    for name, text in _GATE_OPTIONS:
        variable = f"LOCUST_HEADROOM_{name.upper()}"
        option = f"--{name.replace('_', '-')}"
        # Not in the form of the web UI: it would let anybody there name files.
        parser.add_argument(
            option, default="", env_var=variable, include_in_web_ui=False, help=text
        )
    for option in ("--rate", "--arrivals"):
        # Refused at the start: without them Locust's parser would only call them unrecognized.
        parser.add_argument(option, default="", include_in_web_ui=False, help=SUPPRESS)
    for name, default in _HOST_OPTIONS.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            default=default,
            include_in_web_ui=False,
            help="Used by all_backends.py; an empty value leaves this backend out.",
        )


@events.init.add_listener
def _hook(environment: Environment, runner: Runner, **_: Any) -> None:
    """Attach a run to an environment that has chat users."""
    # The loop's time stood still during imports: -t would count from before them.
    gevent.get_hub().loop.update_now()
    options = environment.parsed_options
    classes = [c for c in environment.user_classes if issubclass(c, ChatUser)]
    left_out = [c for c in classes if c.host_option and not getattr(options, c.host_option)]
    environment.user_classes = [c for c in environment.user_classes if c not in left_out]
    chatting = [c for c in classes if c not in left_out]
    if left_out and not environment.user_classes:
        names = ", ".join(f"--{c.host_option}".replace("_", "-") for c in left_out)
        _LOG.error("every backend is left out: give one of %s", names)
        sys.exit(InputError.exit_code)
    if chatting:
        interrupt_here()
    if chatting and isinstance(runner, WorkerRunner):
        Member(runner, chatting)  # the master says what there is to do
    elif chatting and options is not None:
        if options.gates:
            # Now, since the time of a test runs while its start loads what it needs.
            import loadtests.gating  # noqa: F401
        hooks = _Hooks(environment, runner, options, chatting)
        environment.events.test_start.add_listener(hooks.start)
        environment.events.spawning_complete.add_listener(hooks.settle)
        environment.events.test_stopping.add_listener(hooks.stop)
        environment.events.test_stop.add_listener(hooks.end)
        if environment.web_ui is not None:
            StageTab(hooks.figures).add_to(environment.web_ui)


class _Hooks:
    """The run of one environment: begun at each test start, ended at each test stop."""

    def __init__(
        self,
        environment: Environment,
        runner: Runner,
        options: Namespace,
        classes: Sequence[type[ChatUser]],
    ) -> None:
        self.environment = environment
        self.runner = runner
        self.options = options
        self.classes = classes
        self.live: LiveRun | None = None
        self.last: LiveRun | None = None  # still shown when it has ended
        self._gate: LiveGate | None = None
        self._told = ""
        self.remote = Remote(runner) if isinstance(runner, MasterRunner) else None

    def start(self, **_: Any) -> None:
        """Look at the servers; a server that cannot be measured ends the test."""
        # Until its rules are judged a gate has shown nothing.
        self.environment.process_exit_code = Refused.exit_code if self.options.gates else None
        self._told = ""
        try:
            self.live = self.last = self._begin()
        except HeadroomError as error:
            self._fail(error)

    def _begin(self) -> LiveRun:
        options = self.options
        if options.rate or options.arrivals:
            raise InputError(
                "Locust's users wait for their answers, so that a rate would sink with the "
                "server's pace: use headroom measure --rate "
                f"{options.rate or '20/s'}{' --arrivals ' * bool(options.arrivals)}"
                f"{options.arrivals}, which waits for nobody"
            )
        traffic = traffic_of(
            prompt_tokens=options.prompt_tokens,
            output_tokens=options.output_tokens,
            seed=_seed(str(options.seed)),
        )
        self._gate = None
        if options.gates:
            from loadtests.gating import LiveGate

            self._gate = LiveGate.begin(options.gates, options.gates_baseline, options.out)
        elif options.gates_baseline:
            raise InputError("--gates-baseline without --gates: name the rules that compare")
        targets = unique_names([self._target(user_class) for user_class in self.classes])
        return LiveRun.begin(
            self.environment,
            dict(zip(self.classes, targets, strict=True)),
            traffic,
            think_time_s=parse_duration(options.think_time, what="--think-time"),
            out=self._gate.folder if self._gate else Path(options.out) if options.out else None,
            telemetry=not options.no_telemetry,
            remote=self.remote,
            on_failure=self._fail,
        )

    def _target(self, user_class: type[ChatUser]) -> Target:
        """The target of a user class, from ``--host`` or the class's own option."""
        option = user_class.host_option
        host = getattr(self.options, option) if option else self.environment.host
        host = host or user_class.host
        if not host:
            raise InputError("no server is named: give its address as --host http://127.0.0.1:8000")
        target = parse_target(f"{user_class.backend}={host}")
        return msgspec.structs.replace(
            target, model=self.options.model or None, api=DEFAULT_API[target.backend]
        )

    def settle(self, user_count: int, **_: Any) -> None:
        """Each new number of users is a stage of its own."""
        if self.live is not None and user_count:
            try:
                self.live.settle()
            except HeadroomError as error:
                self._fail(error)

    def stop(self, **_: Any) -> None:
        """Measure no more: the users are about to be stopped."""
        if self.live is not None:
            self.live.stop()

    def end(self, **_: Any) -> None:
        """Write what was measured."""
        live, self.live = self.live, None
        if live is None and self.options.gates and not self._told:
            self._tell(Refused("the test ended before it began to measure: give it longer (-t)"))
        if live is not None:
            try:
                live.end()
                if self._gate is not None:
                    # Also 0: failed requests are for the rules to judge, not for Locust.
                    self.environment.process_exit_code = self._gate.judge()
            except HeadroomError as error:
                self._tell(error)

    def figures(self) -> Iterable[tuple[StageInfo, StageHistograms]]:
        """The stages of the running test, or of the last one."""
        return self.last.figures() if self.last is not None else ()

    def _fail(self, error: HeadroomError) -> None:
        """Say it and end the test."""
        self._tell(error)
        headless = self.environment.web_ui is None
        # From a greenlet of its own: Locust is in the middle of starting. Its web UI stays.
        gevent.spawn(self.runner.quit if headless else self.runner.stop)

    def _tell(self, error: HeadroomError) -> None:
        """Say it in the log and in the web UI's table of exceptions, and end with its exit code."""
        if str(error) == self._told:  # a full disk also fails the end
            return
        self._told = str(error)
        _LOG.error("%s", error)
        self.runner.log_exception("local", str(error), "")
        self.environment.process_exit_code = error.exit_code


def _seed(text: str) -> int:
    """The seed in a text.

    Raises:
        InputError: not a whole number from 0 to 2^32 - 1.
    """
    if not text.strip().isdecimal() or int(text) >= 2**32:
        raise InputError(f"--seed {text[:40]!r} is not a whole number from 0 to {2**32 - 1}")
    return int(text)
