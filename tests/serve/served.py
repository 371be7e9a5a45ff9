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

from policy_files import HEIGHT, STATE_DIM, WIDTH

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
