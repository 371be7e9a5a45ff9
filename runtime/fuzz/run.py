"""Builds the fuzzers with clang, runs each for a while on its corpus, and prints a table.

run.py [--seconds N] [--build DIR] [--optional] [TARGET ...]

What crashes, hangs or takes too much memory is kept in regressions/TARGET, where tests replay it;
the exit code is then 1.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
TARGETS = ("policy", "tokenizer", "act", "image", "message")
CLANG_VERSIONS = ("-19", "-18", "-17", "-16", "-14", "")
MEMORY_MB = 1024
"""Of the process, sanitizers included; what is allocated at once may be half of it."""
SECONDS_PER_INPUT = 20


@dataclass(frozen=True)
class Outcome:
    target: str
    executions: int
    edges: int
    of_edges: int
    corpus: int
    peak_mb: int
    crashed: bool


def find_clang() -> tuple[str, str] | None:
    """clang and clang++ of one version that can link a fuzzer; nothing where there is none."""
    for version in CLANG_VERSIONS:
        pair = shutil.which(f"clang{version}"), shutil.which(f"clang++{version}")
        if pair[0] is None or pair[1] is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "empty.cpp"
            source.write_text(
                'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) '
                "{ return 0; }"
            )
            command = [pair[1], "-fsanitize=fuzzer,address", source, "-o", source.with_suffix("")]
            if subprocess.run(command, capture_output=True).returncode == 0:
                return pair[0], pair[1]
    return None


def build(folder: Path, targets: tuple[str, ...], clang: tuple[str, str]) -> None:
    """ggml's own undefined behaviour is not looked for: it is compiled with ASan alone."""
    options = {
        "CMAKE_C_COMPILER": clang[0],
        "CMAKE_CXX_COMPILER": clang[1],
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_C_FLAGS_RELEASE": "-O1 -g1 -DNDEBUG",
        "CMAKE_CXX_FLAGS_RELEASE": "-O1 -g1 -DNDEBUG",
        "ACTQUANT_BUILD_FUZZERS": "ON",
        "ACTQUANT_BUILD_PYTHON": "OFF",
        "ACTQUANT_BUILD_LIBRARY": "OFF",
        "ACTQUANT_SANITIZE": "address,undefined",
        "GGML_SANITIZE_ADDRESS": "ON",
        "GGML_NATIVE": "OFF",
        "Python_EXECUTABLE": sys.executable,
    }
    for source in sorted(ROOT.glob("build/*/ggml-source/*/vendor/llama.cpp/ggml")):
        options["GGML_SOURCE_DIR"] = str(source)
    cmake = shutil.which("cmake") or sys.exit("cmake is not on the PATH")
    defines = [f"-D{name}={value}" for name, value in options.items()]
    programs = [f"fuzz_{target}" for target in targets]
    for command in (
        [cmake, "-S", ROOT, "-B", folder, *defines],
        [cmake, "--build", folder, "--parallel", "2", "--target", *programs],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout[-4000:] + done.stderr[-4000:])


def run(folder: Path, target: str, seconds: int, keep: Path = HERE / "regressions") -> Outcome:
    """Runs one fuzzer; what it learns stays in the build folder, what it breaks in keep/target."""
    learned = folder / "corpus" / target
    regressions = keep / target
    learned.mkdir(parents=True, exist_ok=True)
    regressions.mkdir(parents=True, exist_ok=True)
    command = [
        folder / "runtime/fuzz" / f"fuzz_{target}",
        learned,
        HERE / "corpus" / target,
        regressions,
        f"-max_total_time={seconds}",
        f"-timeout={SECONDS_PER_INPUT}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-malloc_limit_mb={MEMORY_MB // 2}",
        f"-artifact_prefix={regressions}/",
        "-max_len=65536",
        "-print_final_stats=1",
    ]
    dictionary = HERE / f"{target}.dict"
    command += [f"-dict={dictionary}"] if dictionary.exists() else []
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, errors="replace")
    log = done.stderr
    (folder / f"{target}.log").write_text(log)
    if done.returncode:
        print(log[-6000:], file=sys.stderr)

    def last(pattern: str) -> int:
        found = re.findall(pattern, log)
        return int(found[-1]) if found else 0

    return Outcome(
        target,
        executions=last(r"stat::number_of_executed_units:\s*(\d+)"),
        edges=last(r"cov: (\d+)"),
        of_edges=last(r"\((\d+) inline 8-bit counters\)") or last(r"\((\d+) PCs\)"),
        corpus=len(list(learned.iterdir())),
        peak_mb=last(r"stat::peak_rss_mb:\s*(\d+)"),
        crashed=done.returncode != 0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=TARGETS, metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=60, help="of all targets together")
    parser.add_argument("--build", type=Path, default=ROOT / "build/fuzz")
    parser.add_argument(
        "--optional", action="store_true", help="do nothing where no clang links fuzzers"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - set(TARGETS):
        parser.error(f"there is no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    clang = find_clang()
    if clang is None:
        reason = "no clang links fuzzers here; scripts/system_packages.sh --for-fuzz installs one"
        if arguments.optional:
            print(f"fuzzing is left out: {reason}")
            return
        sys.exit(reason)
    build(arguments.build, tuple(arguments.targets), clang)
    seconds = max(1, arguments.seconds // len(arguments.targets))
    outcomes = [run(arguments.build, target, seconds) for target in arguments.targets]
    print(f"{'target':10} {'executions':>11} {'edges':>15} {'inputs':>7} {'peak':>9}")
    for o in outcomes:
        edges = f"{o.edges} of {o.of_edges}"
        note = "  CRASHED, kept in runtime/fuzz/regressions" if o.crashed else ""
        print(f"{o.target:10} {o.executions:11,} {edges:>15} {o.corpus:7} {o.peak_mb:6} MB{note}")
    print(f"{'together':10} {sum(o.executions for o in outcomes):11,}")
    sys.exit(any(o.crashed for o in outcomes))


if __name__ == "__main__":
    main()
