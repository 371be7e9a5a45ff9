"""Calls that nobody means: what they are, how they end, and what they must be told.

A call names places by what lies there, e.g. `{model}`; see `places`.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from actquant.evaluation.result import (
    EpisodeRecord,
    EvaluationResult,
    Provenance,
    rate,
)


@dataclass(frozen=True)
class Call:
    """A command line, its exit code, and what its one line must hold."""

    words: str
    status: int
    told: str = ""


COMPRESS = "compress {checkpoint} --recipe rtn --control-rate-hz 10"
EVAL = "eval {model} --starts 0:1 --tasks push_zone"
SWEEP = "sweep {checkpoint} --dataset {dataset} --out {new}"
DEPLOY = "deploy {model} --ip 127.0.0.99 --task push --log {new}"


WRONG_OPTIONS = {
    "": [
        ("frobnicate", "No such command"),
        ("--frobnicate", "No such option"),
        ("inspect", "Missing argument"),
        ("inspect {model} {model}", "unexpected extra argument"),
        ("compress", "Missing"),
        ("compress {checkpoint}", "Missing option '--out'"),
        ("eval {model}", "Missing option '--out'"),
        ("serve", "Missing argument"),
        ("compress {checkpoint} --out {free}", "needs a dataset"),
        ("compress {checkpoint} --out {free} --recipe rtn --max-action-error 0.1", "on a dataset"),
        ("deploy {model} --ip 127.0.0.99 --task= --log {new}", "--task is empty"),
        ("deploy {model} --ip= --task push --log {new}", "--ip is empty"),
        ("cache --clear --remove abc", "--remove"),
    ],
    f"{EVAL} --out {{free}}": [
        ("--jobs -1", "--jobs"),
        ("--jobs 100000", "--jobs"),
        ("--jobs two", "--jobs"),
        ("--jobs 1.5", "--jobs"),
        ("--seed -1", "--seed"),
        ("--seed 99999999999999999999", "--seed"),
        ("--steps-per-chunk 0", "--steps-per-chunk"),
        ("--steps-per-chunk -4", "--steps-per-chunk"),
        ("--env mars", "choose one of"),
        ("--starts 0:3000000000", "at most 100,000"),
        ("--starts 0:", "is no range"),
        ("--starts :5", "is no range"),
        ("--starts 5:3", "without a start"),
        ("--starts a:b", "is no range"),
        ("--starts 1:2:3", "is no range"),
        ("--starts -1:3", "numbered from 0"),
        ("--starts -1", "numbered from 0"),
        ("--starts 0:3,", "is no range"),
        ("--starts 99999999999", "numbered from 0"),
        ("--starts 0:1.5", "is no range"),
        ("--starts nan", "is no range"),
        ("--perturb camera", "is no KIND=LEVEL"),
        ("--perturb camera=4", "levels 0 to 3"),
        ("--perturb light=1,light=1", "has light twice"),
        ("--perturb fog=1", "no perturbation 'fog'"),
        ("--env libero_goal --perturb light=1", "has no perturbations"),
        ("--latency -1", "from 0 on"),
        ("--latency nan", "from 0 on"),
        ("--latency inf", "from 0 on"),
        ("--latency soon", "or measured"),
        ("--latency 100 --latency-jitter -5", "from 0 on"),
        ("--latency 100 --latency-jitter nan", "from 0 on"),
        ("--latency 100 --latency-jitter 101", "more than --latency"),
        ("--latency measured --latency-jitter 5", "varies by itself"),
        ("--latency-jitter 5", "needs --latency"),
        ("--mode async", "needs --latency"),
        ("--mode wait --latency 100", "choose one of"),
        ("--latency 100 --execution-horizon 4", "is of --mode rtc"),
        ("--latency 100 --mode rtc --execution-horizon 0", "--execution-horizon"),
    ],
    "serve {model}": [
        ("--port 65536", "--port"),
        ("--port -1", "--port"),
        ("--queue 0", "--queue"),
        ("--deadline nan", "--deadline"),
        ("--max-clients 0", "--max-clients"),
        ("--max-message-mb inf", "--max-message-mb"),
        ("--max-message-mb 0", "--max-message-mb"),
        ("--threads -1", "--threads"),
        ("--host 0.0.0.0", "ACTQUANT_API_KEY"),
        ("--host 127.evil.example", "ACTQUANT_API_KEY"),
        ("--tls-key {text}", "belong together"),
        ("--rename base_rgb", "--rename"),
        ("{model}", "two models are called model"),
        ("a/b={model}", "is no name"),
    ],
    "bench {model}": [
        ("--n 0", "--n"),
        ("--n -5", "--n"),
        ("--n many", "--n"),
        ("--threads -3", "--threads"),
        ("--threads 100000", "--threads"),
    ],
    "compress {checkpoint} --dataset {dataset} --out {free}": [
        ("--bpw nan", "above 0"),
        ("--bpw inf", "above 0"),
        ("--bpw 0", "above 0"),
        ("--bpw -1", "above 0"),
        ("--bpw three", "--bpw"),
        ("--bpw 3 --target-size 1MB", "give one of"),
        ("--target-size 1ZB", "is no size"),
        ("--target-size -5MB", "is no size"),
        ("--target-size 0MB", "above 0"),
        ("--max-action-error nan", "above 0"),
        ("--max-action-error -0.1", "above 0"),
        ("--recipe [compress]", "unknown recipe '[compress]'"),
        ("--recipe q8_0 --bpw 3", "leave the budget out"),
        ("--verify twice", "unknown verification"),
        ("--frames 0", "--frames"),
        ("--draws -1", "--draws"),
        ("--held-out 0", "--held-out"),
        ("--tune-minutes -1", "--tune-minutes"),
        ("--tune-minutes nan", "--tune-minutes"),
        ("--tune-minutes inf", "--tune-minutes"),
        ("--tune-steps -1", "--tune-steps"),
        ("--seed -1", "--seed"),
        ("--control-rate-hz 0", "--control-rate-hz"),
        ("--control-rate-hz nan", "--control-rate-hz"),
        ("--option novalue", "wanted KEY=VALUE"),
        ("--option =3", "wanted KEY=VALUE"),
    ],
    f"{SWEEP}": [
        ("--bpw nan", "above 0"),
        ("--bpw 2,,3", "wanted numbers"),
        ("--bpw 0", "above 0"),
        ("--bpw 2.5,2.5000001 --recipes rtn", "the same name"),
        ("--recipes rtn,", "unknown recipe ''"),
        ("--recipes [bold]", "unknown recipe '[bold]'"),
        ("--seeds -1", "--seeds"),
        ("--seeds 0.5", "--seeds"),
        ("--env mars", "choose one of"),
        ("--starts 0:", "is no range"),
        ("--held-out 0", "--held-out"),
        ("--tune-minutes nan", "--tune-minutes"),
    ],
    "demo --out {new}": [
        ("--bpw 0", "--bpw"),
        ("--bpw nan", "--bpw"),
        ("--starts 0:", "is no range"),
    ],
    f"{DEPLOY}": [
        ("--speed 0", "--speed"),
        ("--speed 2", "--speed"),
        ("--speed nan", "--speed"),
        ("--episodes 0", "--episodes"),
        ("--max-seconds inf", "--max-seconds"),
        ("--max-refusals 0", "--max-refusals"),
        ("--settle -1", "--settle"),
        ("--mode backwards", "choose one of"),
        ("--threads -1", "--threads"),
        ("--seed -1", "--seed"),
        ("--limit fast", "wanted KEY=VALUE"),
        ("--steps-per-chunk 0", "--steps-per-chunk"),
        ("--dry-run --record {new}", "--dry-run"),
    ],
    "robot-sim": [
        ("--host 127.evil.example", "loopback"),
        ("--host 127.0.0.1.evil.example", "loopback"),
        ("--host 0.0.0.0", "loopback"),
        ("--host 10.0.0.1", "loopback"),
        ("--host localhost", "loopback"),
        ("--host=", "loopback"),
        ("--model ur9", "choose one of"),
        ("--task juggle", "choose one of"),
        ("--start -1", "--start"),
        ("--image-size 0", "--image-size"),
    ],
    "plan": [
        ("", "--detect"),
        ("--detect 0", "above 0"),
        ("--detect inf", "above 0"),
        ("--detect 120", "between 0% and 100%"),
        ("--detect 3 --success 101", "--success"),
        ("--detect 3 --success nan", "--success"),
        ("--detect 3 --power 2", "the power must be"),
        ("--detect 3 --discordance nan", "no finite number"),
        ("--detect 3 --discordance -5", "cannot be"),
        ("--detect 3 --have -1", "whole numbers"),
    ],
    "report": [
        ("", "Missing argument"),
        ("{result} --most-videos -1", "--most-videos"),
        ("{result} --most-video-mb nan", "--most-video-mb"),
    ],
}
"""What a command line begins with -> how it ends, and what must be told."""


def calls() -> list[Call]:
    """Returns the table."""
    return [
        *_wrong_options(),
        *_wrong_inputs(),
        *_wrong_outputs(),
    ]


def _wrong_options() -> list[Call]:
    return [
        Call(f"{begin} {words}".strip(), 2, told)
        for begin, endings in WRONG_OPTIONS.items()
        for words, told in endings
    ]


def _wrong_inputs() -> list[Call]:
    found = []
    reads = ("inspect {}", "verify {}", "bench {}", "eval {} --out {{free}}")
    for command in (*reads, "deploy {} --ip 127.0.0.99 --task push --log {{new}}"):
        for place, told in [
            ("{missing}", "there is nothing at"),
            ("{loop}", "levels of symbolic links"),
            ("{pipe}", "is a pipe"),
            ("{dangling}", "where a link leads"),
            ("{long}", "too long"),
            ("/dev/null", "is a device"),
        ]:
            found.append(Call(command.format(place).replace("{{", "{").replace("}}", "}"), 2, told))
    found += [
        Call("inspect {folder}", 2, "is a folder"),
        Call("verify {folder}", 2, "is a folder"),
        Call("bench {folder}", 2, "is a folder"),
        Call("verify {model} --against {model}", 2, "is a file; give a checkpoint folder"),
        Call("verify {model} --against {missing}", 2, "there is nothing at"),
        Call("compare {result} {missing}", 2, "there is nothing at"),
        Call("compare {folder} {result}", 2, "is a folder"),
        Call("compare {result} {text}", 1, "is no evaluation result"),
        Call("compare {result} {empty}", 1, "is no evaluation result"),
        Call("compare {result} {model}", 1, "is no evaluation result"),
        Call("compare {result} {note}", 1, "is no evaluation result: tasks: Field required"),
        Call("report {missing}", 2, "there is nothing at"),
        Call("report {result} {text} --out {free}", 1, "is no evaluation result"),
        Call("inspect {text}", 1),
        Call("inspect {empty}", 1),
        Call("inspect {cut}", 1),
        Call("verify {text}", 1),
        Call("verify {empty}", 1),
        Call("verify {cut}", 1),
        Call("bench {text} --n 1", 1, "is not a GGUF file"),
        Call("serve {folder} --port 0", 2, "is a folder"),
        Call("serve {missing} --port 0", 2),
        Call("serve {text} --port 0", 1, "is not a GGUF file"),
        Call("serve {cut} --port 0", 1),
        Call("bench {cut} --n 1", 1),
        Call("eval {text} --out {free} --starts 0:1", 1),
        Call("eval {folder} --out {free} --starts 0:1", 1),
        Call(f"{EVAL} --out {{free}} --tasks juggle", 1, "no task 'juggle'"),
        Call("eval {text} --out {free} --grey-camera wrist", 1, "has no camera 'wrist'"),
        Call(f"{EVAL} --out {{free}} --steps-per-chunk 100000", 1, "chunks have"),
        Call("compress {missing} --recipe rtn --out {free}", 1),
        Call("compress {text} --recipe rtn --out {free}", 1),
        Call("compress {checkpoint} --dataset {missing} --out {free}", 2, "there is nothing at"),
        Call("compress {checkpoint} --dataset {text} --out {free}", 2, "is a file"),
        Call("compress {checkpoint} --dataset {loop} --out {free}", 2, "symbolic links"),
        Call("sweep {missing} --dataset {dataset} --out {new}", 2, "there is nothing at"),
        Call("sweep {checkpoint} --dataset {text} --out {new}", 2, "is a file"),
        Call("salvage {missing}", 2, "there is nothing at"),
        Call("cache --remove abc --cache {folder}", 1, "has no entry 'abc'"),
        Call("cache --cache {text}", 2, "is a file"),
    ]
    return found


def _wrong_outputs() -> list[Call]:
    found = []
    for out, told in [
        ("{folder}", "is a folder"),
        ("/dev/null", "is a device"),
        ("{pipe}", "is a pipe"),
        ("{loop}", "levels of symbolic links"),
        ("{text}", "say --force"),
        ("{missing}/x", "make it first"),
        ("{text}/x", "Not a directory"),
        ("{long}", "too long"),
        ("{folder}/{name220}", "at most 215"),
    ]:
        found.append(Call(f"{COMPRESS} --out {out}", 2, told))
        found.append(Call(f"{EVAL} --out {out}", 2, told))
    found += [
        Call(f"{COMPRESS} --out {{checkpoint}}/model.safetensors", 2, "lies in what is read"),
        Call(f"{COMPRESS} --out {{checkpoint}}/config.json --force", 2, "lies in what is read"),
        Call(f"{COMPRESS} --out {{checkpoint}}/new.gguf", 2, "lies in what is read"),
        Call(f"{COMPRESS} --out {{link}}/config.json --force", 2, "lies in what is read"),
        Call(f"{COMPRESS} --out {{weights_link}} --force", 2, "lies in what is read"),
        Call(f"{COMPRESS} --out {{weights_hard}} --force", 2, "is another name of a file"),
        Call(f"{COMPRESS} --out {{result}}", 2, "say --force"),
        Call(f"{COMPRESS} --out {{free}} --work {{checkpoint}}", 2, "is what is read"),
        Call(f"{COMPRESS} --out {{free}} --work {{checkpoint}}/work", 2, "lies in what is read"),
        Call(f"{COMPRESS} --out {{free}} --work {{text}}", 2, "is a file"),
        Call(f"{COMPRESS} --out {{free}} --cache {{text}}", 2, "is a file"),
        Call(f"{COMPRESS} --out {{free}} --dataset {{dataset}} --work {{dataset}}", 2, "is read"),
        Call(f"{EVAL} --out {{model}}", 2, "is what is read"),
        Call(f"{EVAL} --out {{model}} --force", 2, "is what is read"),
        Call(f"{EVAL} --out {{model_link}} --force", 2, "is what is read"),
        Call(f"{EVAL} --out {{model_hard}} --force", 2, "is another name of a file"),
        Call("eval {checkpoint} --out {checkpoint}/result.json", 2, "lies in what is read"),
        Call("eval {model} --out {other_model}", 2, "say --force"),
        Call("eval {model} --out {note}", 2, "say --force"),
        Call(f"{EVAL} --out {{free}} --videos {{text}}", 2, "is a file"),
        Call("report {result} --out {result}", 2, "is what is read"),
        Call("report {result} --out {text}", 2, "say --force"),
        Call("report {result} --out {folder}", 2, "is a folder"),
        Call("sweep {checkpoint} --dataset {dataset} --out {checkpoint}", 2, "is what is read"),
        Call("sweep {checkpoint} --dataset {dataset} --out {dataset}/x", 2, "lies in what is"),
        Call("sweep {checkpoint} --dataset {dataset} --out {text}", 2, "is a file"),
        Call("sweep {checkpoint} --dataset {dataset} --out {foreign}", 2, "say --force"),
        Call("demo --out {text}", 2, "is a file"),
        Call("demo --out {foreign}", 2, "say --force"),
        Call("deploy {model} --ip 127.0.0.99 --task push --log {text}", 2, "is a file"),
        Call(f"{DEPLOY} --rerun {{text}}", 2, ".rrd"),
        Call(f"{DEPLOY} --rerun {{recording}}", 2, "is there"),
        Call(f"{DEPLOY} --record {{text}}", 2, "is a file"),
    ]
    return found


def places(folder: Path, checkpoint: Path, dataset: Path, model: Path) -> dict[str, str]:
    """Makes what the calls name in `folder`; copies, so that nothing else can be hurt."""
    inputs = folder / "inputs"
    inputs.mkdir()
    copies = {"checkpoint": inputs / "check[point]", "dataset": inputs / "data"}
    shutil.copytree(checkpoint, copies["checkpoint"])
    shutil.copytree(dataset, copies["dataset"])
    found = {
        **copies,
        "model": inputs / "model.gguf",
        "other_model": inputs / "other.gguf",
        "cut": inputs / "cut.gguf",
        "text": inputs / "text.md",
        "empty": inputs / "empty",
        "note": inputs / "note.json",
        "result": inputs / "result.json",
        "recording": inputs / "recording.rrd",
        "foreign": inputs / "foreign",
        "folder": inputs / "folder",
        "pipe": inputs / "pipe",
        "loop": inputs / "loop",
        "dangling": inputs / "dangling",
        "link": inputs / "link",
        "weights_link": inputs / "weights-link",
        "weights_hard": inputs / "weights-hard",
        "model_link": inputs / "model-link",
        "model_hard": inputs / "model-hard",
        "missing": folder / "missing" / "nothing",
        "free": folder / "free",
        "new": folder / "new",
        "long": folder / ("x" * 300),
    }
    for copy in ("model", "other_model"):
        shutil.copy(model, found[copy])
    found["cut"].write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    found["text"].write_text("No model, and no result.\n")
    found["empty"].touch()
    found["note"].write_text("{}")
    found["recording"].write_text("somebody's recording")
    found["folder"].mkdir()
    found["foreign"].mkdir()
    for name in ("f16.gguf", "report.json"):
        (found["foreign"] / name).write_text("somebody's own")
    os.mkfifo(found["pipe"])
    found["loop"].symlink_to("loop")
    found["dangling"].symlink_to("nowhere")
    found["link"].symlink_to(copies["checkpoint"])
    weights = copies["checkpoint"] / "model.safetensors"
    found["weights_link"].symlink_to(weights)
    os.link(weights, found["weights_hard"])
    found["model_link"].symlink_to(found["model"])
    os.link(found["model"], found["model_hard"])
    found["result"].write_text(result().model_dump_json())
    return {**{name: str(path) for name, path in found.items()}, "name220": "n" * 220}


def result() -> EvaluationResult:
    """Returns a small result of an evaluation."""
    episodes = [EpisodeRecord(task="push_zone", start=k, success=k > 0, steps=9) for k in range(3)]
    return EvaluationResult(
        tasks={"push_zone": rate(episodes)},
        overall=rate(episodes),
        latency_ms=None,
        episodes=episodes,
        provenance=Provenance(
            actquant_version="0",
            model="m",
            model_sha256="0",
            env="ur3e",
            starts="0:3",
            seed=0,
            steps_per_chunk=1,
            grey_camera=None,
            wrong_instruction=False,
            jobs=1,
            threads_per_job=1,
            machine="m",
            date="d",
        ),
    )
