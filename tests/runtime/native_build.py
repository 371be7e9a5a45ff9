"""Finds what CMake built of this tree."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GPU_BUILD = "vulkan"


def newest_build(target: str, *more: Path) -> Path:
    """The newest file `target` (relative to the top of a build folder) or of `more` that exists.

    A missing one fails the test: what is not built was not tested. The build of `make gpu` is not
    looked at.
    """
    builds = [folder for folder in ROOT.glob("build/*") if folder.name != GPU_BUILD]
    found = [path for path in (*(folder / target for folder in builds), *more) if path.exists()]
    if not found:
        pytest.fail(f"no build folder in {ROOT / 'build'} has {target}; `make setup` builds it")
    return max(found, key=lambda path: path.stat().st_mtime)
