"""A run in the making: its targets, its folder, and the stages measured so far."""

from __future__ import annotations

import itertools
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import gevent
import msgspec

from loadtests.measure.continued import continued
from loadtests.measure.facts import client_facts
from loadtests.measure.interrupt import interruptible
from loadtests.measure.neighbours import Neighbours, interrupted, outcome_of
from loadtests.measure.preparing import prepare
from loadtests.measure.telemetry import ServerWatch
from loadtests.stream.clock import Clock
from planner import __version__
from planner.errors import HeadroomError, InputError
from planner.lock import FolderLock
from planner.manifest import is_run
from planner.records import RunManifest, StageInfo
from planner.runfolder import Run, RunWriter, check_new, read_run
from planner.server_view import disagreements
from planner.shapes import OwnHardware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from loadtests.crew import Crew
    from loadtests.measure.session import Session, Traffic
    from loadtests.measure.stage import StageLimits, StageProgress
    from loadtests.openloop import OpenLoad
    from loadtests.targets import Target
    from planner.records import (
        LoadKind,
        PlanContext,
        RequestRecord,
        TelemetrySample,
        WorkerInfo,
    )

__all__ = ["Campaign"]

_FLUSH_EVERY_S = 1.0


@dataclass(kw_only=True)
class Campaign:
    """The targets, the stages so far and the folder that keeps them.

    Attributes:
        sessions: by the targets' names.
        manifest: of the run, always as it stands in the folder.
        writer: of the folder; ``None`` keeps nothing (Locust's own screens only).
        failure: why the folder can no longer be written, once that is so.
    """

    sessions: dict[str, Session]
    manifest: RunManifest
    clock: Clock
    writer: RunWriter | None
    failure: HeadroomError | None = None
    _flusher: gevent.Greenlet[..., None] | None = None

    @classmethod
    @contextmanager
    def open(
        cls,
        out: Path,
        targets: Sequence[Target],
        traffic: Traffic,
        *,
        plan: PlanContext | None = None,
        telemetry: bool = True,
        hardware: OwnHardware | None = None,
    ) -> Iterator[Campaign]:
        """Measure within the block. Whatever ends it, Ctrl-C included, what was measured is kept.

        With ``telemetry`` each server is asked for its own figures while it is under load. What
        ``hardware`` tells of the user's own GPUs and models is kept, to judge the run by.

        Raises:
            TargetError: a target cannot be measured; nothing has been written then.
            InputError: the folder cannot be used.
        """
        with interruptible():
            campaign = cls.begin(out, targets, traffic, plan=plan)
            if telemetry:
                campaign.watch()
            state: Literal["complete", "interrupted"] = "interrupted"
            try:
                campaign.keep_hardware(hardware)
                yield campaign
                state = "complete"
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"what was measured is kept in {out}") from None
            finally:
                campaign.end(state)

    @classmethod
    def begin(
        cls,
        out: Path | None,
        targets: Sequence[Target],
        traffic: Traffic,
        *,
        plan: PlanContext | None = None,
    ) -> Campaign:
        """Look at every target, then begin the run folder, or go on with a kept one.

        A folder that cannot be used is refused before any server is looked at.
        """
        if out is None or not is_run(out):
            if out is not None:
                check_new(out)
            return cls._begin(out, targets, traffic, plan, None, None)
        lock = FolderLock(out)  # before the run is read: what another process adds is not lost
        try:
            return cls._begin(out, targets, traffic, plan, read_run(out, gaps=False), lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _begin(
        cls,
        out: Path | None,
        targets: Sequence[Target],
        traffic: Traffic,
        plan: PlanContext | None,
        kept: Run | None,
        lock: FolderLock | None,
    ) -> Campaign:
        clock = Clock(kept.manifest.started_unix_s if kept else None)
        sessions = {target.name: prepare(target, traffic, clock) for target in targets}
        infos = tuple(session.info for session in sessions.values())
        if kept is not None:
            manifest = continued(kept.manifest, infos, traffic.workload, plan)
        else:
            manifest = RunManifest(
                headroom_version=__version__,
                started_unix_s=clock.started_unix_s,
                state="running",
                seed=traffic.seed,
                targets=infos,
                workload=traffic.workload,
                client=client_facts(),
                plan=plan,
            )
        writer = None
        if out is not None and kept is not None:
            writer = RunWriter.resume(out, lock=lock)
            writer.update(manifest)
        elif out is not None:
            writer = RunWriter.create(out, manifest)
        campaign = cls(sessions=sessions, manifest=manifest, clock=clock, writer=writer)
        ids = itertools.count(len(kept.requests) if kept else 0)
        for session in sessions.values():
            session.sink, session.ids = campaign._keep, ids
        campaign._flusher = gevent.spawn(campaign._flush)
        return campaign

    def end(self, state: Literal["complete", "interrupted"]) -> None:
        """Write the run folder's final form."""
        if self._flusher is not None:
            self._flusher.kill(block=False)  # a wait here is where a second Ctrl-C would strike
        self.manifest = msgspec.structs.replace(self.manifest, state=state)
        if self.writer is not None:
            self._note_servers(self.writer)
            self._note_resent()
            self.writer.finish(self.manifest)

    def keep_hardware(self, own: OwnHardware | None) -> None:
        """Put the user's own GPUs and models into the manifest, beside those of a kept run."""
        if own is None or own == OwnHardware():
            return
        before = self.manifest.hardware
        both = OwnHardware(gpus=before.gpus | own.gpus, models=before.models | own.models)
        self.manifest = msgspec.structs.replace(self.manifest, hardware=both)
        if self.writer is not None:
            self.writer.update(self.manifest)

    def watch(self) -> None:
        """Look at the servers themselves in all stages from now on."""
        for session in self.sessions.values():
            session.watch = ServerWatch(session, self._keep_sample)

    def _note_servers(self, writer: RunWriter) -> None:
        """Tell in the notes where a server's own figures are missing, or differ from ours."""
        watches = [s.watch for s in self.sessions.values() if s.watch is not None]
        for watch in watches:
            self.note_texts(watch.notes)
        if watches:
            with suppress(HeadroomError):  # what was measured is to be finished in any case
                writer.flush()
                self.note_texts(disagreements(read_run(writer.path, gaps=False)))

    def _note_resent(self) -> None:
        """Tell of requests that a server may have counted twice."""
        for name, session in self.sessions.items():
            if session.resent:
                count = session.resent
                were = "request was" if count == 1 else "requests were"
                text = f"target {name}: {count} {were} sent twice, because the server closed kept "
                text += f"connections; it may have counted {count} more than this run"
                self.note_texts([text])

    def _keep_sample(self, sample: TelemetrySample) -> None:
        """Take what a server told of itself."""
        if self.writer is not None and self.failure is None:
            try:
                self.writer.sample(sample)
            except HeadroomError as error:
                self.failure = error

    def _keep(self, record: RequestRecord) -> None:
        """Take a finished request. It comes from a user's greenlet, which must not die of this."""
        if self.writer is not None and self.failure is None:
            try:
                self.writer.append(record)
            except HeadroomError as error:
                self.failure = error
            except Exception as error:  # noqa: BLE001 - whatever it is, the run must end by it
                self.failure = HeadroomError(
                    f"the record of request {record.id} cannot be kept "
                    f"({type(error).__name__}: {error}): a fault of Headroom; what was measured "
                    "before it is kept"
                )
                self.failure.__cause__ = error

    def _flush(self) -> None:
        while self.writer is not None and self.failure is None:
            gevent.sleep(_FLUSH_EVERY_S)
            try:
                self.writer.flush()
            except HeadroomError as error:
                self.failure = error

    def begin_stage(
        self,
        target: str,
        load_kind: LoadKind,
        load: float,
        *,
        think_time_s: float = 0.0,
        arrivals: str | None = None,
        invalid: str | None = None,
        together: tuple[str, ...] = (),
    ) -> StageInfo:
        """A new stage, in the manifest from its start on; new requests belong to it."""
        stage = StageInfo(
            index=len(self.manifest.stages),
            target=target,
            load_kind=load_kind,
            load=load,
            think_time_s=think_time_s,
            arrivals=arrivals,
            started_s=self.clock.now(),
            invalid=invalid,
            together=together,
        )
        session = self.sessions[target]
        session.stage, session.think_time_s = stage.index, think_time_s
        self.note(stage)
        return stage

    def note(self, stage: StageInfo) -> None:
        """Put a stage into the manifest, in place of what was known of it."""
        stages = list(self.manifest.stages)
        stages[stage.index :] = [stage, *stages[stage.index + 1 :]]
        self.manifest = msgspec.structs.replace(self.manifest, stages=tuple(stages))
        if self.writer is not None:
            self.writer.update(self.manifest)

    def measure(
        self,
        target: str,
        load_kind: LoadKind,
        load: float,
        limits: StageLimits,
        *,
        think_time_s: float = 0.0,
        open_load: OpenLoad | None = None,
        crew: Crew | None = None,
        on_progress: Callable[[StageProgress], None] = lambda _: None,
    ) -> StageInfo:
        """Measure one level on one target.

        Raises:
            InputError: the run folder cannot be written any more.
        """
        from loadtests.measure.stage import run_stage  # imports locust, which patches the process

        def check(progress: StageProgress) -> None:
            if self.failure is not None:
                raise self.failure
            on_progress(progress)

        stage = self.begin_stage(
            target, load_kind, load,
            think_time_s=think_time_s, arrivals=open_load.pattern.spec if open_load else None,
        )  # fmt: skip
        try:
            stage = run_stage(
                self.sessions[target], stage, limits,
                open_load=open_load, crew=crew, on_progress=check,
            )  # fmt: skip
        except BaseException:
            stage = interrupted(stage, self.clock.now())
            raise
        finally:
            if crew is not None:
                self.note_texts(crew.notes)
                self.note_workers(crew.infos())
            self.note(stage)
        if self.failure is not None:  # of a record that came with the stage's end
            raise self.failure
        return stage

    def measure_together(
        self,
        load_kind: LoadKind,
        load: float,
        limits: StageLimits,
        *,
        think_time_s: float = 0.0,
        open_load: OpenLoad | None = None,
        on_progress: Callable[[StageProgress], None] = lambda _: None,
    ) -> tuple[StageInfo, ...]:
        """Measure one level on every target at the same time; the stages begin and end together.

        Raises:
            InputError: the run folder cannot be written any more.
        """
        from loadtests.measure.stage import run_stage  # imports locust, which patches the process

        def check(progress: StageProgress) -> None:
            if self.failure is not None:
                raise self.failure
            if progress.stage.target == first:  # one line tells of all
                on_progress(progress)

        first = next(iter(self.sessions))
        neighbours = Neighbours(self.sessions)
        stages = [
            self.begin_stage(
                name, load_kind, load,
                think_time_s=think_time_s, arrivals=open_load.pattern.spec if open_load else None,
                together=tuple(other for other in self.sessions if other != name),
            )
            for name in self.sessions
        ]  # fmt: skip
        running = [
            gevent.spawn(
                outcome_of, run_stage, self.sessions[stage.target], stage, limits,
                open_load=open_load, neighbours=neighbours, on_progress=check,
            )
            for stage in stages
        ]  # fmt: skip
        try:
            gevent.joinall(running)
        finally:
            gevent.killall(running)
            for stage, greenlet in zip(stages, running, strict=True):
                ended = greenlet.value if isinstance(greenlet.value, StageInfo) else None
                self.note(ended or interrupted(stage, self.clock.now()))
        for greenlet in running:
            if isinstance(greenlet.value, Exception):
                raise greenlet.value
        if self.failure is not None:
            raise self.failure
        return tuple(self.manifest.stages[stage.index] for stage in stages)

    def note_texts(self, texts: Sequence[str]) -> None:
        """Add to the manifest's notes what is not among them."""
        notes = self.manifest.notes
        new = tuple(text for text in texts if text not in notes)
        self.manifest = msgspec.structs.replace(self.manifest, notes=notes + new)

    def note_workers(self, workers: Sequence[WorkerInfo]) -> None:
        """Put workers into the manifest, in place of what was known of them."""
        known = {(w.number, w.joined_s): w for w in (*self.manifest.workers, *workers)}
        self.manifest = msgspec.structs.replace(self.manifest, workers=tuple(known.values()))

    def run(self) -> Run:
        """What was measured so far, as any reader of the folder would see it.

        Raises:
            InputError: the campaign keeps no folder.
        """
        if self.writer is None:
            raise InputError("nothing is kept of this run: name a folder to write")
        self.writer.flush()
        return read_run(self.writer.path)
