"""What the Comfy registry and ComfyUI-Manager read: pyproject, node ids, the archive."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

import throughline

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = {"adapters", "locales", "memory", "nodes", "planning", "runs", "web", "weights"}
SHIPPED |= {"workflows"}
SHIPPED_FILES = {"__init__.py", "CHANGELOG.md", "LICENSE", "README.md"}
SHIPPED_FILES |= {"pyproject.toml", "requirements.txt"}


def _requirements() -> list[str]:
    return (ROOT / "requirements.txt").read_text(encoding="utf-8").split()


def test_the_registry_reads_every_field(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = pytest.importorskip("comfy_cli.registry")
    config = registry.extract_node_configuration(str(ROOT / "pyproject.toml"))
    project, tool = config.project, config.tool_comfy
    assert project.name == "throughline"
    assert re.fullmatch(r"\d+\.\d+\.\d+", project.version)
    assert project.license.file == "LICENSE"
    assert project.requires_python == ">=3.10"
    assert project.supported_comfyui_version == ">=0.30.0"
    assert project.urls.repository.startswith("https://")
    assert project.supported_os == ["OS Independent"]
    assert (tool.publisher_id, tool.display_name) == ("throughline", "Throughline")
    assert tool.web == "", "WEB_DIRECTORY alone: with both, the page loads the script twice"
    assert (ROOT / tool.icon.partition("/main/")[2]).is_file()


def test_dependencies_are_lower_bounds_and_leave_torch_to_the_host() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = ast.literal_eval(re.findall(r"^dependencies = (\[.*?^\])", text, re.M | re.S)[0])
    assert listed == _requirements()
    assert all(re.fullmatch(r"[a-z-]+>=[\d.]+", requirement) for requirement in listed)
    assert not {"torch", "torchvision", "numpy"} & {r.partition(">")[0] for r in listed}


def test_the_licence_is_the_whole_gpl() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "GNU GENERAL PUBLIC LICENSE" in text and "END OF TERMS AND CONDITIONS" in text


def static_node_ids() -> list[str]:
    """Node ids as the registry's scanner sees them: literal ids in direct ComfyNode classes."""
    found = []
    for file in sorted((ROOT / "nodes").glob("*.py")):
        for item in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(item, ast.ClassDef) and any(_is_comfy_node(base) for base in item.bases):
                found += [
                    keyword.value.value
                    for call in ast.walk(item)
                    if isinstance(call, ast.Call) and _last_name(call.func) == "Schema"
                    for keyword in call.keywords
                    if keyword.arg == "node_id" and isinstance(keyword.value, ast.Constant)
                ]
    return found


def _last_name(item: ast.expr) -> str:
    return item.attr if isinstance(item, ast.Attribute) else getattr(item, "id", "")


def _is_comfy_node(base: ast.expr) -> bool:
    return _last_name(base) == "ComfyNode"


@pytest.mark.host
def test_the_static_scan_sees_every_node(comfy: ModuleType) -> None:
    import asyncio

    async def ids() -> list[str]:
        extension = await throughline.comfy_entrypoint()
        return [node.GET_SCHEMA().node_id for node in await extension.get_node_list()]

    registered = asyncio.run(ids())
    assert sorted(static_node_ids()) == sorted(registered)
    assert all(re.fullmatch(r"Throughline[A-Za-z0-9]+", node_id) for node_id in registered)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of this repository, as git sees them, in a repository of their own."""
    folder = tmp_path_factory.mktemp("archive") / "throughline"
    listed = _git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in listed.split("\0"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    _git(folder, "init", "-q")
    _git(folder, "add", "-A")
    return folder


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


def _comfy(folder: Path, *words: str) -> str:
    environ = {**os.environ, "DO_NOT_TRACK": "1", "HOME": str(folder.parent), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "comfy_cli", *words],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_comfy_node_validate_has_nothing_to_say(copy: Path) -> None:
    said = _comfy(copy, "node", "validate")
    assert "passed" in said
    assert not re.search(r"warning|error", said, re.I), said


def test_the_archive_ships_the_pack_and_nothing_else(copy: Path) -> None:
    _comfy(copy, "node", "pack")
    names = zipfile.ZipFile(copy / "node.zip").namelist()
    foreign = {name for name in names if "/" not in name} - SHIPPED_FILES
    assert foreign == set()
    assert {name.partition("/")[0] for name in names if "/" in name} <= SHIPPED
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    assert {"__init__.py", "LICENSE", "nodes/__init__.py"} <= set(names)
