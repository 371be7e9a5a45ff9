"""What commands against the hub of a test say and leave."""

import json
import subprocess
from pathlib import Path

TOKEN = "hf_a_secret_of_this_test"


def said(done: subprocess.CompletedProcess[str], code: int = 0) -> dict:
    """The JSON object of a command that ended so."""
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def refused(done: subprocess.CompletedProcess[str], kind: str, code: int = 1) -> str:
    """The message of a command that ended with an error of this kind."""
    told = said(done, code)
    assert told["error"] == kind, told
    return told["message"]


def cached(home: Path) -> list[str]:
    """Names of what is in the client's cache, links and lock files left out."""
    files = (path for path in (home / "hub").rglob("*") if path.is_file())
    return [path.name for path in files if not path.is_symlink() and path.suffix != ".lock"]
