"""OnRobot RG2, RG6 and 2FG7 through the Compute Box's Modbus TCP port (502), unit 65.

Registers as in OnRobot's connectivity guide (Modbus, "RG2/RG6" and "2FG7"); widths in 1/10 mm. They
are tested against a Modbus server that holds these registers, and not against a gripper.
"""

from __future__ import annotations

from dataclasses import dataclass

from pymodbus.client import ModbusTcpClient
from pymodbus.exceptions import ModbusException

from .gripper import STROKES_M, GripperError, GripperReading

PORT = 502
UNIT = 65  # a gripper on a single quick changer
_TIMEOUT_S = 1.0
_BUSY, _GRIPPED = 1 << 0, 1 << 1  # of the status register, in both families


@dataclass(frozen=True)
class _Model:
    """Where a gripper keeps what, and what it can.

    `status`, `width`: registers. `faults`: bits of the status that report a fault.
    `force_unit`: N of one count. `force_n`: what is asked for by default.
    """

    stroke_m: float
    status: int
    width: int
    force_unit: float
    largest_force_n: float
    force_n: float
    faults: dict[int, str]


_RG_FAULTS = {
    1 << 3: "safety circuit 1 was triggered: switch it off and on",
    1 << 5: "safety circuit 2 was triggered: switch it off and on",
    1 << 6: "a safety switch was pushed at power-on",
}
_MODELS = {
    "rg2": _Model(STROKES_M["rg2"], 268, 267, 0.1, 40.0, 20.0, _RG_FAULTS),
    "rg6": _Model(STROKES_M["rg6"], 268, 267, 0.1, 120.0, 40.0, _RG_FAULTS),
    "2fg7": _Model(STROKES_M["2fg7"], 256, 257, 1.0, 140.0, 40.0, {}),
}
_RG_GRIP = 1  # to register 2, after force (0) and width (1); without the fingertips' offset
_2FG_GRIP_EXTERNAL = 1  # to register 3, after width (0), force (1) and speed in % (2)


class OnRobotGripper:
    """See the module.

    Args:
        host: address of the Compute Box.
        kind: "rg2", "rg6" or "2fg7".
        force_n: gripping force; by default a third to a half of what it can.
        speed: 0 to 1, of a 2FG7; the RG grippers have their own.
        port: another than 502 only behind a gateway.
    """

    def __init__(
        self,
        host: str,
        kind: str,
        *,
        force_n: float | None = None,
        speed: float = 0.5,
        port: int = PORT,
    ):
        self._model = model = _MODELS[kind]
        self._host, self._kind = host, kind
        self.stroke_m = model.stroke_m
        force = model.force_n if force_n is None else force_n
        if not 0 < force <= model.largest_force_n:
            raise GripperError(f"{kind}: a force is above 0 and up to {model.largest_force_n} N")
        self._force = round(force / model.force_unit)
        self._speed = round(100 * speed)
        self._client = ModbusTcpClient(host, port=port, timeout=_TIMEOUT_S, retries=1)

    def connect(self) -> None:
        if not self._client.connect():
            raise GripperError(f"{self._host}: no Modbus server (OnRobot Compute Box) answers")

    def activate(self) -> None:
        """Does nothing: it is ready once it has power."""
        self.read()

    def move(self, opening_m: float) -> bool:
        # A command that comes while it moves is ignored: it has to be offered again.
        if self._read(self._model.status) & _BUSY:
            return False
        width = round(1e4 * min(max(opening_m, 0.0), self.stroke_m))
        if self._kind == "2fg7":
            self._write([width, self._force, self._speed, _2FG_GRIP_EXTERNAL])
        else:
            self._write([self._force, width, _RG_GRIP])
        return True

    def stop(self) -> bool:
        return False  # how it would be told is not known for certain

    def read(self) -> GripperReading:
        status = self._read(self._model.status)
        troubles = [text for bit, text in self._model.faults.items() if status & bit]
        if troubles:
            raise GripperError(f"{self._host}: {self._kind}: {'; '.join(troubles)}")
        opening = max(_signed(self._read(self._model.width)), 0) / 1e4
        return GripperReading(opening, bool(status & _BUSY), bool(status & _GRIPPED))

    def close(self) -> None:
        self._client.close()

    def _read(self, address: int) -> int:
        try:
            answer = self._client.read_holding_registers(address, count=1, device_id=UNIT)
        except ModbusException as error:
            raise GripperError(f"{self._host}: register {address}: {error}") from error
        if answer.isError():
            raise GripperError(f"{self._host}: register {address} was refused: {answer}")
        return answer.registers[0]

    def _write(self, values: list[int]) -> None:
        try:
            answer = self._client.write_registers(0, values, device_id=UNIT)
        except ModbusException as error:
            raise GripperError(f"{self._host}: registers from 0: {error}") from error
        if answer.isError():
            raise GripperError(f"{self._host}: registers from 0 were refused: {answer}")


def _signed(register: int) -> int:
    return register - (1 << 16) if register & 1 << 15 else register
