"""The one command of this repository: python3 dev.py demo, test, bench, train, convert, cluster.

Needs Python 3.10 or newer and nothing else. The first call makes a virtual environment and gets
ComfyUI, both in the git-ignored folder .host; then the same command runs again inside them.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent

if sys.version_info < (3, 10):
    sys.exit("Throughline needs Python 3.10 or newer, this is " + sys.version.split()[0])


def load_development() -> None:
    """Enter the folder development/ as a package without putting this folder on sys.path.

    With it on the path the pack's nodes/ would hide ComfyUI's module of that name.
    """
    sys.path[:] = [entry for entry in sys.path if Path(entry or os.getcwd()).resolve() != ROOT]
    folder = ROOT / "development"
    spec = importlib.util.spec_from_file_location(
        "development", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["development"] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    load_development()
    from development.commands import main

    sys.exit(main(sys.argv[1:]))
