"""RTDE packets, dashboard texts and script upload of the fake controller."""

import socket
import struct
import time

import pytest
from dashboard_client import DashboardClient
from rtde_control import RTDEControlInterface
from rtde_io import RTDEIOInterface
from ur_fake_controller import ControllerError, FakeController
from ur_fake_controller.script import parse_control_script
from waiting import wait_until


class Rtde:
    """RTDE, packet by packet."""

    def __init__(self, host: str):
        self._socket = socket.create_connection((host, 30004), timeout=30)

    def send(self, kind: int, payload: bytes) -> None:
        self._socket.sendall(struct.pack(">HB", 3 + len(payload), kind) + payload)

    def receive(self) -> tuple[int, bytes]:
        size, kind = struct.unpack(">HB", self._exactly(3))
        return kind, self._exactly(size - 3)

    def ask(self, kind: int, payload: bytes = b"") -> bytes:
        self.send(kind, payload)
        while (answer := self.receive())[0] != kind:
            pass
        return answer[1]

    def outputs(self, names: str, rate: float = 500.0) -> bytes:
        return self.ask(79, struct.pack(">d", rate) + names.encode())

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            data += self._socket.recv(count - len(data))
        return data


def test_versions(fake):
    rtde = Rtde(fake.host)
    assert rtde.ask(86, struct.pack(">H", 2)) == b"\x01"
    assert rtde.ask(86, struct.pack(">H", 1)) == b"\x00"
    assert struct.unpack(">4I", rtde.ask(118))[0] == 5


def test_output_recipes(fake):
    rtde = Rtde(fake.host)
    assert rtde.ask(83) == b"\x00"  # nothing to send yet
    assert rtde.outputs("timestamp,nonsense,") == b"\x00DOUBLE,NOT_FOUND"
    assert rtde.outputs("timestamp,", rate=2000.0)[:1] == b"\x00"
    assert rtde.outputs("timestamp,actual_q,robot_mode,", 125.0) == b"\x01DOUBLE,VECTOR6D,INT32"
    assert rtde.ask(83) == b"\x01"
    packets = [rtde.receive() for _ in range(20)]
    assert {kind for kind, _ in packets} == {85}
    times = [struct.unpack(">Bd6di", payload)[1] for _, payload in packets]
    assert all(abs(b - a - 0.008) < 1e-9 for a, b in zip(times, times[1:], strict=False))
    assert rtde.ask(80) == b"\x01"


def test_input_registers_belong_to_one_client(fake):
    first, second = Rtde(fake.host), Rtde(fake.host)
    assert first.ask(73, b"input_int_register_0,speed_slider_mask,") == b"\x01INT32,UINT32"
    assert first.ask(73, b"input_int_register_0,") == b"\x02INT32"
    assert second.ask(73, b"input_int_register_0,input_int_register_1,") == b"\x00IN_USE,INT32"
    assert second.ask(73, b"input_int_register_1,nonsense,") == b"\x00INT32,NOT_FOUND"
    first._socket.close()
    wait_until(lambda: second.ask(73, b"input_int_register_0,")[:1] != b"\x00", "a freed register")


def test_a_second_control_client_is_refused(fake, control):
    with pytest.raises(RuntimeError, match="in use"):
        RTDEControlInterface(fake.host)


def test_packets_that_fit_no_recipe_are_reported_and_survived(fake):
    rtde = Rtde(fake.host)
    assert rtde.ask(73, b"input_double_register_0,")[:1] == b"\x01"
    rtde.send(85, b"\x01" + bytes(16))
    rtde.send(85, b"\x07")
    rtde.send(200, b"")
    assert rtde.ask(118)
    assert sum("fits no recipe" in line for line in fake.state()["log"]) == 2
    rtde._socket.sendall(struct.pack(">HB", 2, 85))
    assert rtde._socket.recv(16) == b""


def test_a_client_that_does_not_read_harms_nobody(fake, receive):
    idle = Rtde(fake.host)
    idle.outputs(",".join(f"output_double_register_{i}" for i in range(48)) + ",")
    assert idle.ask(83) == b"\x01"
    first = receive.getTimestamp()
    wait_until(lambda: receive.getTimestamp() > first + 3, "three seconds of state")


def test_every_variable_of_the_receive_interface(receive):
    assert receive.getRobotMode() == 7 and receive.getSafetyMode() == 1
    assert receive.getRobotStatus() & 1 and receive.getSafetyStatusBits() == 1
    assert len(receive.getJointTemperatures()) == 6
    assert receive.getPayloadCog()[2] > 0
    assert receive.getSpeedScaling() in (0.0, 1.0)


def test_speed_slider_and_digital_outputs(fake, receive):
    io = RTDEIOInterface(fake.host)
    assert io.setSpeedSlider(0.25)
    wait_until(lambda: receive.getTargetSpeedFraction() == 0.25, "the slider")
    assert io.setStandardDigitalOut(3, True)
    wait_until(lambda: receive.getDigitalOutState(3), "the output")
    assert io.setStandardDigitalOut(3, False)
    wait_until(lambda: not receive.getDigitalOutState(3), "the output off")
    io.disconnect()


def test_dashboard(fake, control):
    dashboard = DashboardClient(fake.host)
    dashboard.connect()
    assert dashboard.polyscopeVersion().startswith("5.")
    assert dashboard.getSerialNumber().isdigit()
    assert dashboard.isInRemoteControl()
    assert dashboard.robotmode() == "Robotmode: RUNNING"
    assert dashboard.safetystatus() == "Safetystatus: NORMAL"
    assert dashboard.programState() == "PLAYING rtde_control"
    assert dashboard.running()
    dashboard.pause()
    wait_until(lambda: not control.isProgramRunning(), "the pause")
    assert dashboard.programState() == "PAUSED rtde_control"
    dashboard.play()
    wait_until(control.isProgramRunning, "the program again")
    dashboard.stop()
    assert dashboard.programState() == "STOPPED <unnamed>"
    with pytest.raises(RuntimeError, match="Failed to execute: play"):
        dashboard.play()
    with pytest.raises(RuntimeError, match="File not found"):
        dashboard.loadURP("nonsense.urp")
    dashboard.disconnect()


def test_dashboard_does_not_understand_everything(fake):
    with socket.create_connection((fake.host, 29999), timeout=30) as sock:
        lines = sock.makefile("r")
        assert lines.readline() == "Connected: Universal Robots Dashboard Server\n"
        sock.sendall(b"make coffee\n")
        assert lines.readline() == 'could not understand: "make coffee"\n'
        sock.sendall(b"quit\n")
        assert lines.readline() == "Disconnected\n"
        assert lines.readline() == ""


def test_other_scripts_are_refused(fake, receive):
    with socket.create_connection((fake.host, 30003), timeout=30) as sock:
        sock.sendall(b"def other():\n  movej([0,0,0,0,0,0])\nend\n")
        wait_until(lambda: fake.state()["log"], "a message")
    assert "only ur-rtde's control script" in fake.state()["log"][-1]
    assert receive.getRuntimeState() == 1


def test_what_is_read_off_a_control_script():
    marks = (
        "def rtde_control():\n  def process_cmd(cmd):\n  end\n  read_input_integer_register(0)\n"
    )
    path = (
        "  global reg_offset_int = # int register offset\n24  def exec_move_path():\n"
        "    signal_async_progress(0)\n"
        "    movej([0.1,-2e-1,0,0,0,0],a=1.5,v=0.5,r=0.01)\n"
        "    movel(p[0.1,0.2,0.3,0,0,0],a=1,v=0.1,r=0)\n  end\n"
    )
    script = parse_control_script(marks + path + "end\n")
    assert script is not None and script.register_offset == 24
    first, second = script.path
    assert first.values[1] == -0.2 and (first.speed, first.acceleration) == (0.5, 1.5)
    assert not first.linear and second.linear and second.is_pose
    assert parse_control_script("def other():\nend\n") is None


def test_upper_registers(fake, receive):
    flags = RTDEControlInterface.FLAG_UPPER_RANGE_REGISTERS
    flags |= RTDEControlInterface.FLAG_UPLOAD_SCRIPT
    control = RTDEControlInterface(fake.host, 500.0, flags)
    target = receive.getActualQ()
    target[5] += 0.1
    assert control.moveJ(target, 1.0, 2.0)
    wait_until(lambda: abs(receive.getActualQ()[5] - target[5]) < 2e-3, "the target")
    control.disconnect()


def test_commands_that_are_not_emulated_are_answered(fake, control):
    assert control.teachMode()
    assert any("command 18 is not emulated" in line for line in fake.state()["log"])
    assert control.isProgramRunning()


def test_state_comes_in_real_time(fake, receive):
    # Not how exactly: the machine that runs this may be busy.
    begin, first = time.monotonic(), receive.getTimestamp()
    wait_until(lambda: receive.getTimestamp() > first + 2, "two seconds of state")
    assert time.monotonic() - begin > 1.9
    lateness = fake.state()["lateness"]
    assert lateness["ticks"] > 900 and lateness["p50_ms"] < 50


def test_an_address_that_is_taken(fake):
    with pytest.raises(ControllerError, match="in use"):
        FakeController(fake.host).start()


def test_who_has_an_address_is_named(fake):
    owner = fake.request("process_id")
    with pytest.raises(ControllerError, match=f"did not start: .* in use by process {owner}\n"):
        FakeController(fake.host).start()
