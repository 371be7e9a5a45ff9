"""What a core install lacks: which extra or distribution brings a module, and what for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Extra:
    """Something that is installed beside the core.

    install: what pip is to be given; purpose: what it is needed for; modules: top-level modules
    that only it brings, those first that show it to be there.
    """

    install: str
    purpose: str
    modules: tuple[str, ...]

    @property
    def remedy(self) -> str:
        return f"pip install {self.install}"


_CLONE = "(not on an index: build it from the repository's folder {})"

EXTRAS = (
    Extra(
        "'actquant[compress]'",
        "compressing a checkpoint, running one in PyTorch",
        (
            *("torch", "lerobot", "transformers", "safetensors", "tokenizers"),
            *("datasets", "accelerate", "diffusers", "peft"),
        ),
    ),
    Extra(
        "'actquant[sim]'",
        "pictures, films and reports of a simulation",
        ("imageio", "scipy", "av", "jinja2", "markupsafe", "matplotlib"),
    ),
    Extra(
        "'actquant[serve]'",
        "serving policies, a rosbridge",
        ("websockets", "msgpack", "prometheus_client"),
    ),
    Extra("'actquant[hub]'", "policies on the Hugging Face hub", ("huggingface_hub",)),
    Extra("'actquant[ray]'", "evaluation on a Ray cluster", ("ray", "grpc")),
    Extra("'actquant[rerun]'", "recordings for rerun", ("rerun",)),
    Extra("'actquant[record]'", "recording what an arm does", ()),  # of LeRobot, as for compressing
    Extra(
        "lerobot_env_ur3e " + _CLONE.format("sim_envs"),
        "evaluation in simulation",
        ("lerobot_env_ur3e", "mujoco", "mink", "gymnasium"),
    ),
    Extra(
        "lerobot_robot_ur " + _CLONE.format("robot"),
        "driving an arm",
        ("lerobot_robot_ur", "rtde_control", "rtde_receive", "ruckig"),
    ),
    Extra(
        "'lerobot_robot_ur[zmq]' " + _CLONE.format("robot"),
        "cameras over ZeroMQ",
        ("zmq",),
    ),
    Extra(
        "'lerobot_robot_ur[opencv]' " + _CLONE.format("robot"),
        "cameras of this computer",
        ("cv2",),
    ),
    Extra(
        "'lerobot_robot_ur[realsense]' " + _CLONE.format("robot"),
        "RealSense cameras",
        ("pyrealsense2",),
    ),
    Extra(
        "'lerobot_robot_ur[sim]' " + _CLONE.format("robot"),
        "the simulated controller",
        ("ur_fake_controller",),
    ),
    Extra("ur_motion " + _CLONE.format("motion"), "Cartesian control", ("ur_motion",)),
)


def find_extra(module: str | None) -> Extra | None:
    """Returns what brings a module, e.g. `torch.nn`; None for one that belongs to the core."""
    top = (module or "").partition(".")[0]
    return next((extra for extra in EXTRAS if top in extra.modules), None)


def explain_missing(error: ImportError, needed: str | None = None) -> str:
    """Returns one line that says what to install for a module that could not be imported.

    needed: the module that was asked for, where it is another one that it lacks.
    """
    extra = find_extra(needed or error.name)
    if extra is None:
        return f"{error}"
    return f"{error}; it is needed for {extra.purpose}: {extra.remedy}"
