"""A process that is forked from one that has opened a policy: it acts, or says why it cannot."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import policy_files
import pytest
from actquant_runtime import Runtime

SECONDS = 60


def in_a_child(work) -> str:
    """Returns what `work` returns in a forked process, which must end by itself."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, work().encode())
        finally:
            os._exit(0)
    os.close(writer)
    deadline = time.monotonic() + SECONDS
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the forked process hangs")
        time.sleep(0.01)
    with os.fdopen(reader) as told:
        return told.read()


def act(runtime: Runtime) -> str:
    try:
        return str(runtime.act(policy_files.observation(), seed=1).tolist())
    except RuntimeError as error:
        return str(error)


BLOCKS = {"spare.w": policy_files.Packed(np.zeros((1, 34), np.uint8), "Q8_0", (1, 32))}
"""With these our own threads run the products, without ggml's."""


def test_with_threads_of_ggml_it_says_so_and_ends(tmp_path: Path) -> None:
    runtime = Runtime(policy_files.write_policy(tmp_path / "tiny.gguf"), threads=2)
    act(runtime)

    def work() -> str:
        told = act(runtime)
        runtime._session = None  # its end must not wait for threads that are not there
        return told

    told = in_a_child(work)
    assert f"was forked from process {os.getpid()}, which opened this policy with 2 threads" in told


def test_with_threads_of_ours_it_acts_without_them(tmp_path: Path) -> None:
    path = policy_files.write_policy(tmp_path / "tiny.gguf", tensors=BLOCKS)
    runtime = Runtime(path, threads=2)
    if runtime.describe()["kernels"] in ("ggml", "baseline"):
        pytest.skip("ggml's threads do the products")
    before = act(runtime)

    def work() -> str:
        told = act(runtime)
        runtime._session = None
        return told

    assert in_a_child(work) == before


def test_with_one_thread_it_acts(tmp_path: Path) -> None:
    runtime = Runtime(policy_files.write_policy(tmp_path / "tiny.gguf"), threads=1)
    assert in_a_child(lambda: act(runtime)) == act(runtime)


def test_what_is_opened_in_the_child_acts(tmp_path: Path) -> None:
    path = policy_files.write_policy(tmp_path / "tiny.gguf")
    runtime = Runtime(path, threads=2)
    assert in_a_child(lambda: act(Runtime(path, threads=2))) == act(runtime)


def test_a_task_with_nul_is_refused(tmp_path: Path) -> None:
    runtime = Runtime(policy_files.write_policy(tmp_path / "tiny.gguf"))
    with pytest.raises(ValueError, match="has a NUL character"):
        runtime.act({**policy_files.observation(), "task": "push\0the red cube"})
