"""Writes a bill of materials (CycloneDX, JSON) of this environment and of the native sources.

    python scripts/sbom.py OUT.json

Python packages are those that are installed beside this interpreter. What the runtime is compiled
from comes in one archive, whose version and hash stand in runtime/cmake/ggml.cmake; the versions
of its parts are read from the sources that were unpacked from it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def archive() -> dict[str, str]:
    """Returns the settings of the source archive: name, version, sha256."""
    text = (ROOT / "runtime/cmake/ggml.cmake").read_text()
    found = dict(re.findall(r"set\(sdist_(\w+) ([^)\s]+)\)", text))
    return {
        "name": "llama-cpp-python",
        "version": found["version"],
        "sha256": found["sha256"],
    }


def sources(version: str) -> Path:
    """Returns llama.cpp's folder in the archive; raises SystemExit if nothing was built."""
    folders = sorted(ROOT.glob(f"build/*/ggml-source/llama_cpp_python-{version}/vendor/llama.cpp"))
    if not folders:
        raise SystemExit("The native sources are not unpacked here: run make setup first.")
    return folders[-1]


def version_of(path: Path, pattern: str) -> str:
    """Returns the groups of a pattern in a source file, joined by dots."""
    found = re.search(pattern, path.read_text(errors="replace"), re.DOTALL)
    if found is None:
        raise SystemExit(f"{path} does not say its version")
    return ".".join(found.groups())


def native_components() -> list[dict[str, Any]]:
    """Returns what the runtime is compiled from."""
    found = archive()
    llama = sources(found["version"])
    origin = {
        "type": "source-distribution",
        "url": f"pkg:pypi/{found['name']}@{found['version']}",
        "hashes": [{"alg": "SHA-256", "content": found["sha256"]}],
    }
    parts = [
        (
            "ggml",
            version_of(
                llama / "ggml/CMakeLists.txt",
                r"GGML_VERSION_MAJOR (\d+).*?GGML_VERSION_MINOR (\d+).*?GGML_VERSION_PATCH (\d+)",
            ),
            "MIT",
            "https://github.com/ggml-org/ggml",
        ),
        (
            "nlohmann-json",
            version_of(
                llama / "vendor/nlohmann/json.hpp",
                r"VERSION_MAJOR (\d+).*?VERSION_MINOR (\d+).*?VERSION_PATCH (\d+)",
            ),
            "MIT",
            "https://github.com/nlohmann/json",
        ),
        (
            "stb_image",
            version_of(llama / "vendor/stb/stb_image.h", r"stb_image - v(\d+)\.(\d+)"),
            "MIT",
            "https://github.com/nothings/stb",
        ),
        (
            "xxHash",
            version_of(
                llama / "vendor/hash/xxhash/xxhash.h",
                r"XXH_VERSION_MAJOR\s+(\d+).*?XXH_VERSION_MINOR\s+(\d+).*?XXH_VERSION_RELEASE\s+(\d+)",
            ),
            "BSD-2-Clause",
            "https://github.com/Cyan4973/xxHash",
        ),
    ]
    return [
        {
            "type": "library",
            "bom-ref": f"native:{name}",
            "name": name,
            "version": version,
            "licenses": [{"license": {"id": license_id}}],
            "externalReferences": [{"type": "vcs", "url": url}, origin],
        }
        for name, version, license_id, url in parts
    ]


def python_bill() -> dict[str, Any]:
    """Returns the bill of the packages beside this interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "python.json"
        command = [sys.executable, "-m", "cyclonedx_py", "environment", sys.executable]
        command += ["--pyproject", str(ROOT / "pyproject.toml"), "--output-reproducible"]
        command += ["--output-format", "JSON", "--output-file", str(path)]
        subprocess.run(command, check=True)
        return json.loads(path.read_text())


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    bill = python_bill()
    components = native_components()
    bill["components"] += components
    root = bill["metadata"]["component"]["bom-ref"]
    for each in bill["dependencies"]:
        if each["ref"] == root:
            each["dependsOn"] = sorted(
                [*each.get("dependsOn", []), *(c["bom-ref"] for c in components)]
            )
    bill["dependencies"] += [{"ref": c["bom-ref"]} for c in components]
    out = Path(sys.argv[1])
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".tmp")
    temporary.write_text(json.dumps(bill, indent=1) + "\n")
    temporary.replace(out)
    print(f"{out}: {len(bill['components'])} components")


if __name__ == "__main__":
    main()
