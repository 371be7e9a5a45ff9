"""A deployment from its files to its report: connect, examine, ask, run episodes, record."""

import dataclasses
import functools
import getpass
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from types import TracebackType

from actquant.common.errors import (
    DeployError,
    NotAllowedError,
    RecordingError,
    RobotError,
    StoppedError,
)
from actquant.common.interrupts import look_again
from actquant.common.tables import plain
from actquant.control.chunk_scheduler import ChunkScheduler
from actquant.deploy import tables
from actquant.deploy.episode import Episode, Rules
from actquant.deploy.events import EventLog
from actquant.deploy.gripper import permit_activation
from actquant.deploy.journal import Journal
from actquant.deploy.operator import Operator
from actquant.deploy.policy import Noise, Seen, TimedPolicy
from actquant.deploy.preflight import Preflight, examine
from actquant.deploy.recording import Recorder, header_of, require_lerobot
from actquant.deploy.report import DeploymentReport, Ending, EpisodeReport
from actquant.deploy.rerun_log import RerunLog
from actquant.deploy.robot import Robot, make_robot
from actquant.deploy.settings import DeploySettings, ExitCode
from actquant.deploy.stopping import StopRequest, interruptible, keys, signals

RECOVER = "recover"


class Session:
    """A policy on a connected robot; a context manager that connects and disconnects.

    Raises DeployError from its constructor for what does not fit, RecordingError where there is
    nothing to record with, and DeployError on entering if the robot cannot be reached.
    """

    def __init__(self, settings: DeploySettings, operator: Operator) -> None:
        self.settings, self.operator = settings, operator
        self.policy = TimedPolicy(settings.model, settings.threads, settings.device)
        self.robot: Robot = make_robot(settings, self.policy)
        self.recorder = Recorder(settings.record) if settings.record else None
        _demand_steps(settings, self.policy)
        if self.recorder is not None:
            require_lerobot()
        self._scheduler = ChunkScheduler(
            self.policy.act,
            mode=settings.mode,
            steps_per_chunk=settings.steps_per_chunk or self.policy.steps_per_chunk,
            execution_horizon=settings.execution_horizon,
            supports_guidance=self.policy.supports_guidance,
            clock=self.robot.port.clock,
        )
        self._stack = ExitStack()
        self.stop = StopRequest()

    def __enter__(self) -> "Session":
        with ExitStack() as stack:
            stack.callback(self._scheduler.close)
            self._open_files(stack)
            permit_activation(self.settings, self.robot, self.operator)
            self._connect(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _open_files(self, stack: ExitStack) -> None:
        settings = self.settings
        stamp = datetime.now().strftime("%Y-%m-%dT%H-%M-%S.%f")[:-3]
        self.events = EventLog(settings.log / f"{stamp}.events.jsonl")
        stack.callback(self.events.close)
        self.report_path = settings.log / f"{stamp}.report.json"
        self.events.add("deployment", str(settings.model), settings=dataclasses.asdict(settings))
        self._rerun = RerunLog(settings.rerun, self.policy) if settings.rerun else None
        if self._rerun is not None:
            stack.callback(self._abandon_rerun)
        if self.recorder is not None:
            stack.enter_context(self.recorder)
            salvage(self.recorder, self.operator, self.events)

    def _connect(self, stack: ExitStack) -> None:
        port = self.robot.port
        try:
            port.connect()
        except StoppedError as stopped:
            _demand_recovery(self.operator, str(stopped))
            port.bring_back()
            port.connect()
        stack.callback(port.disconnect)

    def run_episode(
        self,
        number: int,
        *,
        noise: Noise | None = None,
        is_done: Callable[[], bool] | None = None,
        max_seconds: float | None = None,
        max_actions: int | None = None,
    ) -> EpisodeReport:
        """Runs one episode, recorded if the settings say so; it ends with the arm at rest or
        stopped.

        Keys and signals stop it (see `stopping`); `stop` tells afterwards whether to go on.
        """
        settings = self.settings
        rules = Rules(
            max_seconds=(max_seconds or settings.max_seconds) / settings.speed,
            max_refusals=settings.max_refusals,
            dry_run=settings.dry_run,
            is_done=is_done,
            max_actions=max_actions,
            settle_s=self._settle_s,
        )
        self.events.set_context(episode=number)
        self.policy.begin_episode(noise or self._noise(number))
        self.stop = StopRequest(self._stop_arm)
        with signals(self.stop), keys(self.stop):
            episode = Episode(
                number,
                self.robot,
                self.policy,
                self._scheduler,
                rules,
                self.events,
                self.stop,
                functools.partial(self._begin_journal, number) if self.recorder else None,
                self._rerun,
            )
            try:
                report = episode.run()
            finally:
                if episode.journal is not None:
                    episode.journal.close()
            if episode.journal is not None:
                self._commit(episode.journal.folder, report)
        return report

    @property
    def _settle_s(self) -> float:
        """Slower motion takes longer; but the servo must not miss the next action meanwhile."""
        if self.settings.dry_run:
            return 0.0
        limit = self.robot.port.stop_after_s / 2
        return min(self.settings.settle_s / self.settings.speed, limit)

    def _noise(self, number: int) -> Noise:
        if self.settings.seed is None:
            return lambda chunk: None
        return self.policy.seeded_noise(self.settings.seed, self.settings.task, number)

    def _stop_arm(self, by: str) -> None:
        """Stops in a controlled way at once, without waiting for the loop's next tick."""
        self.events.add("stop", by)
        try:
            if self.stop.leave:
                self.robot.port.stop(by)
            else:
                self.robot.port.interrupt()
        except RobotError as error:
            self.events.add("stop failed", str(error))

    def _begin_journal(self, number: int, seen: Seen) -> Journal:
        assert self.recorder is not None
        header = header_of(self.settings, self.robot, self.policy, seen, number)
        return self.recorder.begin(header)

    def _commit(self, folder: Path, report: EpisodeReport) -> None:
        """Makes an episode of the journal; if that fails it is kept, and the report says so."""
        assert self.recorder is not None
        try:
            report.dataset_frames = self.recorder.commit(folder)
        except RecordingError as error:
            self.events.add("recording failed", str(error))
            was = f"{report.ending.kind} ({report.ending.detail})"
            report.ending = Ending(
                kind="recording", detail=f"{error}; the episode itself ended by: {was}"
            )

    def _abandon_rerun(self) -> None:
        try:
            self.close_rerun()
        except RecordingError as error:
            self.events.add("recording failed", str(error))

    def close_rerun(self) -> None:
        """Raises RecordingError if the rerun file could not be written whole."""
        rerun, self._rerun = self._rerun, None
        if rerun is not None:
            rerun.close()


def _demand_steps(settings: DeploySettings, policy: TimedPolicy) -> None:
    steps = settings.steps_per_chunk
    if steps is not None and steps > policy.chunk_length:
        raise DeployError(
            f"--steps-per-chunk {steps}; the policy's chunks have {policy.chunk_length} actions"
        )


def deploy(settings: DeploySettings, operator: Operator) -> DeploymentReport:
    """Runs the whole of `actquant deploy`. The report is written however the episodes end.

    Raises DeployError where it cannot begin, NotAllowedError where it must not.
    """
    with Session(settings, operator) as session:
        preflight = examine(session.robot, session.policy, settings)
        operator.tell(tables.preflight(preflight))
        session.events.add("preflight", rows=preflight.model_dump()["rows"])
        _demand_permission(preflight, settings, operator)
        report = _report(session, preflight)
        try:
            report.exit_code = _run_episodes(session, report.episodes)
        finally:
            report.servo_jitter = session.robot.port.jitter()
            _finish(session, report)
    return report


def _finish(session: Session, report: DeploymentReport) -> None:
    """Closes the rerun file and writes the report; what cannot be written is told, and is
    ExitCode.RECORDING."""
    try:
        session.close_rerun()
    except RecordingError as error:
        _tell_of_recording(session, report, str(error))
    try:
        report.write(session.report_path)
    except OSError as error:
        _tell_of_recording(session, report, f"no report at {session.report_path}: {error}")


def _tell_of_recording(session: Session, report: DeploymentReport, what: str) -> None:
    session.events.add("recording failed", what)
    session.operator.tell(plain(what, "red"))
    report.exit_code = report.exit_code or ExitCode.RECORDING


def _demand_permission(preflight: Preflight, settings: DeploySettings, operator: Operator) -> None:
    if preflight.errors:
        named = "\n".join(f"- {row.what}: {row.value}" for row in preflight.errors)
        raise NotAllowedError(
            f"the check before motion found\n{named}\n"
            "(--allow-unusual-state lets an unusual state pass, if it is truly right)"
        )
    if settings.dry_run or settings.yes:
        return
    if not operator.is_present:
        raise NotAllowedError(
            "nobody is at the terminal to allow motion; --yes allows it beforehand"
        )
    answer = operator.ask("The arm will move. Space or q stops it. Type yes to begin:")
    if answer.lower() not in ("yes", "y"):
        raise NotAllowedError("the operator did not allow motion")


def _run_episodes(session: Session, episodes: list[EpisodeReport]) -> ExitCode:
    """Appends each episode's report to `episodes`. The exit code is of the first that went wrong;
    where none did, it says what ended the deployment."""
    settings, operator = session.settings, session.operator
    code = ExitCode.DONE
    for number in range(settings.episodes):
        look_again()
        # A signal may have come whose exception was swallowed.
        if number and (not _go_on(session, episodes[-1]) or session.stop.leave):
            break
        report = session.run_episode(number)
        episodes.append(report)
        operator.tell(tables.ending(report))
        code = code or report.ending.exit_code
        if session.stop.leave:
            break
    by_signal = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}
    number = session.stop.signal_number
    return code or (by_signal[signal.Signals(number)] if number else ExitCode.DONE)


def _go_on(session: Session, last: EpisodeReport) -> bool:
    """Returns whether another episode may begin after `last`; recovers with the operator's word.

    After a stop of the operator's it always takes their word, whatever was allowed beforehand.
    """
    settings, operator = session.settings, session.operator
    if last.ending.kind in ("recording", "policy", "robot error"):
        return False
    try:
        with interruptible(session.stop):
            if session.robot.port.stopped is not None or last.ending.kind == "stopped":
                return _recover(session, last)
            if (settings.yes or settings.dry_run) and not session.stop.is_set:
                return True
            answer = operator.ask("Enter begins the next episode, q ends:")
    except KeyboardInterrupt:
        return False
    return operator.is_present and answer.lower() != "q"


def _recover(session: Session, last: EpisodeReport) -> bool:
    try:
        _demand_recovery(session.operator, last.ending.detail)
        session.robot.port.recover(getpass.getuser())
    except NotAllowedError:
        return False
    except RobotError as error:
        session.operator.tell(plain(f"It cannot be recovered from here: {error}", "red"))
        return False
    return True


def _demand_recovery(operator: Operator, why: str) -> None:
    """Raises NotAllowedError unless the operator gives the word."""
    operator.tell(f"The arm has stopped: {why}")
    word = operator.ask(
        f"Look at the arm and what it stopped for. Type {RECOVER} when it may move again:"
    )
    if word != RECOVER:
        raise NotAllowedError(f"the arm has stopped and nobody let it recover: {why}")


def _report(session: Session, preflight: Preflight) -> DeploymentReport:
    """Returns the report of a deployment without an episode, which fails if nobody says
    otherwise."""
    settings = session.settings
    return DeploymentReport(
        model=str(settings.model),
        robot=settings.robot,
        task=settings.task,
        mode=settings.mode,
        speed=settings.speed,
        dry_run=settings.dry_run,
        controller=session.robot.port.identity(),
        control_rate_hz=session.policy.rate_hz,
        preflight=preflight.model_dump()["rows"],
        episodes=[],
        servo_jitter={},
        event_log=str(session.events.path),
        exit_code=1,
    )


def salvage(
    recorder: Recorder, operator: Operator, events: EventLog | None = None
) -> dict[str, int]:
    """Makes episodes of the journals that a crash left; their frames by the journal's name.

    Raises RecordingError if one cannot be; it is kept.
    """
    begin = time.monotonic()
    salvaged = {path.name: frames for path, frames in recorder.salvage().items()}
    for name, frames in salvaged.items():
        operator.tell(f"{name}, left by an earlier run, is now an episode of {frames} frames")
        if events is not None:
            seconds = time.monotonic() - begin
            events.add("salvaged", name, frames=frames, seconds=seconds)
    return salvaged
