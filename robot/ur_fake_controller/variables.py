"""RTDE's variables: names, types, and the values the fake controller gives at rest.

The names and types are those of Universal Robots' RTDE guide.
"""

from __future__ import annotations

Values = tuple[float, ...]

#: struct format of each RTDE type (big-endian, without padding).
FORMATS = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT32": "I",
    "UINT64": "Q",
    "INT32": "i",
    "DOUBLE": "d",
    "VECTOR3D": "3d",
    "VECTOR6D": "6d",
    "VECTOR6INT32": "6i",
    "VECTOR6UINT32": "6I",
}

REGISTERS = 48  # int and double registers, each way
_ZERO3: Values = (0.0,) * 3
_ZERO6: Values = (0.0,) * 6

_VECTORS = (
    "target_q",
    "target_qd",
    "target_qdd",
    "target_current",
    "target_moment",
    "actual_q",
    "actual_qd",
    "actual_current",
    "joint_control_output",
    "actual_TCP_pose",
    "actual_TCP_speed",
    "actual_TCP_force",
    "target_TCP_pose",
    "target_TCP_speed",
)
_E_SERIES = {
    "ft_raw_wrench": ("VECTOR6D", _ZERO6),
    "actual_current_as_torque": ("VECTOR6D", _ZERO6),
    "tcp_offset": ("VECTOR6D", _ZERO6),
}
_OTHERS: dict[str, tuple[str, Values]] = {
    "timestamp": ("DOUBLE", (0.0,)),
    "actual_digital_input_bits": ("UINT64", (0,)),
    "actual_digital_output_bits": ("UINT64", (0,)),
    "joint_temperatures": ("VECTOR6D", (28.0, 28.0, 28.0, 30.0, 30.0, 31.0)),
    "actual_execution_time": ("DOUBLE", (0.0,)),
    "robot_mode": ("INT32", (7,)),
    "joint_mode": ("VECTOR6INT32", (253,) * 6),
    "safety_mode": ("INT32", (1,)),
    "safety_status": ("INT32", (1,)),
    "actual_tool_accelerometer": ("VECTOR3D", (0.0, 0.0, -9.81)),
    "speed_scaling": ("DOUBLE", (1.0,)),
    "target_speed_fraction": ("DOUBLE", (1.0,)),
    "actual_momentum": ("DOUBLE", (0.0,)),
    "actual_main_voltage": ("DOUBLE", (48.0,)),
    "actual_robot_voltage": ("DOUBLE", (48.0,)),
    "actual_robot_current": ("DOUBLE", (0.5,)),
    "actual_joint_voltage": ("VECTOR6D", (48.0,) * 6),
    "runtime_state": ("UINT32", (1,)),
    "elbow_position": ("VECTOR3D", _ZERO3),
    "elbow_velocity": ("VECTOR3D", _ZERO3),
    "robot_status_bits": ("UINT32", (1,)),
    "safety_status_bits": ("UINT32", (1,)),
    "analog_io_types": ("UINT32", (0,)),
    "standard_analog_input0": ("DOUBLE", (0.0,)),
    "standard_analog_input1": ("DOUBLE", (0.0,)),
    "standard_analog_output0": ("DOUBLE", (0.0,)),
    "standard_analog_output1": ("DOUBLE", (0.0,)),
    "io_current": ("DOUBLE", (0.0,)),
    "tool_mode": ("UINT32", (253,)),
    "tool_output_voltage": ("INT32", (24,)),
    "tool_output_current": ("DOUBLE", (0.0,)),
    "tool_temperature": ("DOUBLE", (30.0,)),
    "tool_force_scalar": ("DOUBLE", (0.0,)),
    "payload": ("DOUBLE", (0.0,)),
    "payload_cog": ("VECTOR3D", _ZERO3),
    "payload_inertia": ("VECTOR6D", _ZERO6),
    "script_control_line": ("UINT32", (0,)),
    "output_bit_registers0_to_31": ("UINT32", (0,)),
    "output_bit_registers32_to_63": ("UINT32", (0,)),
}

_INPUTS = {
    "speed_slider_mask": "UINT32",
    "speed_slider_fraction": "DOUBLE",
    "standard_digital_output_mask": "UINT8",
    "standard_digital_output": "UINT8",
    "configurable_digital_output_mask": "UINT8",
    "configurable_digital_output": "UINT8",
    "tool_digital_output_mask": "UINT8",
    "tool_digital_output": "UINT8",
    "standard_analog_output_mask": "UINT8",
    "standard_analog_output_type": "UINT8",
    "standard_analog_output_0": "DOUBLE",
    "standard_analog_output_1": "DOUBLE",
    "input_bit_registers0_to_31": "UINT32",
    "input_bit_registers32_to_63": "UINT32",
    "external_force_torque": "VECTOR6D",
}


def outputs(e_series: bool) -> dict[str, tuple[str, Values]]:
    """Returns type and first value of every output variable."""
    variables = dict(_OTHERS)
    variables.update({name: ("VECTOR6D", _ZERO6) for name in _VECTORS})
    if e_series:
        variables.update(_E_SERIES)
    variables.update({f"output_int_register_{i}": ("INT32", (0,)) for i in range(REGISTERS)})
    variables.update({f"output_double_register_{i}": ("DOUBLE", (0.0,)) for i in range(REGISTERS)})
    return variables


def inputs() -> dict[str, str]:
    """Returns type of every input variable."""
    variables = dict(_INPUTS)
    variables.update({f"input_bit_register_{i}": "BOOL" for i in range(64, 128)})
    variables.update({f"input_int_register_{i}": "INT32" for i in range(REGISTERS)})
    variables.update({f"input_double_register_{i}": "DOUBLE" for i in range(REGISTERS)})
    return variables


def zero(type_name: str) -> Values:
    """Returns the value [n] that an input of a type has before anything is written to it."""
    digits = FORMATS[type_name].rstrip("?BIQid")
    return (0,) * int(digits or 1)
