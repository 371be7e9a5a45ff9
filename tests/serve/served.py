"""Both servers, run alike, and what a robot sees."""

import asyncio
import os
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

from actquant_runtime import ModelFileError
from native_build import newest_build
from policy_files import (
    ACTION_PADDED,
    CHUNK,
    EMBEDDING,
    HEIGHT,
    PROGRAMS,
    STATE_DIM,
    STATE_PADDED,
    TOKEN_WIDTH,
    WIDTH,
    write_policy,
)
from prometheus_client.parser import text_string_to_metric_families

from actquant.common.errors import ActquantError
from actquant.serve.server import Server
from actquant.serve.settings import KEY_VARIABLE, ServeSettings

SCENE, WRIST = "observation.images.scene", "observation.images.wrist"
PYTHON, NATIVE = KINDS = ("python", "native")
"""`actquant serve` and `actquant-serve`."""
OPTIONS = {
    "host": "--host",
    "port": "--port",
    "certificate": "--tls-certificate",
    "certificate_key": "--tls-key",
    "queue": "--queue",
    "deadline_s": "--deadline",
    "keepalive_s": "--keepalive",
    "max_clients": "--max-clients",
    "threads": "--threads",
}
"""Settings and their options on the command line."""


class RefusedError(Exception):
    """A server does not start; its own words."""


@dataclass(frozen=True)
class Served:
    """A server that runs: the port it listens on, its process, and which of the two it is."""

    port: int
    pid: int
    kind: str


def native_server() -> str:
    """Returns where actquant-serve was built."""
    installed = Path(sysconfig.get_path("scripts"), "actquant-serve")
    return str(newest_build("runtime/server/actquant-serve", installed))


def command(kind: str, models: dict[str, Path], **settings: Any) -> list[str]:
    """Returns the command line of a server."""
    words = [sys.executable, "-m", "actquant.cli", "serve"]
    if kind == NATIVE:
        words = [native_server()]
    words += [f"{name}={path}" for name, path in models.items()]
    for name, value in settings.items():
        if name == "insecure":
            words += ["--insecure"] if value else []
        elif name == "renamed":
            words += [f"--rename={theirs}={ours}" for theirs, ours in value.items()]
        elif name == "max_message_bytes":
            words += ["--max-message-mb", str(value / 1e6)]
        else:
            words += [OPTIONS[name], str(value)]
    return words


@contextmanager
def started(
    kind: str, models: dict[str, Path], *, api_key: str | None = None, **settings: Any
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Runs a server as a command; yields its process and the address of its first model.

    Stops it at the end, which it must obey. Raises RefusedError where it does not start.
    """
    environment = {k: v for k, v in os.environ.items() if k != KEY_VARIABLE}
    environment |= {} if api_key is None else {KEY_VARIABLE: api_key}
    words = command(kind, models, **({"port": 0} | settings))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(words, text=True, env=environment, **pipes)
    assert process.stdout is not None and process.stderr is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise RefusedError(process.stderr.read())
        yield process, line.split(" ")[1].strip()
    finally:
        process.terminate()
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 0, said


@contextmanager
def running(kind: str, models: dict[str, Path], **settings: Any) -> Iterator[Served]:
    """Runs a server, in Python in a thread of this process. Raises RefusedError."""
    if kind == PYTHON:
        with in_thread(ServeSettings(models, **({"port": 0} | settings))) as server:
            yield Served(server.port, os.getpid(), kind)
        return
    # What the program looks at once a second, Python's tests look at more often.
    settings.pop("watch_s", None)
    with started(kind, models, **settings) as (process, address):
        yield Served(int(address.split(":")[2].partition("/")[0]), process.pid, kind)


@contextmanager
def in_thread(settings: ServeSettings) -> Iterator[Server]:
    """Runs Python's server in a thread; stops it at the end, and raises what it raised."""
    begun, failed, made = threading.Event(), [], []

    async def serve() -> None:
        server, ready = Server(settings), asyncio.Event()
        made.append((server, asyncio.get_running_loop()))
        task = asyncio.create_task(server.run(ready))
        await ready.wait()
        begun.set()
        await task

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failed.append(error)
            begun.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(20)
    try:
        if not failed:
            yield made[0][0]
    finally:
        if made and not failed:
            server, loop = made[0]
            loop.call_soon_threadsafe(server.stop)
        thread.join(20)
        assert not thread.is_alive()
    if failed:
        if isinstance(failed[0], ActquantError | ModelFileError):
            raise RefusedError(str(failed[0])) from failed[0]
        raise failed[0]


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Waits until a condition holds, for a minute at most."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"it did not come to: {what}"
        time.sleep(0.02)


def page(server: Served, path: str) -> tuple[int, str]:
    """Returns the status and the text of one of the server's pages."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def metric(server: Served, name: str) -> float:
    """Returns a value of /metrics; 0 for one that is not there yet."""
    for family in text_string_to_metric_families(page(server, "/metrics")[1]):
        for sample in family.samples:
            labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))
            if f"{sample.name}{{{labels}}}" == name:
                return sample.value
    return 0.0


def sessions(server: Served) -> float:
    """Returns how many clients the server has."""
    return metric(server, 'actquant_sessions{model="tiny"}')


def observation(seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        SCENE: random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8),
        WRIST: random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8),
        "observation.state": random.normal(size=STATE_DIM).astype(np.float32),
        "task": "push the red cube",
    }


def two_step_programs() -> dict[str, str]:
    """Of a policy of two observation steps: the prefix takes four pictures and two states."""
    inputs = "\n".join(
        f"%{2 * k} = input {EMBEDDING} name=image_embedding_{k}\n"
        f"%{2 * k + 1} = input b8[1] name=image_mask_{k}"
        for k in range(4)
    )
    prefix = f"""
{inputs}
%8 = input i64[1,L] name=tokens
%9 = input b8[1,L] name=token_mask
%10 = input f32[2,{STATE_PADDED}] name=state
%11 = embedding f32[1,L,8] @vocabulary %8
%12 = linear f32[2,8] %10 @state.w
%13 = slice f32[1,8] %12 dim=0 start=1 end=2
%15 = reshape f32[1,1,8] %13 shape=[1,1,8]
%16 = add {EMBEDDING} %0 %2
%17 = add {EMBEDDING} %4 %6
%18 = concat f32[1,5+L,8] %16 %17 %11 %15 dim=1
%19 = host.reshape b8[1,1] %1 shape=[1,1]
%20 = host.expand b8[1,2] %19 shape=[1,2]
%21 = host.le b8[1,1] %19 %19
%22 = host.concat b8[1,5+L] %20 %20 %9 %21 dim=1
output keys %18
output key_mask %22
"""
    return PROGRAMS | {"prefix": prefix}


def write_slow_policy(path: Path) -> Path:
    """Writes a policy that takes a second or so for a chunk: by the most steps of a
    sampler and a wide layer."""
    steps, wide = 1024, 2048
    narrow = f"%14 = linear f32[1,{CHUNK},{ACTION_PADDED}]"
    widened = f"""
%19 = linear f32[1,{CHUNK},{wide}] %13 @widen
%20 = linear f32[1,{CHUNK},{wide}] %19 @wide
{narrow} %20 @narrow"""
    assert f"{narrow} %13 @out.w" in PROGRAMS["denoise"]
    denoise = PROGRAMS["denoise"].replace(f"{narrow} %13 @out.w", widened.strip())
    euler = [0.0, 0.0, 0.0, 0.0, 1.0, -1 / steps, 0.0, 0.0]
    return write_policy(
        path,
        programs={"denoise": denoise},
        tensors={
            "widen": np.zeros((wide, TOKEN_WIDTH), np.float32),
            "wide": np.zeros((wide, wide), np.float32),
            "narrow": np.zeros((ACTION_PADDED, wide), np.float32),
            "times": np.zeros((steps, 1), np.float32),
        },
        keys={
            "actquant.sampler.timesteps": ("array", [1 - k / steps for k in range(steps)]),
            "actquant.sampler.coefficients": ("array", euler * steps),
        },
    )
