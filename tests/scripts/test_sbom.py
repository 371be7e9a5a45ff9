"""The bill of materials is valid, and names what the runtime is compiled from with its hash."""

import json
import subprocess
import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = Path(__file__).parents[2]


def test_the_bill_is_valid_and_whole(tmp_path: Path) -> None:
    out = tmp_path / "dist/sbom.json"
    command = [sys.executable, str(ROOT / "scripts/sbom.py"), str(out)]
    subprocess.run(command, check=True, capture_output=True)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(out.read_text()) is None
    bill = json.loads(out.read_text())
    found = {component["name"]: component for component in bill["components"]}
    assert {"ggml", "nlohmann-json", "stb_image", "xxHash", "numpy", "gguf"} <= set(found)
    (archive,) = [r for r in found["ggml"]["externalReferences"] if r["type"] != "vcs"]
    assert archive["hashes"][0]["content"] in (ROOT / "runtime/cmake/ggml.cmake").read_text()
    root = bill["metadata"]["component"]["bom-ref"]
    (needs,) = [d["dependsOn"] for d in bill["dependencies"] if d["ref"] == root]
    assert "native:xxHash" in needs
