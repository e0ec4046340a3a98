"""Importing the pack: quick, without the optional libraries, and never through sys.path."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import throughline

ROOT = Path(__file__).resolve().parents[1]
OPTIONAL = ("diffusers", "peft", "imageio", "ray")
SECONDS = 1.0
# Run in a Python of its own: imports the host, then the pack with the optional libraries blocked.
PROBE = """
import asyncio, importlib.abc, importlib.util, json, sys, time
host, root, blocked = sys.argv[1], sys.argv[2], sys.argv[3].split(",")

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(name + " is blocked by the test")

sys.meta_path.insert(0, Blocker())
sys.path.insert(0, host)
from comfy.cli_args import args
args.cpu = True
import torch, comfy_api.latest, nodes, server
assert not [name for name in blocked if name in sys.modules]
init = root + "/__init__.py"
spec = importlib.util.spec_from_file_location("pack", init, submodule_search_locations=[root])
module = sys.modules["pack"] = importlib.util.module_from_spec(spec)
start = time.perf_counter()
spec.loader.exec_module(module)
extension = asyncio.run(module.comfy_entrypoint())
seconds = time.perf_counter() - start
count = len(asyncio.run(extension.get_node_list()))
nodes_here = nodes.__file__.startswith(host)
print(json.dumps([seconds, count, root in sys.path, nodes_here, torch.cuda.is_initialized()]))
"""


def test_the_root_is_never_on_sys_path() -> None:
    assert ROOT not in [Path(entry).resolve() for entry in sys.path]
    assert throughline.__path__ == [str(ROOT)]


def test_the_pack_imports_quickly_and_without_optional_libraries(comfy: ModuleType) -> None:
    host = str(Path(comfy.__path__[0]).parent)
    for _ in range(2):  # the first run may have to compile our modules
        done = subprocess.run(
            [sys.executable, "-c", PROBE, host, str(ROOT), ",".join(OPTIONAL)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    seconds, count, on_path, nodes_is_comfyuis, cuda = json.loads(done.stdout.splitlines()[-1])
    assert seconds < SECONDS
    assert not on_path and nodes_is_comfyuis and not cuda
    assert count == len(_registered())


def _registered() -> list[type]:
    import asyncio

    extension = asyncio.run(throughline.comfy_entrypoint())
    return asyncio.run(extension.get_node_list())
