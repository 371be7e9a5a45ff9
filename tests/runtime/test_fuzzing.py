"""The fuzzers' corpus and what they have found, replayed; a short run of those that are built."""

import subprocess
import sys
from pathlib import Path

import pytest
from actquant_runtime import Runtime
from native_build import ROOT, newest_build

FUZZ = ROOT / "runtime/fuzz"
sys.path.append(str(FUZZ))

import run as fuzzers  # noqa: E402

MOST_CORPUS_BYTES = 2_000_000


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("target", fuzzers.TARGETS)
def test_corpus_and_regressions_end_well(target: str):
    """Each file in turn, in the ordinary build: what opens acts, what does not is refused."""
    folders = [FUZZ / "corpus" / target, FUZZ / "regressions" / target]
    files = [file for folder in folders for file in files_in(folder)]
    program = newest_build(f"runtime/fuzz/replay_{target}")
    done = subprocess.run([program, *files], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) == len(files) > 0


def test_corpus_is_what_its_script_writes(tmp_path: Path):
    """So that it follows the file format. Compressed images may differ between versions of Pillow,
    and what numbers weights are quantized to between machines."""
    subprocess.run(
        [sys.executable, FUZZ / "corpus.py", "--out", tmp_path], check=True, capture_output=True
    )
    kept = {path.relative_to(FUZZ / "corpus"): path for path in files_in(FUZZ / "corpus")}
    assert set(kept) == {path.relative_to(tmp_path) for path in files_in(tmp_path)}
    assert sum(path.stat().st_size for path in kept.values()) < MOST_CORPUS_BYTES
    for name in ("policy/sampling.gguf", "policy/one_shot.gguf", "policy/layout.gguf"):
        assert kept[Path(name)].read_bytes() == (tmp_path / name).read_bytes()


def test_every_policy_of_the_corpus_opens():
    for path in files_in(FUZZ / "corpus/policy"):
        Runtime(path, threads=1)


def test_fuzzers_that_are_built_find_nothing(tmp_path: Path):
    """A few seconds each; `make fuzz` takes longer."""
    build = ROOT / "build/fuzz"
    if any(not (build / f"runtime/fuzz/fuzz_{target}").exists() for target in fuzzers.TARGETS):
        pytest.skip("the fuzzers are not built; `make fuzz` does it, with clang, in some minutes")
    for target in fuzzers.TARGETS:
        outcome = fuzzers.run(build, target, seconds=4, keep=tmp_path)
        assert not outcome.crashed and outcome.executions > 0, target
