"""Imports point down: nodes -> adapters, runs -> planning, memory. Read by ast, not imported."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOST = {
    "app",
    "comfy",
    "comfy_api",
    "comfy_config",
    "comfy_execution",
    "comfy_extras",
    "execution",
    "folder_paths",
    "latent_preview",
    "node_helpers",
    "nodes",
    "server",
    "utils",
}
PACK = {"memory", "planning", "adapters", "runs", "nodes", "training"}
# What each layer may import of the pack, itself included; `training` uses the pack, nobody uses it.
MAY_IMPORT = {
    "memory": {"memory"},
    "planning": {"planning"},
    "adapters": {"adapters", "planning", "memory"},
    "runs": {"runs", "planning", "memory"},
    "nodes": {"nodes", "adapters", "runs", "planning", "memory"},
    "training": PACK - {"nodes"},
}
WITHOUT_HOST = ("memory", "planning")
TENSORS = {"torch", "numpy", "einops", "safetensors"}


def _files(layer: str) -> list[Path]:
    return sorted((ROOT / layer).rglob("*.py"))


def imports(file: Path, root: Path = ROOT) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of every import; the pack's own begin with `throughline.`."""
    package = ("throughline", *file.relative_to(root).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{stem}.{alias.name}"


def problems(layer: str, file: Path, root: Path = ROOT) -> Iterator[str]:
    """Every import of one file that its layer must not make, in words."""
    for line, name in imports(file, root):
        top, _, rest = name.partition(".")
        where = f"{file.relative_to(root)}:{line}: {name}"
        if top == "throughline":
            if rest.split(".")[0] not in MAY_IMPORT[layer]:
                yield f"{where}: {layer} must not import it"
        elif layer in WITHOUT_HOST and top in HOST:
            yield f"{where}: {layer} knows nothing of ComfyUI"
        elif layer == "planning" and top in TENSORS:
            yield f"{where}: planning holds no tensors"
        elif top in PACK - HOST:
            yield f"{where}: inside the pack imports are relative"


@pytest.mark.parametrize("layer", sorted(MAY_IMPORT))
def test_imports_point_down(layer: str) -> None:
    assert [p for file in _files(layer) for p in problems(layer, file)] == []


@pytest.mark.parametrize("layer", sorted(MAY_IMPORT))
def test_heavy_libraries_are_imported_where_they_are_used(layer: str) -> None:
    """diffusers, peft, imageio and ray may be missing, so no module imports them at its top."""
    heavy = {"diffusers", "peft", "imageio", "accelerate", "transformers", "ray"}
    found = []
    for file in _files(layer):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{file.relative_to(ROOT)}: {n}" for n in names if n.split(".")[0] in heavy]
    assert layer == "training" or found == []


@pytest.mark.parametrize(
    ("layer", "line", "complaint"),
    [
        ("memory", "import comfy.utils", "knows nothing of ComfyUI"),
        ("planning", "import torch", "holds no tensors"),
        ("planning", "from ..runs import folder", "must not import"),
        ("adapters", "from ..runs.folder import RunFolder", "must not import"),
        ("runs", "from throughline.adapters import wan", "must not import"),
        ("runs", "from memory import drift", "are relative"),
    ],
)
def test_the_rule_bites(layer: str, line: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / layer / "wrong.py"
    file.parent.mkdir()
    file.write_text(line + "\n", encoding="utf-8")
    assert complaint in "".join(problems(layer, file, tmp_path))


def test_the_table_of_layers_is_whole() -> None:
    layers = {path.parent.name for path in ROOT.glob("*/*.py")} - set(sys.stdlib_module_names)
    assert layers <= set(MAY_IMPORT) | {"tests", "development", "benchmarks"}
