"""What many environments of one process share: the compiled model and the renderers."""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled module carries no type information.)

from __future__ import annotations

import atexit
import threading
import weakref
from functools import lru_cache

import mujoco
import numpy as np
from numpy.typing import NDArray

from .scene import scene_xml

CAMERAS = ("scene", "wrist")
OVERVIEW_AT = (-0.2, 0.0, 0.19)
OVERVIEW_FROM = (1.15, 40.0, -25.0)
"""Where people look from: distance (m) from OVERVIEW_AT, azimuth and elevation (degrees)."""


class Simulator:
    """The compiled scene and one renderer per image size and thread.

    The model is read-only here, so that any number of environments, in any threads, may share one
    Simulator; an environment that perturbs it has one of its own. An OpenGL context belongs to one
    thread: renderers are made on first use in each thread, and never before a fork.
    """

    def __init__(self, *, distractors: bool = False, textured: bool = False) -> None:
        """`distractors`, `textured`: as in `scene_xml`."""
        xml = scene_xml(distractors=distractors, textured=textured)
        self.model = mujoco.MjModel.from_xml_string(xml)
        self._textures = 0
        self._local = threading.local()
        self._lock = threading.Lock()

    def image(self, data: mujoco.MjData, camera: str, size: int) -> NDArray[np.uint8]:
        """Returns picture uint8 [size, size, 3] from one of CAMERAS of the state in `data`."""
        return self._picture(data, camera, (size, size))

    def overview(self, data: mujoco.MjData, height: int, width: int) -> NDArray[np.uint8]:
        """Returns picture uint8 [height, width, 3] of the arm and its table, which no part of the
        arm leaves in the tasks."""
        camera = mujoco.MjvCamera()
        camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        camera.lookat = OVERVIEW_AT
        camera.distance, camera.azimuth, camera.elevation = OVERVIEW_FROM
        return self._picture(data, camera, (height, width))

    def _picture(
        self, data: mujoco.MjData, camera: str | mujoco.MjvCamera, shape: tuple[int, int]
    ) -> NDArray[np.uint8]:
        renderer = self._renderer(shape)
        renderer.update_scene(data, camera)
        return renderer.render().copy()

    def textures_changed(self) -> None:
        """Has pictures show the textures that the model has now: a renderer copies them."""
        self._textures += 1

    def _renderer(self, shape: tuple[int, int]) -> mujoco.Renderer:
        local = self._local.__dict__
        if local.setdefault("textures", self._textures) != self._textures:
            local["textures"] = self._textures
            for stale in local.pop("renderers", {}).values():
                stale.close()
        renderers: dict[tuple[int, int], mujoco.Renderer] = local.setdefault("renderers", {})
        if shape not in renderers:
            with self._lock:
                # The frame buffer takes its size from the model when the context is made; a
                # buffer larger than the picture would be cleared for nothing in every frame.
                self.model.vis.global_.offheight, self.model.vis.global_.offwidth = shape
                renderers[shape] = mujoco.Renderer(self.model, *shape)
                # Registered only now, it runs before MuJoCo shuts EGL down: freeing a context
                # after that prints errors.
                atexit.register(_close, weakref.ref(renderers[shape]))
        return renderers[shape]


@lru_cache(maxsize=1)
def shared_simulator() -> Simulator:
    """Returns the process-wide Simulator that environments use unless given another."""
    return Simulator()


def _close(renderer: weakref.ref[mujoco.Renderer]) -> None:
    alive = renderer()
    if alive is not None:
        alive.close()
