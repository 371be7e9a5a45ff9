"""The commands of ur-rtde's control program, by their numbers.

A handler reads its arguments from the registers and returns True where the command is done only
once the arm has come to rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .chain import compose, frame, pose
from .motions import (
    JointMove,
    LineMove,
    Motion,
    ProgramError,
    Sequence,
    Servo,
    SpeedJoints,
    SpeedTool,
    stop_joints,
    stop_tool,
)
from .script import Waypoint

if TYPE_CHECKING:
    from .registers import Array, ControlProgram

logger = logging.getLogger(__name__)

Handler = Callable[["ControlProgram"], bool | None]

#: Carried out in every cycle in which they stand in the register.
EVERY_CYCLE = frozenset({6, 9, 10, 11, 24, 25, 26, 27, 38, 58, 66, 67, 68, 69, 70, 71})
_CUT_LOOKAHEAD = (0.03, 0.2)  # s: what servoj takes
_CUT_GAIN = (100.0, 2000.0)


def _move_j(program: ControlProgram) -> bool:
    return _joint_move(program, program.read_vector(0))


def _move_j_ik(program: ControlProgram) -> bool:
    return _joint_move(program, _inverse(program, program.read_vector(0)))


def _joint_move(program: ControlProgram, target: Array) -> bool:
    speed, acceleration = program.read(6), program.read(7)
    start = program.arm.q
    return program.move(
        lambda: JointMove(start, target, speed, acceleration), program.read_int(1) == 1
    )


def _move_l(program: ControlProgram) -> bool:
    return _line_move(program, program.read_vector(0))


def _move_l_fk(program: ControlProgram) -> bool:
    return _line_move(program, pose(program.chain.tool(program.read_vector(0))))


def _line_move(program: ControlProgram, target: Array) -> bool:
    speed, acceleration = program.read(6), program.read(7)
    chain, start = program.chain, program.arm.q
    return program.move(
        lambda: LineMove(chain, start, target, speed, acceleration), program.read_int(1) == 1
    )


def _move_path(program: ControlProgram) -> bool:
    asynchronous = program.read_int(1) == 1

    def builder(point: Waypoint) -> Callable[[Array], Motion]:
        def build(q: Array) -> Motion:
            values = np.array(point.values)
            if point.linear:
                end = values if point.is_pose else pose(program.chain.tool(values))
                return LineMove(program.chain, q, end, point.speed, point.acceleration)
            joints = _inverse(program, values) if point.is_pose else values
            return JointMove(q, joints, point.speed, point.acceleration)

        return build

    moves = [builder(point) for point in program.script.path]
    return program.move(lambda: Sequence(moves, program.report_async), asynchronous)


def _servo_j(program: ControlProgram) -> None:
    _servo(program, program.read_vector(0))


def _servo_l(program: ControlProgram) -> None:
    _servo(program, _inverse(program, program.read_vector(0)))


def _servo(program: ControlProgram, target: Array) -> None:
    program.take_arm("servo")
    if not program.safety.can_move:
        return
    lookahead = float(np.clip(program.read(9), *_CUT_LOOKAHEAD))
    gain = float(np.clip(program.read(10), *_CUT_GAIN))
    motion = program.arm.motion
    if isinstance(motion, Servo):
        motion.target, motion.lookahead, motion.gain = target, lookahead, gain
    else:
        program.arm.motion = Servo(target, lookahead, gain)


def _speed_j(program: ControlProgram) -> None:
    _speed(program, SpeedJoints(program.read_vector(0), max(program.read(6), 1e-3)))


def _speed_l(program: ControlProgram) -> None:
    velocity, acceleration = program.read_vector(0), max(program.read(6), 1e-3)
    _speed(program, SpeedTool(program.chain, velocity, acceleration))


def _speed(program: ControlProgram, motion: Motion) -> None:
    program.take_arm("speed")
    if program.safety.can_move:
        program.arm.motion = motion


def _speed_stop(program: ControlProgram) -> bool:
    by_joints = isinstance(program.arm.motion, SpeedJoints)
    return _end_thread(program, "speed", by_joints)


def _servo_stop(program: ControlProgram) -> bool:
    return _end_thread(program, "servo", by_joints=False)


def _end_thread(program: ControlProgram, thread: str, by_joints: bool) -> bool:
    if program.thread == thread:
        program.thread = None
    return _decelerate(program, by_joints)


def _stop_l(program: ControlProgram) -> bool:
    return _stop(program, by_joints=False)


def _stop_j(program: ControlProgram) -> bool:
    return _stop(program, by_joints=True)


def _stop(program: ControlProgram, by_joints: bool) -> bool:
    asynchronous = program.read_int(1) == 1
    program.take_arm("stop" if asynchronous else "main")
    if not asynchronous:
        program.thread = None
    else:
        program.report_async(0)
    return _decelerate(program, by_joints) and not asynchronous


def _decelerate(program: ControlProgram, by_joints: bool) -> bool:
    arm, deceleration = program.arm, program.read(0)
    if by_joints:
        arm.motion = stop_joints(arm.qd, deceleration)
    else:
        arm.motion = stop_tool(program.chain, arm.q, arm.qd, deceleration)
    return True


def _set_payload(program: ControlProgram) -> None:
    program.payload = program.read(0)
    centre = program.read_vector(1, 3)
    if centre.any():
        program.centre_of_gravity = tuple(centre.tolist())


def _set_tcp(program: ControlProgram) -> None:
    program.chain.set_tcp(program.read_vector(0))


def _set_watchdog(program: ControlProgram) -> None:
    program.watchdog.set(program.read(0), program.now)


def _protective_stop(program: ControlProgram) -> None:
    program.safety.protective_stop("the program asked for it")


def _step_time(program: ControlProgram) -> None:
    program.write(0, 1.0 / program.rtde.rate_hz)


def _tool_contact(program: ControlProgram) -> None:
    program.write_int(1, 0)


def _joint_torques(program: ControlProgram) -> None:
    program.write_vector(program.world.contact_torques())


def _flange_pose(program: ControlProgram) -> None:
    program.write_vector(pose(program.chain.flange(program.world.q)))


def _tcp_offset(program: ControlProgram) -> None:
    program.write_vector(program.chain.tcp)


def _forward(program: ControlProgram) -> None:
    program.write_vector(pose(program.chain.tool(program.world.q)))


def _forward_of(program: ControlProgram) -> None:
    flange = program.chain.flange(program.read_vector(0))
    program.write_vector(pose(compose(flange, frame(program.read_vector(6)))))


def _inverse_default(program: ControlProgram) -> None:
    program.write_vector(_inverse(program, program.read_vector(0)))


def _inverse_near(program: ControlProgram) -> None:
    program.write_vector(_inverse(program, program.read_vector(0), program.read_vector(6)))


def _has_inverse(program: ControlProgram) -> None:
    target = frame(program.read_vector(0))
    program.write_int(1, program.chain.solve(target, program.arm.q) is not None)


def _has_inverse_near(program: ControlProgram) -> None:
    target = frame(program.read_vector(0))
    program.write_int(1, program.chain.solve(target, program.read_vector(6)) is not None)


def _joints_are_safe(program: ControlProgram) -> None:
    program.write_int(1, program.arm.allows(program.read_vector(0)))


def _pose_trans(program: ControlProgram) -> None:
    first, second = frame(program.read_vector(0)), frame(program.read_vector(6))
    program.write_vector(pose(compose(first, second)))


def _is_steady(program: ControlProgram) -> None:
    program.write_int(1, program.arm.is_steady)


def _inverse(program: ControlProgram, target: Array, near: Array | None = None) -> Array:
    joints = program.chain.solve(frame(target), program.arm.q if near is None else near)
    if joints is None:
        raise ProgramError(f"no inverse kinematics for the pose {target.tolist()}")
    return joints


def _nothing(program: ControlProgram) -> None:
    """Accepts a command without effect."""


HANDLERS: dict[int, Handler] = {
    1: _move_j,
    2: _move_j_ik,
    3: _move_l,
    4: _move_l_fk,
    8: _nothing,  # zeroFtSensor
    9: _speed_j,
    10: _speed_l,
    11: _servo_j,
    15: _speed_stop,
    16: _servo_stop,
    17: _set_payload,
    24: _servo_l,
    25: _tool_contact,
    26: _step_time,
    29: _set_tcp,
    30: _inverse_near,
    31: _protective_stop,
    33: _stop_l,
    34: _stop_j,
    35: _set_watchdog,
    36: _has_inverse,
    37: _joints_are_safe,
    38: _joint_torques,
    39: _pose_trans,
    40: _tcp_offset,
    43: _forward,
    44: _forward_of,
    45: _move_path,
    46: _inverse_default,
    47: _is_steady,
    58: _flange_pose,
    60: _has_inverse,
    61: _has_inverse_near,
    65: _set_payload,
}
