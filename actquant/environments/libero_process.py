"""LIBERO in a process and an environment of its own: `python libero_process.py FD SUITE [ASSETS]`.

Run by the Python that `make libero` sets up, which does not have actquant; libero.py speaks with it
over the connection that FD is. Each request is one JSON object with the name of a method of
`Session` under "do" and its arguments; the answer is one JSON object, followed by as many messages
of raw bytes as it has `pictures`. ASSETS is the folder of meshes and textures; without one they are
found, or fetched from the hub, as hf-libero does it.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from importlib import import_module, metadata, util
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

WAITS = 10
"""No-op steps after a reset, in which objects come to rest."""
PIXELS = 256
FIRST_SEED = 1000
"""Of the fixtures of start 0: the first seed of `lerobot-eval`."""
CAMERAS = {"agentview_image": "image", "robot0_eye_in_hand_image": "image2"}
NO_MOTION = [0.0] * 6 + [-1.0]
"""Stand still, gripper open."""
DISTRIBUTIONS = ("hf-libero", "robosuite", "bddl", "mujoco", "lerobot")
FOLDERS = ("articulated_objects", "scenes", "stable_hope_objects", "stable_scanned_objects")
"""What a folder of assets has."""


class AssetsError(Exception):
    """There are no assets."""


def configure() -> None:
    """Writes hf-libero's configuration where none of the user's is: without one it asks a question
    on the standard input when it is imported."""
    spec = util.find_spec("libero")
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"{sys.prefix} has no hf-libero; run `make libero`")
    root = Path(spec.submodule_search_locations[0]) / "libero"
    folder = Path(sys.prefix) / "libero-config"
    places = {
        "benchmark_root": root,
        "bddl_files": root / "bddl_files",
        "init_states": root / "init_files",
        "datasets": root.parent / "datasets",
        "assets": root / "assets",
    }
    text = json.dumps({name: str(place) for name, place in places.items()})  # JSON is YAML
    os.environ["LIBERO_CONFIG_PATH"] = str(folder)
    config = folder / "config.yaml"
    if not config.is_file() or config.read_text(encoding="utf-8") != text:
        folder.mkdir(exist_ok=True)
        temporary = folder / f"{os.getpid()}.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(config)


def find_assets(given: str | None) -> tuple[Path, bool]:
    """Returns the folder of assets and whether they are the benchmark's own: those that came with
    the package, or that the hub's client has put there. Raises AssetsError if there are none."""
    libero: Any = import_module("libero.libero")
    if given is not None:
        libero._assets_path_cache = given  # hf-libero has no setting for it
    folder = Path(libero.get_assets_path())
    lacking = [name for name in FOLDERS if not (folder / name).is_dir()]
    if lacking:
        raise AssetsError(
            f"no LIBERO assets in {folder}: it lacks {', '.join(lacking)}"
            + ("" if given else ", and they could not be fetched from the hub (HF_HUB_OFFLINE=0)")
        )
    packaged = folder == Path(libero.__file__).parent / "assets"
    fetched = (folder / ".cache" / "huggingface" / "download").is_dir()
    return folder, packaged or fetched


def digest(folder: Path) -> str:
    """Returns the SHA-256 of the names and contents of a folder's files."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        if ".cache" not in name.parts:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            found.update(f"{name.as_posix()} {content}\n".encode())
    return found.hexdigest()


class Cameras:
    """Those of the process, which draw nothing while nobody looks.

    robosuite's own way, to disable an observable, also begins its period anew: a picture would then
    be taken at the beginning of a step, not near its end as LIBERO's are.
    """

    looking = True

    @classmethod
    def mount(cls) -> None:
        """Stands between the simulation and its renderer."""
        simulation = import_module("robosuite.utils.binding_utils").MjSim
        draw = simulation.render

        def render(sim: Any, width: int, height: int, **how: Any) -> Any:
            if not cls.looking:
                return np.zeros((height, width, 3), np.uint8)
            return draw(sim, width, height, **how)

        simulation.render = render


class World:
    """One task: lerobot's `LiberoEnv`, with pictures only where somebody looks."""

    def __init__(self, benchmark: Any, suite: str, number: int) -> None:
        from lerobot.envs.libero import LiberoEnv
        from lerobot.processor.env_processor import LiberoProcessorStep

        self.env: Any = LiberoEnv(
            benchmark,
            number,
            suite,
            camera_name=list(CAMERAS),
            camera_name_mapping=CAMERAS,
            obs_type="pixels_agent_pos",
            observation_width=PIXELS,
            observation_height=PIXELS,
            num_steps_wait=WAITS - 1,  # the last one is looked at
        )
        self.limit = int(self.env._max_episode_steps)
        self.language = str(self.env.task_description)
        self.steps = 0
        self._processor = LiberoProcessorStep()

    @property
    def simulation(self) -> Any:
        """robosuite's environment."""
        self.env._ensure_env()
        return self.env._env.env

    def reset(self, start: int, *, look: bool = True) -> dict[str, Any]:
        """Places the fixtures by the start's seed, then everything else as initial state `start`
        has it, and waits; returns LeRobot's raw observation."""
        Cameras.looking = False
        self.env.init_state_id = start
        self.env.reset(seed=FIRST_SEED + start)
        self.steps = 0
        Cameras.looking = look
        seen, *_ = self.env.step(np.array(NO_MOTION, np.float32))
        return seen

    def step(self, action: Any, *, look: bool = True) -> tuple[dict[str, Any], bool, bool]:
        """Returns the raw observation, whether the episode is over, and whether it succeeded."""
        Cameras.looking = look
        seen, _, done, _, info = self.env.step(np.asarray(action, np.float32))
        self.steps += 1
        return seen, bool(done) or self.steps >= self.limit, bool(info["is_success"])

    def observation(self, seen: dict[str, Any]) -> dict[str, Any]:
        """Returns what a policy takes, by LeRobot's own processing: uint8 [256, 256, 3] turned by
        180 degrees, and a state of 8 numbers."""
        from lerobot.envs.utils import preprocess_observation

        found = self._processor.observation(preprocess_observation(batch_of_one(seen)))
        taken = {}
        for key, value in found.items():
            if key.startswith("observation.images."):
                taken[key] = value[0].mul(255).round().byte().permute(1, 2, 0).numpy()
        return {**taken, "observation.state": found["observation.state"][0].numpy()}

    def picture(self) -> Any:
        """Returns the scene as it is now, as a policy would see it."""
        Cameras.looking = True
        camera = next(iter(CAMERAS)).removesuffix("_image")
        seen = self.simulation.sim.render(width=PIXELS, height=PIXELS, camera_name=camera)
        return seen[::-1, ::-1]


def batch_of_one(seen: Any) -> Any:
    """Returns an observation as a vector environment of one has it."""
    if isinstance(seen, dict):
        return {key: batch_of_one(value) for key, value in seen.items()}
    return np.asarray(seen)[None]


def reset_or_raise(control: Any) -> Any:
    """Does what hf-libero's `ControlEnv.reset` does, which tries again for ever whatever is raised,
    where only a placement by chance was impossible."""
    impossible = import_module("robosuite.utils.errors").RandomizationError
    while True:
        try:
            return control.env.reset()
        except impossible:
            continue


class Session:
    """Answers requests about one suite, with one environment at a time: each takes 0.5 GB."""

    def __init__(self, suite: str, assets: str | None) -> None:
        self.suite, self.assets = suite, assets
        self.world: World | None = None
        self.task = ""
        self._benchmark: Any = None

    @property
    def benchmark(self) -> Any:
        if self._benchmark is None:
            import_module("libero.libero.envs.env_wrapper").ControlEnv.reset = reset_or_raise
            Cameras.mount()
            made = import_module("libero.libero.benchmark").get_benchmark_dict()
            self._benchmark = made[self.suite]()
        return self._benchmark

    def about(self) -> dict[str, Any]:
        """Says what there is, without a simulation."""
        folder, genuine = find_assets(self.assets)
        limits = import_module("lerobot.envs.libero").TASK_SUITE_MAX_STEPS
        return {
            "tasks": [task.name for task in self.benchmark.tasks],
            "instructions": [task.language for task in self.benchmark.tasks],
            "versions": {name: metadata.version(name) for name in DISTRIBUTIONS},
            "assets": str(folder),
            "assets_sha256": digest(folder),
            "genuine": genuine,
            "starts": min(map(len, self._initial_states())),
            "limit": limits[self.suite],
            "waits": WAITS,
            "pixels": PIXELS,
            "first_seed": FIRST_SEED,
        }

    def _initial_states(self) -> list[Any]:
        from lerobot.envs.libero import get_task_init_states

        count = len(self.benchmark.tasks)
        return [get_task_init_states(self.benchmark, number) for number in range(count)]

    def open(self, task: str) -> dict[str, Any]:
        """Makes the task's environment, after the one before has been closed."""
        if task != self.task or self.world is None:
            if self.world is not None:
                self.world.env.close()
            self.world, self.task = None, task
            number = [each.name for each in self.benchmark.tasks].index(task)
            self.world = World(self.benchmark, self.suite, number)
        return {"instruction": self.world.language}

    def reset(self, start: int) -> dict[str, Any]:
        assert self.world is not None
        return self._told(self.world.reset(start))

    def step(self, action: list[float], look: bool) -> dict[str, Any]:
        assert self.world is not None
        seen, done, success = self.world.step(action, look=look)
        return {"done": done, "success": success, **(self._told(seen) if look else {})}

    def render(self) -> dict[str, Any]:
        assert self.world is not None
        return {"pictures": {"": self.world.picture()}}

    def _told(self, seen: dict[str, Any]) -> dict[str, Any]:
        assert self.world is not None
        observation = self.world.observation(seen)
        state = observation.pop("observation.state")
        return {"pictures": observation, "state": [float(x) for x in state]}


def answer(connection: Connection, session: Session, request: dict[str, Any]) -> None:
    """Carries out a request; what it raises is told, not raised."""
    try:
        told = getattr(session, request.pop("do"))(**request)
    except Exception as error:
        # What hf-libero raises may be a page; its first line says what it is.
        message = next(iter(str(error).splitlines()), "")
        kind = "" if isinstance(error, AssetsError) else f"{type(error).__name__}: "
        connection.send_bytes(json.dumps({"error": f"{kind}{message}"[:2000]}).encode())
        return
    pictures = told.get("pictures", {})
    told["pictures"] = {key: list(picture.shape) for key, picture in pictures.items()}
    connection.send_bytes(json.dumps(told).encode())
    for picture in pictures.values():
        connection.send_bytes(picture.tobytes())


def main(descriptor: int, suite: str, assets: str | None = None) -> None:
    """Answers until the other side hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for those who ask
    configure()
    session = Session(suite, assets)
    with Connection(descriptor) as connection:
        while True:
            try:
                request = json.loads(connection.recv_bytes())
            except EOFError:
                return
            answer(connection, session, request)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
