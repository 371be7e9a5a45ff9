"""What is looked at before anything moves: one table, and whether it allows to go on."""

import dataclasses
import time
from itertools import combinations
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from actquant.common.errors import DeployError, RobotError
from actquant.control.window import ObservationWindow
from actquant.deploy.policy import Seen, TimedPolicy
from actquant.deploy.recording import Recorder, header_of
from actquant.deploy.robot import LONGEST_THOUGHT_S, Robot, missing_cameras
from actquant.deploy.settings import DeploySettings

UNUSUAL_Z = 5.0
"""Standard deviations (or what the file has in their place) from the training data's mean beyond
which a state is taken for wrong."""
UNUSUAL_WIDTHS = 2.0
"""Half widths from the middle of the training data's range, likewise: 1 is its end."""
_NEVER_VARIED = 1e-4  # times the value: what varied by less did not vary
_SAME_ASPECT = 0.01
_TRAINED = "state in training"
_TRIALS = 3
OK, WARNING, ERROR = "ok", "warning", "error"


class Row(BaseModel):
    """One line of the table; `verdict` is ok, warning or error."""

    model_config = ConfigDict(extra="forbid")

    what: str
    value: str
    verdict: str = OK


class Preflight(BaseModel):
    model_config = ConfigDict(extra="forbid")

    rows: list[Row]

    @property
    def errors(self) -> list[Row]:
        return [row for row in self.rows if row.verdict == ERROR]


def examine(robot: Robot, policy: TimedPolicy, settings: DeploySettings) -> Preflight:
    """Examines a connected robot and runs the policy; nothing moves.

    Raises DeployError if no observation can be had or the policy fails on it.
    """
    try:
        seen = robot.observe()
    except RobotError as error:
        raise DeployError(f"no observation can be made: {error}") from error
    rows = _robot_rows(robot)
    rows += _camera_rows(robot, policy, seen, settings)
    rows += _state_rows(policy, seen, settings.allow_unusual_state)
    rows += _policy_rows(robot, policy, seen, settings)
    rows += _recording_rows(robot, policy, seen, settings)
    return Preflight(rows=rows)


def _robot_rows(robot: Robot) -> list[Row]:
    return [
        Row(what=fact.what, value=fact.value, verdict=OK if fact.is_usual else WARNING)
        for fact in robot.port.facts()
    ]


def _camera_rows(
    robot: Robot, policy: TimedPolicy, seen: Seen, settings: DeploySettings
) -> list[Row]:
    rows = []
    now = time.monotonic()
    times = robot.picture_times()
    for name, camera in robot.port.cameras.items():
        taken = times[name]
        age = "age unknown" if taken is None else f"{1e3 * (now - taken):.0f} ms old"
        size, verdict = _size(seen.raw[name].shape, camera, policy, settings)
        rows.append(Row(what=name, value=f"{size}, {age}", verdict=verdict))
        if float(np.ptp(seen.raw[name])) == 0:
            rows.append(Row(what=name, value="one colour all over: covered?", verdict=ERROR))
    for first, second in combinations(robot.port.cameras, 2):
        if np.array_equal(seen.raw[first], seen.raw[second]):
            both = f"the same picture as {second}: is one named wrongly?"
            rows.append(Row(what=first, value=both, verdict=ERROR))
    for name in missing_cameras(policy, list(robot.port.cameras)):
        rows.append(Row(what=name, value="not there; the policy can do without", verdict=WARNING))
    return rows


def _size(
    shape: tuple[int, ...], camera: Any, policy: TimedPolicy, settings: DeploySettings
) -> tuple[str, str]:
    """Returns the size of a camera's pictures, what becomes of it, and the verdict."""
    own, wanted = (camera.height, camera.width), policy.image_size
    size = f"{own[0]} × {own[1]}"
    if own == wanted:
        return size, OK
    trained = f"{wanted[0]} × {wanted[1]}"
    if not settings.resize:
        return f"{size}, the policy was trained on {trained}: --resize", WARNING
    changes = []
    if own[0] < wanted[0] or own[1] < wanted[1]:
        changes.append("enlarged, which adds no detail")
    if abs(own[1] * wanted[0] / (own[0] * wanted[1]) - 1) > _SAME_ASPECT:
        changes.append("with another aspect ratio")
    text = f"{size}, resized to {shape[0]} × {shape[1]}"
    return ", ".join([text, *changes]), WARNING if changes else OK


def _state_rows(policy: TimedPolicy, seen: Seen, allow_unusual: bool) -> list[Row]:
    """Returns the live state against the statistics of the policy's training data.

    A file says how its policy normalises, (state - middle) / width, and that is the data's mean and
    standard deviation, or the middle and half width of its range, or nothing (0 and 1).
    """
    if not policy.state_names:
        return []
    about, live = policy.about["state"], seen.raw["observation.state"]
    middles, widths = about["mean"], about["std"]
    if not any(middles) and all(width == 1 for width in widths):
        text = "the file has no statistics of it: look at the values yourself"
        rows = [Row(what=_TRAINED, value=text, verdict=WARNING)]
        pairs = zip(policy.state_names, live, strict=True)
        return rows + [Row(what=f"state {name}", value=f"{value:.4g}") for name, value in pairs]
    # What is binned or clipped is a range; of the others, the file does not say.
    is_range = policy.about["prompt"]["state_bins"] > 0 or about["clip"] is not None
    either = "± is the deviation in training, or half its range: the file does not say which"
    rows = [] if is_range else [Row(what=_TRAINED, value=either)]
    for name, value, middle, width in zip(policy.state_names, live, middles, widths, strict=True):
        text, is_usual = _compare(float(value), middle, width, is_range)
        verdict = OK if is_usual else WARNING if allow_unusual else ERROR
        rows.append(Row(what=f"state {name}", value=text, verdict=verdict))
    return rows


def _compare(value: float, middle: float, width: float, is_range: bool) -> tuple[str, bool]:
    """Returns a state's value beside that of the training data, and whether it is usual."""
    distance = abs(value - middle)
    if width <= _NEVER_VARIED * max(1.0, abs(middle)):
        usual = distance <= UNUSUAL_Z * max(width, _NEVER_VARIED)
        text = f"{value:.6g}, always {middle:.6g} in training"
        return text if usual else f"{text}. Another start, or wrong units?", usual
    z = distance / width
    if is_range:
        text = f"{value:.4g}, in training {middle - width:.4g} … {middle + width:.4g}"
        unusual = f": {z - 1:.1f} half widths outside. Wrong units, or another start?"
        return (text, True) if z <= UNUSUAL_WIDTHS else (text + unusual, False)
    text = f"{value:.4g}, in training {middle:.4g} ± {width:.3g}"
    unusual = f": {z:.0f} times that away. Wrong units, or another start?"
    return (text, True) if z <= UNUSUAL_Z else (text + unusual, False)


def _policy_rows(
    robot: Robot, policy: TimedPolicy, seen: Seen, settings: DeploySettings
) -> list[Row]:
    """Returns the longest of some inferences after the one that warms up, and what it means."""
    actions, durations = np.zeros(0), []
    for _ in range(_TRIALS):
        begin = time.monotonic()
        actions = policy.act(window_of(seen, policy.observation_steps))
        durations.append(time.monotonic() - begin)
    lost = policy.lost_tokens
    steps = settings.steps_per_chunk or policy.steps_per_chunk
    of = f"{steps} of {len(actions)} actions a chunk"
    rows = [
        Row(what="policy", value=f"{policy.name}, mode {settings.mode}, {of}"),
        _self_test_row(policy),
        inference_row(max(durations[1:]), len(actions), robot, settings),
    ]
    if lost:
        value = f"its prompt is {lost} tokens longer than the policy takes: the end is cut"
        rows.append(Row(what="task", value=value, verdict=WARNING))
    if len(actions) < steps:
        too_few = f"{len(actions)} a chunk, fewer than the {steps} to execute of each"
        rows.append(Row(what="actions", value=too_few, verdict=ERROR))
    if not np.isfinite(actions).all():
        rows.append(Row(what="actions", value="not all are numbers", verdict=ERROR))
    return rows


def _self_test_row(policy: TimedPolicy) -> Row:
    """Returns whether the file answers here as it did where it was made."""
    found = policy.self_test()
    if found is None:
        text = "the file has no golden values: it was made with --verify none"
        return Row(what="self-test", value=text, verdict=WARNING)
    text = f"{found['worst']:.2g} from what it answered where it was made"
    if found["passed"]:
        return Row(what="self-test", value=text)
    return Row(what="self-test", value=f"{text}; {found['limit']:g} is allowed", verdict=ERROR)


def inference_row(seconds: float, chunk_length: int, robot: Robot, settings: DeploySettings) -> Row:
    """Returns whether a policy that takes `seconds` for a chunk can drive the arm in this mode.

    In `async` and `rtc` the next chunk is asked for in time for delays up to half a chunk: after a
    longer one, what is left of a chunk when it comes is over before the next one.
    """
    waits = settings.mode == "sync" and (settings.settle_s > 0 or settings.dry_run)
    if waits:
        longest, available = LONGEST_THOUGHT_S, robot.period_s
        meanwhile = "the arm stands still meanwhile"
    else:
        longest = min(robot.oldest_action_s, robot.port.stop_after_s)
        available = robot.period_s * (1 if settings.mode == "sync" else chunk_length // 2)
        meanwhile = "longer, and the arm has to wait for actions"
    text = f"{1e3 * seconds:.1f} ms; "
    if seconds > longest:
        text += f"an action would come later than the {longest:g} s allowed"
        return Row(what="inference", value=text, verdict=ERROR)
    text += f"{1e3 * available:.0f} ms without a pause; {meanwhile}"
    return Row(what="inference", value=text, verdict=WARNING if seconds > available else OK)


def _recording_rows(
    robot: Robot, policy: TimedPolicy, seen: Seen, settings: DeploySettings
) -> list[Row]:
    if settings.record is None:
        return []
    recorder = Recorder(settings.record)
    wrong = recorder.differences(header_of(settings, robot, policy, seen, 0))
    value = f"into {recorder.root}"
    rows = [Row(what="recording", value=f"{value}: {each}", verdict=ERROR) for each in wrong]
    return rows or [Row(what="recording", value=value)]


def window_of(seen: Seen, steps: int) -> Seen:
    """Returns an observation as a policy of several steps takes it at an episode's begin."""
    window = ObservationWindow(steps)
    window.append(dict(seen.raw))
    return dataclasses.replace(seen, raw=window.observation)
