"""How the pack and the host come into the tests.

The pack's root is never on sys.path (its nodes/ would hide ComfyUI's): the pack is entered by path
as the package `throughline`, and tests write `from throughline.memory... import ...`.

With COMFYUI_PATH set (dev.py sets it for every level but `pure`) the real ComfyUI runs in this
process, on the CPU. Without it the pack is a bare package: memory/ and planning/ can be imported,
and the folders of HOST_FOLDERS are not collected. A test belongs to the level host, server or
browser when it asks for one of that level's fixtures or lies in that level's folder.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
HOST_FOLDERS = ("adapters", "host", "nodes", "server", "browser", "workflows")
LEVEL_OF_FIXTURE = {
    "browser": "browser",
    "server": "server",
    "new_server": "server",
    "comfy": "host",
}
LEVELS = ("pure", "host", "server", "browser")
COMFYUI = os.environ.get("COMFYUI_PATH", "")
THREADS = 1  # one thread gives the same floats on every machine, and cores are shared


def _enter(name: str, folder: Path) -> ModuleType:
    """Make a folder importable as the package `name`, without running its __init__.py."""
    init = folder / "__init__.py"
    spec = importlib.util.spec_from_file_location(
        name, init, submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    return module


PACK = _enter("throughline", ROOT)
_enter("development", ROOT / "development")

if COMFYUI:
    sys.path.insert(0, COMFYUI)  # ComfyUI owns the top-level names nodes, utils, app, server
    from comfy.cli_args import args

    args.cpu = True  # before anything imports comfy.model_management
    args.disable_api_nodes = True
    import torch

    torch.set_num_threads(THREADS)
    if (ROOT / "__init__.py").exists():
        assert PACK.__spec__ is not None and PACK.__spec__.loader is not None
        PACK.__spec__.loader.exec_module(PACK)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Without a host its folders are not even imported."""
    inner = collection_path.relative_to(TESTS).parts if TESTS in collection_path.parents else ()
    return True if not COMFYUI and inner and inner[0] in HOST_FOLDERS else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its level and run the levels in order.

    The browser comes last: playwright's event loop, once started, keeps ComfyUI's executor from
    starting its own in this process.
    """
    for item in items:
        item.add_marker(getattr(pytest.mark, _level(item)))
    items.sort(key=lambda item: LEVELS.index(_level(item)))


def _level(item: pytest.Item) -> str:
    fixtures = getattr(item, "fixturenames", ())
    folder = item.path.relative_to(TESTS).parts[0]
    for fixture, level in LEVEL_OF_FIXTURE.items():
        if fixture in fixtures or folder == level or item.get_closest_marker(level):
            return level
    return "host" if folder in HOST_FOLDERS else "pure"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """With CI=true a skipped test is a failed test."""
    outcome = yield
    _forbid_skip(outcome.get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """The same for a file that skips itself."""
    outcome = yield
    _forbid_skip(outcome.get_result())


def _forbid_skip(report: Any) -> None:
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"nothing may be skipped with CI=true: {report.longrepr}"


@pytest.fixture(scope="session")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """ComfyUI's package `comfy` in this process: CPU, one thread, folders that are thrown away."""
    if not COMFYUI:
        pytest.skip("needs ComfyUI: run it with `python3 dev.py test`")
    import comfy
    import comfy.model_management
    import folder_paths

    base = tmp_path_factory.mktemp("comfy")
    for kind in ("output", "input", "temp", "user"):
        (base / kind).mkdir()
        getattr(folder_paths, f"set_{kind}_directory")(str(base / kind))
    return comfy


@pytest.fixture
def comfy_folders(
    comfy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Path]:
    """Fresh folders `output`, `input`, `temp` of ComfyUI for one test, by name."""
    import folder_paths

    folders = {}
    for kind in ("output", "input", "temp"):
        folders[kind] = tmp_path / kind
        folders[kind].mkdir()
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(folders[kind]))
    return folders


@pytest.fixture(scope="session")
def prompt_server(comfy: ModuleType) -> Any:
    """The host's server object, not listening, with core's and the pack's nodes registered."""
    from development.executor import make_prompt_server

    return make_prompt_server()


@pytest.fixture
def run_graph(prompt_server: Any, comfy_folders: dict[str, Path]) -> Callable[..., Any]:
    """A GraphRunner whose output, input and temp folders belong to this test.

    `run_graph(prompt)` gives (outputs by node id, events); `run_graph.error` is what it raises.
    """
    from development.executor import GraphRunner

    return GraphRunner(prompt_server)


@pytest.fixture(scope="session")
def new_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Make further servers: `new_server(base=None, arguments=(), environ=None)`, not yet started.

    Each gets a base directory of its own unless one is given; all are stopped at the end. Call
    `.start()`, `.stop()`, `.kill()` on it; see development/server.py.
    """
    if not COMFYUI:
        pytest.skip("needs ComfyUI: run it with `python3 dev.py test`")
    from development.environment import Host
    from development.server import Server, environ_with_threads

    made: list[Server] = []

    def make(
        base: Path | None = None, arguments: tuple[str, ...] = (), environ: Any = None
    ) -> Server:
        server = Server(
            Host(Path(COMFYUI), Path(sys.executable)),
            base or tmp_path_factory.mktemp("base"),
            ("--cpu", *arguments),
            {**environ_with_threads(THREADS), **(environ or {})},
        )
        made.append(server)
        return server

    yield make
    for server in made:
        server.stop()


@pytest.fixture(scope="session")
def server(new_server: Callable[..., Any]) -> Any:
    """The server that all tests of a run share. `server.run(prompt)` gives (events, history)."""
    shared = new_server()
    shared.start()
    return shared


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Path]:
    """Write a small valid run: `make_run(root, name, finished=4)` gives its folder.

    Six segments in two chains (1 to 4, 5 and 6), of which the first `finished` are on disk, each
    with a random latent and a thumbnail of its own colour. A second call continues the run.
    """
    if not COMFYUI:
        pytest.skip("needs ComfyUI: run it with `python3 dev.py test`")
    import io
    from dataclasses import replace

    import torch
    from PIL import Image, ImageDraw

    from throughline.planning.frames import FrameGrid
    from throughline.planning.script import parse_storyboard
    from throughline.planning.segments import FilmSettings, plan_segments
    from throughline.runs.folder import RunFolder

    script = "\n".join(f"[1s] Shot {i + 1}, a lamp in a quiet room." for i in range(6))
    script = script.replace("[1s] Shot 5", "[1s, cut] Shot 5")
    settings = FilmSettings(
        fps=8.0,
        grid=FrameGrid(4),
        segment_latent_frames=5,
        tail_latent_frames=1,
        seconds_per_shot=1.0,
        unmarked_shots="continue",
        seed=5,
        first_start="text",
        first_known_latent_frames=0,
    )

    def thumbnail(number: int) -> bytes:
        picture = Image.new("RGB", (160, 96), (40 * number % 256, 90, 200 - 25 * number))
        ImageDraw.Draw(picture).ellipse((20 * number, 20, 20 * number + 40, 60), (250, 220, 120))
        stream = io.BytesIO()
        picture.save(stream, "JPEG")
        return stream.getvalue()

    def make(
        root: Path, name: str, finished: int = 4, takes: Any = None, parameters: Any = None
    ) -> Path:
        planned = replace(settings, takes=takes or {})
        segments = plan_segments(parse_storyboard(script), planned)
        made_from = {"model": "test", **(parameters or {})}
        with RunFolder.open(root, name, made_from, segments, fps=8.0) as folder:
            for state in folder.state()[:finished]:
                if state.needs_render:
                    segment = segments[state.index]
                    generator = torch.Generator().manual_seed(segment.seed)
                    shape = (1, 4, segment.latent_frames, 3, 5)
                    latent = torch.randn(shape, generator=generator)
                    statistics = {"mean": float(latent.mean()), "seam": 1.0}
                    picture = thumbnail(segment.number + segment.take)
                    folder.write_segment(segment.index, latent, statistics, 1.5, picture)
            return folder.path

    return make


@pytest.fixture
def runs_root(server: Any) -> Iterator[Path]:
    """The running server's folder of runs, empty before and after the test."""
    folder = server.base / "output" / "throughline"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
