"""Nothing that is read from a file can run code: no pickle, no torch.load of more than weights."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("actquant", "benchmarks", "docs", "exports", "motion", "robot", "runtime", "scripts",
         "sim_envs", "tests")  # fmt: skip
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
ALLOWED = {
    "robot/lerobot_robot_ur/channel.py",  # between a process and its child, in an unnamed pair
    "tests/robot/test_servo.py",
    "tests/robot/test_limits.py",
    "tests/policies/test_openvla_oft_loading.py",  # shows that such a file is refused
}


def files() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def name_of(call: ast.Call) -> str:
    return ast.unparse(call.func)


def keywords(call: ast.Call) -> dict[str | None, ast.expr]:
    return {keyword.arg: keyword.value for keyword in call.keywords}


def is_true(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


def unsafe(path: Path) -> list[str]:
    """Returns the lines of a file that could run what they read."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
            if MODULES & {module.split(".")[0] for module in modules}:
                found.append(f"{node.lineno}: imports {', '.join(modules)}")
        if isinstance(node, ast.Call):
            given = keywords(node)
            if name_of(node) == "torch.load" and not is_true(given.get("weights_only")):
                found.append(f"{node.lineno}: torch.load without weights_only=True")
            if name_of(node).endswith(("np.load", "numpy.load")) and "allow_pickle" in given:
                found.append(f"{node.lineno}: np.load with allow_pickle")
            if name_of(node) in ("yaml.load", "pd.read_pickle"):
                found.append(f"{node.lineno}: {name_of(node)}")
    return found


def test_nothing_reads_what_could_run():
    found = {
        path.relative_to(ROOT).as_posix(): lines
        for path in files()
        if (lines := unsafe(path)) and path.relative_to(ROOT).as_posix() not in ALLOWED
    }
    assert found == {}


def test_what_is_allowed_is_there_and_would_be_found():
    for name in ALLOWED:
        assert unsafe(ROOT / name), f"{name} needs no permission"
