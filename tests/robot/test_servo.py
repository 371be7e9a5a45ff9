"""The servo process: what it is, who it listens to, and how it and the robot come back."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
from lerobot_robot_ur.arm import Arm
from lerobot_robot_ur.channel import Channel, ChannelClosed
from lerobot_robot_ur.errors import ConnectionFailed, Stopped
from lerobot_robot_ur.guard import Guard
from lerobot_robot_ur.link import Link, PacketClock
from lerobot_robot_ur.messages import Move
from lerobot_robot_ur.models import MODELS
from lerobot_robot_ur.servo import ServoLoop
from lerobot_robot_ur.shared import ServoState, SharedMemory
from streaming import config, wait_for_motion, wait_for_rest
from ur_fake_controller import FakeController
from waiting import wait_until

HOST, OLD_HOST = "127.0.0.52", "127.0.0.53"


@pytest.fixture(scope="module")
def controller() -> Iterator[FakeController]:
    with FakeController(HOST, unlock_delay=0.5) as running:
        yield running


@pytest.fixture
def fake(renewed: FakeController) -> FakeController:
    return renewed


def wait_for_stop(arm: Arm) -> Stopped:
    wait_until(lambda: arm.stopped is not None, "the stop")
    assert arm.stopped is not None
    return arm.stopped


def test_the_process_is_small(arm):
    loaded = {m.path for m in psutil.Process(arm.servo_pid).memory_maps(grouped=True)}
    for library in ("torch", "mujoco", "cv2"):
        assert not any(f"/{library}" in path for path in loaded), library
    assert any("rtde_control" in path for path in loaded)
    modules = [sys.executable, "-c", _MODULES]
    names = subprocess.run(modules, capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "lerobot", "lerobot_env_ur3e"} & set(names) == set()


_MODULES = """
import lerobot_robot_ur.servo_process, lerobot_robot_ur.servo, lerobot_robot_ur.realtime, sys
print(*sys.modules)
"""


def test_what_it_was_granted_is_told(arm):
    notes = [event.detail for event in arm.events() if event.kind == "realtime"]
    assert len(notes) == 1 and "SCHED_FIFO" in notes[0] and "memory" in notes[0]


def test_periods_are_counted(arm):
    wait_until(lambda: arm.jitter().cycles > 200, "some cycles")
    jitter = arm.jitter()
    assert 1.0 < jitter.p50_ms < 4.0
    assert jitter.p50_ms <= jitter.p99_ms <= jitter.p999_ms <= jitter.max_ms
    assert jitter.late <= 0.5 * jitter.cycles
    assert jitter.rate_hz == pytest.approx(500, rel=0.3)


def test_cb3_is_driven_at_its_own_rate():
    with FakeController(OLD_HOST, model="ur3") as old:
        with pytest.raises(
            ConnectionFailed, match="PolyScope 3.15.8.0, which is not that of a ur3e"
        ):
            Arm(config(old.host)).connect()
        with Arm(config(old.host, model="ur3")) as arm:
            arm.move_to(arm.state().joints + [0.05, 0, 0, 0, 0, 0])
            assert arm.jitter().rate_hz == pytest.approx(125, rel=0.3)


def test_a_late_policy_is_held_for_and_then_stopped(fake, arm, moving):
    moving.end()
    wait_for_rest(fake)
    assert arm.stopped is None
    stopped = wait_for_stop(arm)
    assert stopped.kind == "policy_late"
    assert [e.kind for e in arm.events()][-2:] == ["hold", "policy_late"]
    wait_until(lambda: fake.state()["program"] == "STOPPED", "the end of the program")


def test_without_a_policy_nothing_is_late(fake, arm):
    arm.move_to(arm.state().joints + [0.02, 0, 0, 0, 0, 0])
    time.sleep(1.1 * arm.limits.stop_after_s)
    assert arm.stopped is None and fake.state()["program"] == "PLAYING"


def test_an_arm_that_rests_is_where_it_is_put(fake, arm):
    arm.move_to(arm.state().joints + [0.02, 0, 0, 0, 0, 0])
    wait_for_rest(fake)
    fake.reset(start=3)
    put = np.array(fake.state()["joints"])
    wait_until(lambda: np.abs(arm.state().commanded - put).max() < 1e-6, "the new place")
    arm.move_to(put + [0.02, 0, 0, 0, 0, 0])
    assert arm.stopped is None
    np.testing.assert_allclose(fake.state()["joints"][1:], put[1:], atol=2e-3)


COMMANDER = """
import dataclasses, sys, time
sys.path[:0] = sys.argv[2:]
from lerobot_robot_ur.arm import Arm
from streaming import config
from sway import Sway
patient = config(sys.argv[1])
sooner_than_late = dataclasses.replace(patient.limits, max_heartbeat_age_s=1.0)
arm = Arm(dataclasses.replace(patient, limits=sooner_than_late))
arm.connect()
stream = Sway(arm)
print(arm.servo_pid, flush=True)
time.sleep(100)
"""


@pytest.fixture
def commander(fake: FakeController) -> Iterator[subprocess.Popen[str]]:
    """Another process that moves the arm; its first line is its servo process's number."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMANDER, fake.host, *sys.path], stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_parent_ends_in_a_controlled_stop(fake, commander, number):
    servo = psutil.Process(int(commander.stdout.readline()))
    wait_for_motion(fake)
    os.kill(commander.pid, number)
    # Nobody collects it where its parent only stands still.
    wait_until(lambda: not servo.is_running() or servo.status() == "zombie", "its end")
    state = fake.state()
    assert state["program"] == "STOPPED"
    assert "the client asked for it" in state["log"][-1]  # and not its watchdog
    wait_for_rest(fake)


def test_ctrl_c_is_the_parents_affair(arm):
    os.kill(arm.servo_pid, signal.SIGINT)
    arm.move_to(arm.state().joints + [0.02, 0, 0, 0, 0, 0])
    assert arm.stopped is None


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("protective_stop", "protective_stop"),
        ("emergency_stop", "emergency_stop"),
        ("safeguard_stop", "safeguard_stop"),
    ],
)
def test_a_safety_stop_ends_motion_until_an_operator_recovers(fake, arm, moving, fault, kind):
    getattr(fake.faults, fault)()
    assert wait_for_stop(arm).kind == kind
    wait_until(lambda: moving.error is not None, "the refusal of further commands")
    assert isinstance(moving.error, Stopped) and moving.error.kind == kind
    wait_for_rest(fake)
    # Whatever ends the stop, the arm does not go on by itself.
    wait_until(lambda: fake.state()["program"] == "STOPPED", "the end of the program")
    before = fake.state()["joints"]
    if kind != "protective_stop":
        with pytest.raises(Stopped, match="is still"):
            arm.recover("Ada")
    fake.faults.clear()
    time.sleep(0.3)
    np.testing.assert_allclose(fake.state()["joints"], before, atol=1e-3)
    arm.recover("Ada")
    state = arm.state()
    assert arm.stopped is None and not state.is_moving
    np.testing.assert_allclose(state.commanded, before, atol=2e-3)
    arm.move_to(state.joints + [0.02, 0, 0, 0, 0, 0])
    assert fake.state()["safety_mode"] == "NORMAL"


def test_a_paused_program_is_ended_though_the_arm_is_disconnected_at_once(fake):
    arm = Arm(config(fake.host))
    arm.connect()
    fake.faults.delay_dashboard(0.2)
    fake.faults.safeguard_stop()
    while arm.stopped is None:
        time.sleep(1e-4)
    arm.disconnect()
    assert fake.state()["program"] == "STOPPED"


def test_power_and_gripper_come_back_after_an_emergency_stop(fake):
    with Arm(config(fake.host, gripper="robotiq_2f85")) as arm:
        fake.faults.emergency_stop()
        wait_for_stop(arm)
        wait_until(lambda: any(e.kind == "gripper" for e in arm.events()), "the gripper's absence")
        fake.faults.clear()
        arm.recover("Ada")
        assert arm.state().gripper_opening_m == pytest.approx(0.085, abs=0.002)
        assert fake.state()["gripper"]["STA"] == "3"


def test_an_arm_that_is_stopped_does_not_connect(fake):
    fake.faults.emergency_stop()
    with pytest.raises(Stopped, match="safety status ROBOT_EMERGENCY_STOP"):
        Arm(config(fake.host)).connect()


def test_without_remote_control_an_arm_does_not_connect(fake):
    fake.faults.refuse("remote_control")
    with pytest.raises(ConnectionFailed, match="enable remote control"):
        Arm(config(fake.host)).connect()


def test_a_late_cycle_is_no_jump(fake):
    period, speed, gap = 0.002, 0.5, 0.05  # s, rad/s, s
    arm_config = config(fake.host)
    link = Link(fake.host, period, 0.1, 300.0)
    link.set_up(arm_config.tcp, arm_config.payload_kg, arm_config.payload_cog_m)
    link.set_watchdog(arm_config.watchdog_s)
    here, there = Channel.pair()
    shared = SharedMemory.create()
    shared.beat()
    limits = arm_config.effective_limits
    guard = Guard(MODELS["ur3e"], limits, arm_config.tcp, "none")
    loop = ServoLoop(link, limits, guard, period, there, shared)
    loop.cycle()
    start, now = shared.read().joints, shared.read().clock_s
    times = now + 0.1 * np.arange(1, 11)
    path = start + speed * (times - now)[:, None] * [1, 0, 0, 0, 0, 0]
    here.send(Move(1, path, times, is_streamed=False))
    steps, before = [], start
    for i in range(300):
        time.sleep(gap if i in (150, 220) else period)
        shared.beat()
        loop.cycle()
        now = shared.read().commanded
        steps.append(now[0] - before[0])
        before = now
    link.close()
    assert max(steps) > 0.5 * speed * period  # it moved
    assert max(steps) < 0.4 * speed * gap
    assert fake.state()["safety_mode"] == "NORMAL"


def test_age_of_packets_is_by_the_controllers_clock():
    clock = PacketClock()
    for i in range(1000):
        assert clock.age(5.0 + 0.002 * i, 100.0 + 0.002 * i) < 1e-9
    assert clock.age(7.0, 102.5) == pytest.approx(0.5, abs=0.01)  # frozen
    assert clock.age(7.2, 103.2) == pytest.approx(1.0, abs=0.01)  # goes on, late
    assert clock.age(8.2, 103.2) == pytest.approx(0.0, abs=0.01)


def test_a_lag_is_noticed_however_slowly_it_grows_and_a_drift_of_clocks_is_not():
    lagging, drifting = PacketClock(), PacketClock()
    for second in range(1, 601):
        late = lagging.age(0.99 * second, float(second))
        assert drifting.age((1 - 1e-4) * second, float(second)) < 1e-9
    assert late > 5.0


def test_shared_state_is_whole_or_not_at_all():
    shared = SharedMemory.create()
    assert shared.read() is None
    six = np.arange(6.0)
    vectors = (six, six + 1, six + 2, six + 3)
    state = ServoState(1.0, 2.0, 0.5, *vectors, 0.9, 8.0, 0.8, 1, 7, True, 7, 1, 3, 2, 5, 1 << 17)
    shared.write(state)
    read = shared.read()
    assert read is not None and pickle.dumps(read) == pickle.dumps(state)
    shared._map[10:11] = b"\xff"
    assert shared.read() is None
    shared.close()


def test_a_channel_never_waits():
    here, there = Channel.pair()
    assert here.receive() == []
    sent = 0
    while there.send(bytes(50_000)):
        sent += 1
        assert sent < 1000
    assert len(here.receive()) == sent
    with pytest.raises(ValueError, match="at most 131072 can be sent"):
        there.send(bytes(200_000))
    there.send("last")
    there.close()
    assert here.receive() == ["last"]
    with pytest.raises(ChannelClosed):
        here.receive()


def test_the_watchdog_waits_for_a_slow_release(fake):
    fake.faults.delay_stops(0.6)
    with Arm(config(fake.host, watchdog_s=0.2)) as arm:
        for _ in range(2):
            arm.move_to(arm.state().joints + [0.01, 0, 0, 0, 0, 0])
            time.sleep(1.0)
        assert arm.stopped is None and fake.state()["program"] == "PLAYING"
        assert fake.state()["watchdog_s"] == pytest.approx(0.2)


def fifo_is_granted() -> bool:
    def ask() -> None:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(62))

    try:
        subprocess.run(["true"], preexec_fn=ask, check=True)
    except subprocess.SubprocessError:
        return False
    return True


UNDER_FIFO = """
import os, sys, time
sys.path[:0] = sys.argv[2:]
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
from lerobot_robot_ur.arm import Arm
from streaming import config
cpu = sorted(os.sched_getaffinity(0))[-1]
for _ in range(4):
    with Arm(config(sys.argv[1], servo_cpu=cpu)) as arm:
        arm.move_to(arm.state().joints + [0.01, 0, 0, 0, 0, 0])
        priorities = {}
        for thread in os.listdir(f"/proc/{arm.servo_pid}/task"):
            priority = os.sched_getparam(int(thread)).sched_priority
            priorities[priority] = priorities.get(priority, 0) + 1
        began = time.monotonic()
    print(time.monotonic() - began, arm.stopped, sorted(priorities), flush=True)
"""


@pytest.mark.skipif(not fifo_is_granted(), reason="no real-time priority is granted here")
def test_on_one_processor_under_fifo_it_connects_moves_and_ends(fake):
    def expired() -> int:
        return sum("its watchdog expired" in line for line in fake.state()["log"])

    before = expired()
    command = [sys.executable, "-c", UNDER_FIFO, fake.host, *sys.path]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    lines = told.stdout.splitlines()
    assert len(lines) == 4
    for line in lines:
        seconds, stopped, priorities = line.split(" ", 2)
        assert stopped == "None" and float(seconds) < 4.0
        assert eval(priorities)[-3:] == [60, 61, 62]
    assert expired() <= before
