"""What this machine has and lacks for actquant, with the remedy."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from actquant.common.extras import EXTRAS, Extra
from actquant.common.machine import usable_cores

Status = Literal["ok", "missing", "warning"]
SHOWN = 4
"""Modules of an extra that are shown; the others come with them."""


class Check(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    status: Status
    found: str
    needed_for: str
    remedy: str = ""


class Report(BaseModel):
    model_config = ConfigDict(extra="forbid")

    checks: list[Check]

    @property
    def healthy(self) -> bool:
        """True if nothing is missing; warnings do not count."""
        return all(check.status != "missing" for check in self.checks)


def diagnose() -> Report:
    """Looks at this machine; changes nothing."""
    checks = [_python(), _runtime(), _threads(), _memory()]
    checks += [_module(module, extra) for extra in EXTRAS for module in extra.modules[:SHOWN]]
    checks += [_rendering(), _compiler()]
    return Report(checks=checks)


def _python() -> Check:
    ok = sys.version_info >= (3, 12)
    return Check(
        name="Python",
        status="ok" if ok else "missing",
        found=platform.python_version(),
        needed_for="everything",
        remedy="" if ok else "install Python 3.12 or 3.13",
    )


def _runtime() -> Check:
    try:
        from actquant_runtime import build_info
    except ImportError as error:
        return Check(
            name="native runtime",
            status="missing",
            found=str(error),
            needed_for="running and writing a GGUF",
            remedy="pip install --force-reinstall actquant",
        )
    info = build_info()
    return Check(
        name="native runtime",
        status="ok",
        found=", ".join(f"{key} {_text(value)}" for key, value in info.items()),
        needed_for="running and writing a GGUF",
    )


def _text(value: object) -> str:
    if isinstance(value, dict):
        return "+".join(key for key, on in value.items() if on)
    return "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _threads() -> Check:
    cores = usable_cores()
    return Check(
        name="CPU",
        status="ok" if cores >= 2 else "warning",
        found=f"{platform.machine()}, {cores} usable cores",
        needed_for="control at 10 Hz and more",
        remedy="" if cores >= 2 else "give this process at least two cores",
    )


def _memory() -> Check:
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total_gb = int(fields["MemTotal"].split()[0]) / 1e6
    free_gb = int(fields["MemAvailable"].split()[0]) / 1e6
    return Check(
        name="memory",
        status="ok" if free_gb >= 4 else "warning",
        found=f"{free_gb:.1f} of {total_gb:.1f} GB available",
        needed_for="compressing: the policy in float32, its curvature, the calibration frames",
        remedy="" if free_gb >= 4 else "close other programs, or compress on a larger machine",
    )


def _module(module: str, extra: Extra) -> Check:
    names = importlib.metadata.packages_distributions().get(module, [module])
    try:
        found, status, remedy = importlib.metadata.version(names[0]), "ok", ""
    except importlib.metadata.PackageNotFoundError:
        found, status, remedy = "not installed", "warning", extra.remedy
    return Check(name=module, status=status, found=found, needed_for=extra.purpose, remedy=remedy)


def _rendering() -> Check:
    backend = os.environ.get("MUJOCO_GL", "egl")
    # In a process of its own: a broken GL driver aborts instead of raising.
    code = "import mujoco; context = mujoco.GLContext(64, 64); context.make_current(); print('ok')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"MUJOCO_GL": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    ok = done.returncode == 0 and "ok" in done.stdout
    return Check(
        name="headless rendering",
        status="ok" if ok else "warning",
        found=f"MUJOCO_GL={backend} {'works' if ok else 'fails'}",
        needed_for="evaluation in simulation",
        remedy=""
        if ok
        else "apt-get install libegl1 libegl-mesa0, or MUJOCO_GL=osmesa with libosmesa6",
    )


def _compiler() -> Check:
    found = [tool for tool in ("g++", "clang++", "cmake") if shutil.which(tool)]
    ok = "cmake" in found and len(found) >= 2
    return Check(
        name="build tools",
        status="ok" if ok else "warning",
        found=", ".join(found) or "none",
        needed_for="building the runtime from source",
        remedy="" if ok else "apt-get install g++ cmake",
    )
