"""Runs the command line as a core install would: nothing but the core dependencies can be imported.

python core_install.py COMMAND …
"""

import importlib.metadata
import re
import sys
from importlib.abc import MetaPathFinder

OWN = {"actquant", "actquant_runtime"}


def core_distributions() -> set[str]:
    """Distributions that `pip install actquant` brings, extras left out, normalised names."""
    found: set[str] = set()
    wanted = ["actquant"]
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name in found:
            continue
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        for requirement in requires:
            needed, _, marker = requirement.partition(";")
            if "extra ==" not in marker:
                wanted.append(re.split(r"[\s<>=!~\[(]", needed.strip())[0])
    return found


class CoreOnly(MetaPathFinder):
    def __init__(self) -> None:
        core = core_distributions()
        brought = importlib.metadata.packages_distributions()
        self.foreign = {
            module
            for module, names in brought.items()
            if module not in OWN
            and not any(re.sub(r"[-_.]+", "-", name).lower() in core for name in names)
        } - set(sys.stdlib_module_names)

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in self.foreign:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


if __name__ == "__main__":
    sys.meta_path.insert(0, CoreOnly())
    from actquant.cli import app

    app()
