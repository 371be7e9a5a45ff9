"""Servers in threads of their own, and what a robot sees."""

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

from policy_files import EMBEDDING, HEIGHT, PROGRAMS, STATE_DIM, STATE_PADDED, WIDTH

from actquant.serve.server import Server
from actquant.serve.settings import ServeSettings

SCENE, WRIST = "observation.images.scene", "observation.images.wrist"


@contextmanager
def running(settings: ServeSettings) -> Iterator[Server]:
    """Runs a server in a thread; stops it at the end, and raises what it raised."""
    started, failed, made = threading.Event(), [], []

    async def serve() -> None:
        server, ready = Server(settings), asyncio.Event()
        made.append((server, asyncio.get_running_loop()))
        task = asyncio.create_task(server.run(ready))
        await ready.wait()
        started.set()
        await task

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failed.append(error)
            started.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(20)
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
        raise failed[0]


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
