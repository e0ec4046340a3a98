"""python3 dev.py train NAME: one training of the demo models, from the folder training/.

The training NAME is the file training/NAME_training.py, with "_" for "-", with a function

    main(arguments: Sequence[str]) -> int

that reads what stands behind NAME on the command line and returns the exit status.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Sequence

from .environment import ROOT, Host, Problem

FOLDER = ROOT / "training"
ENDING = "_training"


def names() -> list[str]:
    """The trainings that exist."""
    stems = (file.stem[: -len(ENDING)] for file in FOLDER.glob(f"*{ENDING}.py"))
    return sorted(stem.replace("_", "-") for stem in stems)


def describe(name: str) -> str:
    """The first line of a training's docstring."""
    file = FOLDER / f"{name.replace('-', '_')}{ENDING}.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def run(host: Host, name: str | None, arguments: Sequence[str]) -> int:
    """Run the training `name`; without a name list them all. Returns the exit status."""
    if name is None:
        for known in names():
            print(f"{known:18} {describe(known)}")
        return 0
    if name not in names():
        raise Problem(f"train NAME must be one of {', '.join(names()) or 'none yet'}, got {name}")
    from .benching import enter_host

    enter_host(host)
    module = importlib.import_module(f"throughline.training.{name.replace('-', '_')}{ENDING}")
    return int(module.main(list(arguments)) or 0)
