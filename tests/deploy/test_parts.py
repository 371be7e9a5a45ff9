"""The parts that need no robot: stopping, latencies, jerk, camera specs, event log."""

import hashlib
import os
import pty
import signal
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer

from actquant.cli.output import told_plainly
from actquant.common.errors import DeployError, RecordingError
from actquant.deploy.cameras import CameraSpec, parse_cameras
from actquant.deploy.events import EventLog, read_events
from actquant.deploy.latency import MotionWatch, Percentiles
from actquant.deploy.resizing import resized
from actquant.deploy.smoothness import jerk
from actquant.deploy.stopping import StopRequest, interruptible, keys, signals


@pytest.mark.parametrize(("key", "leave"), [(b" ", False), (b"q", True)])
def test_a_key_asks_for_a_stop_at_once(key: bytes, leave: bool) -> None:
    master, slave = pty.openpty()
    asked: list[str] = []
    stop = StopRequest(asked.append)
    with os.fdopen(slave) as terminal, keys(stop, terminal):
        os.write(master, b"x")
        assert not stop.wait_until(time.monotonic() + 0.05)
        os.write(master, key)
        assert stop.wait_until(time.monotonic() + 10)
    os.close(master)
    assert len(asked) == 1 and asked[0].startswith("the operator pressed")
    assert stop.leave == leave and stop.by == asked[0]


def test_a_signal_asks_for_a_stop_and_the_old_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    stop = StopRequest()
    with signals(stop):
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait_until(time.monotonic() + 10)
    assert stop.leave and stop.signal_number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_is_heard_while_native_code_runs() -> None:
    heard: list[float] = []
    stop = StopRequest(lambda by: heard.append(time.monotonic()))
    with signals(stop):
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000)  # looks for no signal
        done = time.monotonic()
    assert len(heard) == 1 and heard[0] < done


def test_a_signal_does_not_wait_for_a_lock_that_its_stop_needs_too() -> None:
    lock, heard = threading.Lock(), []

    def on_request(by: str) -> None:
        with lock:
            heard.append(by)

    stop = StopRequest(on_request)
    with signals(stop), lock:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait_until(time.monotonic() + 10)
        assert heard == []
    assert heard == ["SIGTERM"]


def test_a_stop_stays_wanted_where_telling_of_it_fails() -> None:
    def fail(by: str) -> None:
        raise OSError("no connection")

    stop = StopRequest(fail)
    with pytest.raises(OSError, match="no connection"):
        stop.request("somebody", leave=False)
    assert stop.is_set and stop.by == "somebody"


def test_what_ends_the_deployment_is_told_also_after_what_ended_the_episode() -> None:
    told: list[str] = []
    stop = StopRequest(told.append)
    for by, leave in (("space", False), ("space again", False), ("q", True), ("q again", True)):
        stop.request(by, leave)
    assert told == ["space", "q"] and stop.by == "space" and stop.leave


def test_a_signal_at_a_question_interrupts_it() -> None:
    stop = StopRequest()
    with pytest.raises(KeyboardInterrupt), interruptible(stop):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    assert (stop.by, stop.leave, stop.signal_number) == ("SIGTERM", True, signal.SIGTERM)


def test_what_a_stopped_command_says_is_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, told_plainly(False, after_a_stop="Look in the log."):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    assert ended.value.exit_code == 143
    assert capsys.readouterr().err == "Stopped. Look in the log.\n"


def test_a_key_pressed_just_before_nobody_listened_counts() -> None:
    master, slave = pty.openpty()
    stop = StopRequest()
    os.write(master, b" ")
    with os.fdopen(slave) as terminal, keys(stop, terminal):
        assert stop.wait_until(time.monotonic() + 10)
    os.close(master)


def test_percentiles_are_in_ms() -> None:
    found = Percentiles.of([0.001 * k for k in range(101)])
    assert found == Percentiles(n=101, p50=50, p95=95, p99=99, max=100)
    assert Percentiles.of([]) is None


def test_motion_is_seen_when_a_joint_has_left_its_place() -> None:
    start = time.monotonic()

    def read() -> tuple[float, np.ndarray]:
        now = time.monotonic()
        return now, np.full(6, 0.01 if now > start + 0.1 else 1e-4)

    watch = MotionWatch(read)
    watch.sent(start - 0.05, start, np.zeros(6), np.zeros(6))
    watch.goes_on(np.full(6, 0.01))  # it has led somewhere by then
    while not watch.motions and time.monotonic() < start + 5:
        time.sleep(0.01)
    watch.close()
    (motion,) = watch.motions
    assert motion.moved_s >= start + 0.1 and motion.camera_time_s == start - 0.05


def test_motion_is_not_credited_to_a_command_that_moved_nothing() -> None:
    start, moving = time.monotonic(), threading.Event()

    def read() -> tuple[float, np.ndarray]:
        return time.monotonic(), np.full(6, 0.01 if moving.is_set() else 0.0)

    watch = MotionWatch(read)
    watch.sent(start - 0.05, start, np.zeros(6), np.zeros(6))
    time.sleep(0.02)
    watch.goes_on(np.full(6, 1e-4))
    moving.set()
    time.sleep(0.05)
    assert watch.motions == []
    # The one that takes its place is seen.
    now = time.monotonic()
    watch.sent(now - 0.05, now, np.zeros(6), np.zeros(6))
    while not watch.motions and time.monotonic() < now + 5:
        time.sleep(0.01)
    watch.close()
    assert [motion.sent_s for motion in watch.motions] == [now]


def test_jerk_tells_seams_from_the_inside_of_chunks() -> None:
    period, times = 0.1, 0.1 * np.arange(12)
    smooth = np.repeat(((2.0 / 6.0) * times**3)[:, None], 6, axis=1)  # jerk 2 rad/s^3
    seams = np.zeros(12, bool)
    assert jerk(times, smooth, seams, period) == {"inside": pytest.approx(2.0)}
    seams[6] = True
    smooth[6:] += 0.01
    found = jerk(times, smooth, seams, period)
    assert found["inside"] == pytest.approx(2.0) and found["seams"] > 5.0


def test_jerk_leaves_out_what_is_not_one_period_apart() -> None:
    period, times = 0.1, 0.1 * np.arange(12)
    smooth = np.repeat(((2.0 / 6.0) * times**3)[:, None], 6, axis=1)  # jerk 2 rad/s^3
    without = np.delete(np.arange(12), [5, 6])  # two ticks in which the arm was refused its action
    seams = np.zeros(10, bool)
    found = jerk(times[without], smooth[without], seams, period)
    assert found == {"inside": pytest.approx(2.0)}
    assert jerk(times[::2], smooth[::2], seams[:6], period) == {}


def test_camera_specs() -> None:
    cameras = parse_cameras(
        ["scene=zmq:127.0.0.2:5555:scene", "observation.image=opencv:/dev/video2?width=640&fps=30"]
    )
    assert list(cameras) == ["observation.images.scene", "observation.image"]
    scene, other = cameras.values()
    assert scene == CameraSpec("zmq", "127.0.0.2:5555:scene")
    assert other == CameraSpec("opencv", "/dev/video2", {"width": 640, "fps": 30})
    (patient,) = parse_cameras(["scene=realsense:0123?first_picture_s=40"]).values()
    assert patient == CameraSpec("realsense", "0123", {"first_picture_s": 40})


@pytest.mark.parametrize("size", [(96, 96), (224, 224), (37, 41), (480, 320)])
def test_pictures_shrink_as_by_opencv(size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3)).astype(np.uint8)
    expected = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(resized(picture, *size).astype(int), expected, atol=1)


def test_pictures_grow_as_by_opencv() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    expected = cv2.resize(picture, (200, 96), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(resized(picture, 96, 200).astype(int), expected, atol=1)


def test_every_wrong_camera_spec_is_named() -> None:
    wrong = ["scene", "a=foo:1", "b=zmq:host", "c=opencv:0?size=3", "d=opencv:0", "d=opencv:1"]
    with pytest.raises(DeployError) as caught:
        parse_cameras(wrong)
    lines = str(caught.value).splitlines()
    assert [line.split()[1].rstrip(":") for line in lines[:5]] == [*wrong[:4], wrong[5]]


def test_events_are_readable_at_once_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "deep" / "events.jsonl")
    log.set_context(episode=3)
    log.add("refused", "too fast", reasons=["too fast"])
    log.add("hold")
    path = log.path
    assert [e["kind"] for e in read_events(path)] == ["refused", "hold"]
    assert read_events(path)[0]["episode"] == 3
    path.write_bytes(path.read_bytes()[:-4])
    assert [e["kind"] for e in read_events(path)] == ["refused"]


def test_an_event_log_without_room_fails_the_check_and_no_call(tmp_path: Path) -> None:
    log = EventLog(Path("/dev/full"))
    log.add("refused")
    log.add("hold")
    with pytest.raises(RecordingError, match="No space left"):
        log.check()
