"""Grippers: the Robotiq at the fake controller's port, OnRobot's at a Modbus server."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest
from lerobot_robot_ur.errors import ConfigError, StaleState
from lerobot_robot_ur.gripper import GripperError, GripperThread, make_gripper
from lerobot_robot_ur.onrobot import UNIT, OnRobotGripper
from lerobot_robot_ur.robotiq import RobotiqGripper
from pymodbus.client import ModbusTcpClient
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice
from ur_fake_controller import FakeController
from waiting import bring_back, wait_until

HOST, BOX = "127.0.0.54", "127.0.0.55"
BOX_PORT = 15502  # 502 is for privileged processes only
BUSY, GRIPPED = 1, 2


@pytest.fixture(scope="module")
def controller() -> Iterator[FakeController]:
    with FakeController(HOST) as running:
        yield running


@pytest.fixture
def fake(controller: FakeController) -> FakeController:
    controller.faults.clear()
    controller.reset()
    return controller


def wait_for_opening(gripper, opening_m: float) -> None:
    wait_until(lambda: abs(gripper.read().opening_m - opening_m) < 0.002, f"{opening_m} m")


def test_robotiq_opens_and_closes(fake):
    gripper = RobotiqGripper(fake.host)
    gripper.connect()
    gripper.activate()
    for opening in (0.0, 0.04, 0.085):
        assert gripper.move(opening)
        wait_for_opening(gripper, opening)
        wait_until(lambda: not gripper.read().is_moving, "rest")
        # The simulated pads give a little when they press on each other.
        assert max(0.0, fake.state()["gripper_opening"]) == pytest.approx(opening, abs=0.003)
    assert not gripper.read().is_holding
    gripper.close()


def test_robotiq_reports_what_is_wrong(fake):
    gripper = RobotiqGripper(fake.host)
    gripper.connect()
    gripper.activate()
    fake.faults.gripper_fault(8)
    with pytest.raises(GripperError, match="fault 8 .too hot"):
        gripper.read()
    fake.faults.disconnect_gripper()
    with pytest.raises(GripperError, match=r"`GET STA` was answered by 'STA \?'"):
        gripper.read()
    fake.faults.clear()
    fake.faults.drop("gripper")
    with pytest.raises(GripperError, match="closed"):
        gripper.read()
    gripper.close()
    with pytest.raises(GripperError, match="no Robotiq URCap on port 63352"):
        RobotiqGripper("127.0.0.49").connect()


@pytest.fixture
def events() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def thread(fake: FakeController, events) -> Iterator[GripperThread]:
    running = GripperThread(RobotiqGripper(fake.host), lambda *event: events.append(event))
    running.start()
    yield running
    running.stop()


def test_openings_are_carried_out_when_they_are_due(fake, thread):
    now = time.monotonic()
    thread.schedule([0.06, 0.02], [now - 0.1, now + 1.0])
    assert time.monotonic() - now < 0.05  # nobody waits for fingers
    wait_until(lambda: abs(thread.reading().opening_m - 0.06) < 0.002, "the first")
    assert time.monotonic() - now < 1.0
    wait_until(lambda: abs(thread.reading().opening_m - 0.02) < 0.002, "the second")
    assert time.monotonic() - now > 1.0


def test_hold_forgets_what_is_not_due(fake, thread):
    thread.schedule([0.02], [time.monotonic() + 0.5])
    thread.hold()
    time.sleep(0.8)
    assert thread.reading().opening_m > 0.08


def test_fingers_stop_where_they_are(fake, thread):
    thread.schedule([0.0], [time.monotonic()])
    wait_until(lambda: thread.reading().opening_m < 0.07, "motion")
    thread.stop_fingers()
    time.sleep(0.3)
    stopped = thread.reading().opening_m
    assert 0.01 < stopped < 0.07
    time.sleep(0.3)
    assert thread.reading().opening_m == pytest.approx(stopped, abs=0.002)
    thread.schedule([0.0], [time.monotonic()])  # the same as before is carried out all the same
    wait_until(lambda: thread.reading().opening_m < 0.005, "the rest of the way")


def test_a_lost_gripper_is_told_of_and_comes_back(fake, thread, events):
    fake.faults.disconnect_gripper()
    wait_until(lambda: len(events) == 1, "the event")
    assert events[0][0] == "gripper" and "?" in events[0][1]

    def is_stale() -> bool:
        try:
            thread.reading()
        except StaleState as stale:
            return "has not answered" in str(stale) and "?" in str(stale)
        return False

    wait_until(is_stale, "a reading that is too old")
    fake.faults.clear()
    wait_until(lambda: len(events) == 2, "the other event")
    assert events[1] == ("gripper", "the gripper answers again")
    assert thread.reading().opening_m > 0.08


def test_what_could_not_be_sent_is_not_sent_when_the_gripper_answers_again(fake, thread, events):
    fake.faults.disconnect_gripper()
    wait_until(lambda: len(events) == 1, "the event")
    thread.schedule([0.02, 0.03], [time.monotonic(), time.monotonic() + 0.2])
    time.sleep(1.5)  # it is asked again each second
    thread.hold()  # as `Arm.stop` does
    fake.faults.clear()
    wait_until(lambda: len(events) == 2, "the other event")
    time.sleep(0.5)
    assert thread.reading().opening_m > 0.08
    thread.schedule([0.06], [time.monotonic()])  # what comes now is
    wait_until(lambda: abs(thread.reading().opening_m - 0.06) < 0.002, "a new opening")


def test_fingers_stay_where_they_are_when_the_gripper_answers_again(fake, thread, events):
    thread.schedule([0.02], [time.monotonic()])
    wait_until(lambda: abs(thread.reading().opening_m - 0.02) < 0.002, "the opening")
    fake.faults.disconnect_gripper()
    wait_until(lambda: len(events) == 1, "the event")
    fake.faults.clear()
    # By hand meanwhile, as an operator may: another client opens it.
    other = RobotiqGripper(fake.host)
    other.connect()
    other.move(0.06)
    wait_until(lambda: len(events) == 2, "the other event")
    wait_for_opening(other, 0.06)
    time.sleep(0.3)
    assert other.read().opening_m == pytest.approx(0.06, abs=0.002)
    other.close()


def test_a_gripper_that_is_not_active_is_not_told_where_to_go(fake, thread, events):
    fake.faults.emergency_stop()  # switches its power off
    wait_until(lambda: len(events) == 1, "the event")
    fake.faults.clear()
    bring_back(fake.host)
    asked_for = fake.state()["gripper"]["PRE"]
    thread.schedule([0.02], [time.monotonic()])
    time.sleep(2.5)  # it is asked again each second
    thread.schedule([0.02], [time.monotonic()])
    time.sleep(1.5)
    assert fake.state()["gripper"]["STA"] == "0"
    assert fake.state()["gripper"]["PRE"] == asked_for
    gripper = RobotiqGripper(fake.host)
    gripper.connect()
    gripper.activate()  # for the tests that follow
    gripper.close()


def test_a_gripper_that_does_not_start_says_why(fake):
    fake.faults.disconnect_gripper()
    with pytest.raises(GripperError, match="`GET STA` was answered"):
        GripperThread(RobotiqGripper(fake.host), lambda *_: None).start()


def test_unknown_kind():
    assert make_gripper("none", HOST) is None
    with pytest.raises(ConfigError, match="no gripper 'hand'; there are none, robotiq_2f85"):
        make_gripper("hand", HOST)


class ComputeBox:
    """A Modbus TCP server with the registers of a gripper, in a thread; nothing moves by itself."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(30)
        self._client = ModbusTcpClient(BOX, port=BOX_PORT)
        assert self._client.connect()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        registers = SimData(0, count=400, values=0, datatype=DataType.REGISTERS)
        self._server = ModbusTcpServer(SimDevice(UNIT, [registers]), address=(BOX, BOX_PORT))
        await self._server.serve_forever(background=True)
        self._over = asyncio.Event()
        self._ready.set()
        await self._over.wait()
        await self._server.shutdown()

    def __setitem__(self, register: int, value: int) -> None:
        self._client.write_register(register, value, device_id=UNIT)

    def __getitem__(self, register: int) -> int:
        return self._client.read_holding_registers(register, device_id=UNIT).registers[0]

    def stop(self) -> None:
        self._client.close()
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)


@pytest.fixture
def box() -> Iterator[ComputeBox]:
    running = ComputeBox()
    yield running
    running.stop()


def connected(kind: str, **options) -> OnRobotGripper:
    gripper = OnRobotGripper(BOX, kind, port=BOX_PORT, **options)
    gripper.connect()
    gripper.activate()
    return gripper


@pytest.mark.parametrize(("kind", "stroke"), [("rg2", 0.110), ("rg6", 0.160)])
def test_rg_registers(box, kind, stroke):
    gripper = connected(kind, force_n=25.0)
    assert gripper.stroke_m == stroke
    assert gripper.move(0.05)
    assert [box[i] for i in range(3)] == [250, 500, 1]
    gripper.move(1.0)
    assert box[1] == round(1e4 * stroke)
    box[267], box[268] = 432, BUSY | GRIPPED
    reading = gripper.read()
    assert (reading.opening_m, reading.is_moving, reading.is_holding) == (0.0432, True, True)
    box[267] = 0x10000 - 3  # a little beyond shut
    assert gripper.read().opening_m == 0.0
    gripper.close()


def test_2fg7_registers(box):
    gripper = connected("2fg7", force_n=20.0, speed=0.8)
    assert gripper.move(0.03)
    assert [box[i] for i in range(4)] == [300, 20, 80, 1]
    box[257], box[256] = 301, GRIPPED
    reading = gripper.read()
    assert (reading.opening_m, reading.is_moving, reading.is_holding) == (0.0301, False, True)
    gripper.close()


def test_a_busy_onrobot_gripper_is_asked_again_later(box):
    gripper = connected("rg2")
    box[268] = BUSY
    assert not gripper.move(0.05)
    assert box[2] == 0
    thread = GripperThread(gripper, lambda *_: None)
    thread.start()
    thread.schedule([0.05], [time.monotonic()])
    time.sleep(0.3)
    assert box[2] == 0
    box[268] = 0
    wait_until(lambda: box[2] == 1, "the command")
    assert box[1] == 500
    box[268], box[2] = BUSY, 0
    thread.schedule([0.02], [time.monotonic()])
    time.sleep(0.3)
    thread.hold()
    box[268] = 0
    time.sleep(0.3)
    assert box[2] == 0 and box[1] == 500
    thread.stop()


def test_onrobot_reports_what_is_wrong(box):
    gripper = connected("rg2")
    box[268] = 1 << 3
    with pytest.raises(GripperError, match="rg2: safety circuit 1 was triggered"):
        gripper.read()
    with pytest.raises(GripperError, match="up to 40.0 N"):
        OnRobotGripper(BOX, "rg2", force_n=41.0)
    gripper.close()
    with pytest.raises(GripperError, match="no Modbus server"):
        OnRobotGripper("127.0.0.49", "rg2").connect()
