"""A policy over a rosbridge: what is published, and when nothing is and why.

The bridge is `bridge.py`; test_ros2.py runs the same against ROS 2 itself.
"""

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from actquant_runtime import Runtime
from bridge import Bridge, bridging
from PIL import Image
from policy_files import HEIGHT, WIDTH

from actquant.common.errors import RosError
from actquant.control.policy import Policy, RuntimePolicy
from actquant.ros import driver
from actquant.ros.driver import Driver, RosReport
from actquant.ros.messages import (
    COMPRESSED_IMAGE,
    IMAGE,
    JOINT_STATE,
    STRING,
    smooth_velocities,
)
from actquant.ros.rosbridge import RosbridgeLink
from actquant.ros.settings import RosSettings

SCENE, WRIST = "observation.images.scene", "observation.images.wrist"
CAMERAS = {SCENE: "/scene/image_raw", WRIST: "/wrist/image_raw"}
ARM = "/joint_trajectory_controller/joint_trajectory"
PICTURE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
POSITIONS = {"turn": -0.2, "lift": 0.1, "grip": 0.3, "other": 9.0}


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Robot:
    """Publishes pictures and joints ten times a second, as the nodes of a robot do."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge, self._ended = bridge, threading.Event()
        self.picture: dict[str, Any] = {
            "height": HEIGHT,
            "width": WIDTH,
            "encoding": "rgb8",
            "step": 3 * WIDTH,
            "data": text(PICTURE.tobytes()),
        }
        self.kind = IMAGE
        self.cameras = list(CAMERAS.values())
        self.positions = dict(POSITIONS)
        self.is_stuck = self.is_silent = False
        self._count = 0
        self._thread = threading.Thread(target=self._run)

    def header(self) -> dict[str, Any]:
        self._count += not self.is_stuck
        return {"stamp": {"sec": 1 + self._count, "nanosec": 5}, "frame_id": "base"}

    def _run(self) -> None:
        while not self._ended.wait(0.04):
            if self.is_silent:
                continue
            header = self.header()
            for topic in self.cameras:
                self._bridge.publish(topic, self.kind, {"header": header, **self.picture})
            fields = {"name": list(self.positions), "position": list(self.positions.values())}
            self._bridge.publish("/joint_states", JOINT_STATE, {"header": header, **fields})

    def __enter__(self) -> "Robot":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


class Run:
    """A driver that runs in a thread."""

    def __init__(self, policy: Policy, bridge: Bridge, settings: RosSettings) -> None:
        self.told: list[str] = []
        self.report: RosReport | None = None
        self.error: Exception | None = None
        link = RosbridgeLink(f"ws://127.0.0.1:{bridge.port}", self.told.append, throttle_ms=10)
        self.driver = Driver(policy, settings, link, self.told.append)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.report = self.driver.run()
        except Exception as error:
            self.error = error

    def __enter__(self) -> "Run":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.stop("the test")
        self._thread.join(20)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error

    def wait_until_told(self, *parts: str) -> str:
        def said() -> str:
            return next((t for t in self.told if all(part in t for part in parts)), "")

        wait_for(lambda: bool(said()), lambda: f"{parts} in {self.told}")
        return said()


def wait_for(condition: Callable[[], bool], what: str | Callable[[], str]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, what if isinstance(what, str) else what()
        time.sleep(0.01)


def settings(**changes: Any) -> RosSettings:
    values: dict[str, Any] = {"cameras": CAMERAS, "task": "push the red cube"}
    return RosSettings(**(values | changes))


@pytest.fixture(scope="module")
def policy(model: Path) -> RuntimePolicy:
    return RuntimePolicy(model)


@pytest.fixture(autouse=True)
def _says_all_it_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "SAY_AGAIN_S", 0.05)


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    with bridging() as made:
        yield made


@pytest.fixture
def robot(bridge: Bridge) -> Iterator[Robot]:
    with Robot(bridge) as made:
        yield made


def trajectories(bridge: Bridge, topic: str = ARM) -> list[Any]:
    return [message for heard, message in bridge.heard if heard == topic]


@contextmanager
def nothing_published(bridge: Bridge, ticks: int = 3) -> Iterator[None]:
    """Checks that no trajectory comes, from what is done inside the block on."""
    yield
    time.sleep(0.1)  # for one that was on its way
    before = len(trajectories(bridge))
    time.sleep(0.1 * ticks)
    assert len(trajectories(bridge)) == before


def expected(model: Path, state: list[float] | None = None) -> np.ndarray:
    seen = {SCENE: PICTURE, WRIST: PICTURE, "task": "push the red cube"}
    values = state or [POSITIONS[name] for name in ("lift", "turn", "grip")]
    return Runtime(str(model)).act({**seen, "observation.state": np.array(values, np.float32)})


def durations(trajectory: Any) -> list[float]:
    times = [point.time_from_start for point in trajectory.points]
    return [time.sec + 1e-9 * time.nanosec for time in times]


def test_a_trajectory_holds_the_actions_of_the_chunk(model, policy, bridge, robot):
    with Run(policy, bridge, settings()) as run:
        wait_for(lambda: len(trajectories(bridge)) > 2, "trajectories")
    actions = expected(model)
    for trajectory in trajectories(bridge):
        assert trajectory.joint_names == ["lift", "grip"]
        np.testing.assert_allclose([p.positions for p in trajectory.points], actions, atol=1e-5)
        assert durations(trajectory) == pytest.approx([0.1, 0.2, 0.3])
        stamp = trajectory.header.stamp
        assert (stamp.sec, stamp.nanosec) == (0, 0), "it begins at once"
        speeds = np.array([p.velocities for p in trajectory.points])
        start = np.array([POSITIONS["lift"], POSITIONS["grip"]])
        np.testing.assert_allclose(speeds, smooth_velocities(start, actions, 0.1), atol=1e-4)
    assert not bridge.refused
    said = [message.data for topic, message in bridge.heard if topic == "/actquant/status"]
    assert said[-2:] == ["acting: push the red cube", "ended: the test"]
    assert run.report is not None and run.report.trajectories == len(trajectories(bridge))
    assert run.report.trajectories <= run.report.chunks, "one for a chunk"


def test_a_trajectory_leads_no_farther_ahead_than_is_wanted(model, policy, bridge, robot):
    with Run(policy, bridge, settings(ahead_s=0.2)):
        wait_for(lambda: len(trajectories(bridge)) > 2, "trajectories")
    actions = expected(model)
    for trajectory, begin in zip(trajectories(bridge), (0, 1, 0), strict=False):
        found = [p.positions for p in trajectory.points]
        np.testing.assert_allclose(found, actions[begin : begin + 2], atol=1e-5)
        assert durations(trajectory) == pytest.approx([0.1, 0.2])


def test_joints_have_other_names_and_units_and_topics(model, policy, bridge, robot):
    robot.positions = {"lift": 0.1, "turn": -0.2}
    with Robot(bridge) as gripper:  # publishes its part of /joint_states itself
        gripper.cameras, gripper.positions = [], {"finger_joint": 15.0}
        changes = {
            "joints": ["grip.pos=finger_joint*50"],
            "trajectories": [ARM, "/gripper/joint_trajectory=finger_joint"],
            "jumps": {"finger_joint": 10.0},
        }
        with Run(policy, bridge, settings(**changes)):
            wait_for(lambda: bool(trajectories(bridge, "/gripper/joint_trajectory")), "both")
    actions = expected(model, [0.1, -0.2, 0.3])
    arm, hand = trajectories(bridge)[0], trajectories(bridge, "/gripper/joint_trajectory")[0]
    assert (arm.joint_names, hand.joint_names) == (["lift"], ["finger_joint"])
    np.testing.assert_allclose([p.positions for p in arm.points], actions[:, :1], atol=1e-5)
    np.testing.assert_allclose([p.positions for p in hand.points], 50 * actions[:, 1:], atol=1e-3)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_compressed_pictures(model, policy, bridge, robot, format):
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, format, quality=100, subsampling=0)
    robot.kind = COMPRESSED_IMAGE
    robot.picture = {
        "format": f"rgb8; {format.lower()} compressed",
        "data": text(buffer.getvalue()),
    }
    robot.cameras = [f"{topic}/compressed" for topic in CAMERAS.values()]
    cameras = dict(zip(CAMERAS, robot.cameras, strict=True))
    with Run(policy, bridge, settings(cameras=cameras)):
        wait_for(lambda: bool(trajectories(bridge)), "a trajectory")
    found = [p.positions for p in trajectories(bridge)[0].points]
    np.testing.assert_allclose(found, expected(model), atol=1e-5 if format == "PNG" else 0.02)


def small(robot: Robot) -> None:
    robot.picture |= {"height": 1, "data": robot.picture["data"][: 4 * WIDTH]}


@pytest.mark.parametrize(
    "change, parts",
    [
        (lambda r: r.cameras.remove("/wrist/image_raw"), ["/wrist/image_raw: no", IMAGE]),
        (lambda r: setattr(r, "kind", COMPRESSED_IMAGE), ["it carries", COMPRESSED_IMAGE]),
        (lambda r: r.positions.pop("turn"), ["no joint turn", "grip, lift, other"]),
        (lambda r: r.positions.pop("grip"), ["no joint grip"]),
        (lambda r: r.positions.update(lift=None), ["lift is at None"]),
        (small, ["the picture is 12x1", "12x6", "--resize"]),
        (lambda r: r.picture.update(encoding="16UC1"), ["encoding '16UC1'", "rgb8"]),
        (lambda r: r.picture.update(data="AAAA"), ["3 bytes of data"]),
        (lambda r: r.picture.update(data="not base64"), ["/scene/image_raw: data are no bytes"]),
        (lambda r: r.picture.pop("step"), ["no field step"]),
        (lambda r: r.positions.update(lift=5.0), ["lift would go 4.", "0.5 is allowed"]),
    ],
)
def test_nothing_is_published_of_what_the_policy_cannot_take(policy, bridge, robot, change, parts):
    change(robot)
    with Run(policy, bridge, settings()) as run, nothing_published(bridge):
        run.wait_until_told("published", *parts)
    assert not trajectories(bridge)


@pytest.mark.parametrize("fault", ["is_silent", "is_stuck"])
def test_nothing_is_published_on_old_pictures_and_it_goes_on_with_new_ones(
    policy, bridge, robot, fault
):
    with Run(policy, bridge, settings(max_age_s=0.2)) as run:
        run.wait_until_told("acting")
        setattr(robot, fault, True)
        with nothing_published(bridge):
            run.wait_until_told(
                "nothing is published",
                "/scene/image_raw: nothing new for more than 0.2 s",
                "/joint_states: nothing new for more than 0.2 s: lift, turn, grip",
            )
        before = len(trajectories(bridge))
        setattr(robot, fault, False)
        wait_for(lambda: len(trajectories(bridge)) > before, "it goes on")
    assert run.told[-1].startswith("acting")
    assert len(trajectories(bridge)[before].points) == 3, "it begins with a new chunk"


def test_the_instruction_comes_by_topic_and_an_empty_one_pauses(policy, bridge, robot):
    with Run(policy, bridge, settings(task=None, task_topic="/instruction")) as run:
        with nothing_published(bridge):
            run.wait_until_told("nothing is published", "/instruction: no std_msgs/msg/String yet")
        bridge.publish("/instruction", STRING, {"data": "push the red cube"})
        run.wait_until_told("acting: push the red cube")
        with nothing_published(bridge):
            bridge.publish("/instruction", STRING, {"data": " "})
            run.wait_until_told("/instruction: the instruction is empty")
        bridge.publish("/instruction", STRING, {"data": "push the"})
        wait_for(lambda: run.told[-1] == "acting: push the", lambda: f"{run.told}")


def test_a_bridge_that_goes_away_is_found_again(policy, bridge, robot):
    with Run(policy, bridge, settings()) as run:
        run.wait_until_told("acting")
        bridge.go()
        run.wait_until_told("nothing is published", f"ws://127.0.0.1:{bridge.port} is gone")
        before = len(trajectories(bridge))
        bridge.come()
        wait_for(lambda: len(trajectories(bridge)) > before, "it acts again")
    assert not bridge.refused


@pytest.mark.parametrize("tells, has_rosapi", [(False, True), (True, False)])
def test_a_topic_of_another_type_takes_no_trajectory(policy, robot, tells, has_rosapi):
    with bridging(tells=tells, has_rosapi=has_rosapi) as bridge, Robot(bridge):
        bridge.established[ARM] = STRING
        with Run(policy, bridge, settings()) as run:
            run.wait_until_told("nothing is published", ARM, STRING)
    assert not trajectories(bridge)


def test_where_one_topic_is_not_taken_none_is_published(policy, bridge, robot):
    bridge.established["/gripper"] = STRING
    topics = [ARM, "/gripper=grip"]
    with Run(policy, bridge, settings(trajectories=topics)) as run:
        run.wait_until_told("nothing is published", "/gripper carries", STRING)
        time.sleep(0.3)
    assert not trajectories(bridge) and not trajectories(bridge, "/gripper")


def test_one_camera_may_be_two_of_the_policys(model, policy, bridge, robot):
    cameras = dict.fromkeys(CAMERAS, "/scene/image_raw")
    with Run(policy, bridge, settings(cameras=cameras)):
        wait_for(lambda: bool(trajectories(bridge)), "a trajectory")


@pytest.mark.parametrize("published, left, follow", [(0, 2, 2), (0, 9, 4), (0, 0, 0), (None, 5, 0)])
def test_after_a_stall_ticks_follow_as_far_as_the_robot_went_on(
    policy, bridge, published, left, follow
):
    """4 ticks of 0.1 s were missed: those after what was published last are left out."""
    run = Run(policy, bridge, settings())
    driver = run.driver
    driver._ticks, driver._published, driver._left = 5, published, left
    due = driver._due_s = time.monotonic() - 0.45
    assert driver.next_tick() is None
    left_out = round((driver._due_s - due) / 0.1) - 1
    assert left_out == driver._report.late_ticks
    assert left_out >= 4 - follow and (left_out == 4 - follow or time.monotonic() - due > 0.5)


def test_what_a_dry_run_would_publish_is_not_published(policy, bridge, robot):
    with Run(policy, bridge, settings(dry_run=True)) as run:
        run.wait_until_told("acting")
        time.sleep(0.2)
    assert not trajectories(bridge)
    assert run.report is not None and run.report.trajectories > 0


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_both_modes(policy, bridge, robot, mode):
    with Run(policy, bridge, settings(mode=mode, steps_per_chunk=2)) as run:
        wait_for(lambda: len(trajectories(bridge)) > 4, "trajectories")
    assert run.report is not None and run.report.chunks >= 2
    assert not bridge.refused


def test_the_policy_may_be_served_on_another_computer(model, bridge, robot, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "serve"))
    from served import in_thread

    from actquant.ros.policies import open_policy
    from actquant.serve.settings import ServeSettings

    with in_thread(ServeSettings({"tame": model}, port=0)) as server:
        policy = open_policy(f"ws://127.0.0.1:{server.port}/tame")
        with Run(policy, bridge, settings()):
            wait_for(lambda: len(trajectories(bridge)) > 1, "trajectories")
    found = [p.positions for p in trajectories(bridge)[0].points]
    np.testing.assert_allclose(found, expected(model), atol=1e-5)


def test_a_bridge_that_is_not_there_is_said(policy, bridge):
    bridge.go()
    link = RosbridgeLink(f"ws://127.0.0.1:{bridge.port}", print)
    with pytest.raises(RosError, match=f"no rosbridge at ws://127.0.0.1:{bridge.port}: .*refused"):
        Driver(policy, settings(), link, print).run()
    bridge.come()  # for the fixture
