"""Encoding takes the cores that the process may use, a thread each."""

import json
import os
import subprocess
import sys

import pytest

ENCODE = """
import json, os, sys, threading, time
os.sched_setaffinity(0, set(json.loads(sys.argv[1])))
import hashlib, numpy as np
import actquant.encoders.blocks as blocks

blocks.BLOCK_WEIGHTS = 1 << 17
weight = np.random.default_rng(0).normal(size=(2048, 1024)).astype(np.float32)
before, most, done = len(os.listdir("/proc/self/task")), 0, threading.Event()

def watch():
    global most
    while not done.is_set():
        most = max(most, len(os.listdir("/proc/self/task")))
        time.sleep(0.001)

watcher = threading.Thread(target=watch)
watcher.start()
encoded = blocks.encode("w", weight, "IQ3_S", np.ones_like(weight))
done.set()
watcher.join()
digest = hashlib.sha256(encoded.tensor.data.tobytes()).hexdigest()
print(json.dumps([most - before - 1, digest, encoded.error]))
"""


def encode_on(cores: list[int]) -> tuple[int, str, float]:
    """Threads that encoding had at most, a hash of the blocks, the error."""
    done = subprocess.run(
        [sys.executable, "-c", ENCODE, json.dumps(cores)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return tuple(json.loads(done.stdout))


def test_encoding_has_a_thread_a_core_and_the_same_result_on_any_number():
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.fail("this test needs two cores")
    one, two = encode_on(cores[:1]), encode_on(cores[:2])
    assert (one[0], two[0]) == (1, 2)
    assert one[1:] == two[1:]
