"""Frames to record, and the header that goes with them."""

import numpy as np

from actquant.deploy.journal import Frame, Header

CAMERAS = {"observation.images.scene": [8, 8, 3], "observation.images.wrist": [4, 6, 3]}
STATE_NAMES, ACTION_NAMES = ["a", "b", "c"], ["x", "y"]


def header(**changes: object) -> Header:
    values = {
        "task": "pick up the cube",
        "rate_hz": 10.0,
        "robot_type": "ur3e",
        "state_names": STATE_NAMES,
        "action_names": ACTION_NAMES,
        "cameras": CAMERAS,
    }
    return Header(**(values | changes))  # pyright: ignore[reportArgumentType]


def frame(k: int) -> Frame:
    """Frame number `k`; no two are alike."""
    rng = np.random.default_rng(k)
    return Frame(
        time_s=1000.0 + 0.1 * k,
        state=np.full(3, k, np.float32),
        action=np.array([k, -k], np.float32),
        images={n: rng.integers(0, 256, shape, np.uint8) for n, shape in CAMERAS.items()},
        extra={"tick": k},
    )
