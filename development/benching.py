"""python3 dev.py bench NAME: one module of benchmarks/, run with the host in this process.

A bench is a file benchmarks/NAME.py, with "_" for "-", with a docstring and a function

    run(seeds: range) -> list[dict]

Each row is one method measured in the same run, with the key `method` and its figures. The pack is
imported as `throughline`, ComfyUI is on sys.path with the CPU chosen.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .environment import ROOT, Host, Problem, say
from .package import enter_package

FOLDER = ROOT / "benchmarks"
SEEDS = range(1_000_000, 1_000_008)


def names() -> list[str]:
    """The benches that exist."""
    stems = sorted(file.stem for file in FOLDER.glob("*.py") if not file.stem.startswith("_"))
    return [stem.replace("_", "-") for stem in stems]


def describe(name: str) -> str:
    """The first line of a bench's docstring."""
    tree = ast.parse(_file(name).read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def parse_seeds(text: str | None) -> range | None:
    """Read A:B as the seeds A to B-1. Raises Problem for anything else."""
    if text is None:
        return None
    first, mark, last = text.partition(":")
    if not (mark and first.isdigit() and last.isdigit() and int(first) < int(last)):
        raise Problem(f"--seeds must be A:B with A below B, got {text}")
    return range(int(first), int(last))


def run(host: Host, name: str | None, json_file: Path | None, seeds: range | None) -> int:
    """Run one bench, print its table and write its JSON; without a name list them all."""
    if name is None:
        for known in names():
            print(f"{known:12} {describe(known)}")
        return 0
    if name not in names():
        raise Problem(f"bench NAME must be one of {', '.join(names()) or 'none yet'}, got {name}")
    bench = _load(host, name)
    chosen = seeds if seeds is not None else getattr(bench, "SEEDS", SEEDS)
    say(f"bench {name}, seeds {chosen.start}:{chosen.stop}")
    rows = bench.run(chosen)
    result = {"name": name, "machine": machine(), "rows": rows}
    print(table(rows), flush=True)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"file {json_file}", flush=True)
    return 0


def enter_host(host: Host, threads: int | None = None) -> None:
    """Put ComfyUI on sys.path with the CPU chosen and the pack in as `throughline`."""
    sys.path.insert(0, str(host.comfyui))
    from comfy.cli_args import args

    args.cpu = True  # before anything imports comfy.model_management
    args.disable_api_nodes = True
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    enter_package("throughline", ROOT, execute=True)


def _load(host: Host, name: str) -> Any:
    enter_host(host)
    enter_package("benchmarks", FOLDER, execute=False)
    return importlib.import_module(f"benchmarks.{_file(name).stem}")


def _file(name: str) -> Path:
    return FOLDER / f"{name.replace('-', '_')}.py"


def machine() -> dict[str, Any]:
    """The machine that the figures were measured on."""
    import psutil
    import torch

    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "ram_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as text, `method` first, figures with four digits."""
    columns = ["method", *dict.fromkeys(key for row in rows for key in row if key != "method")]
    cells = [columns, *[[_cell(row.get(column, "")) for column in columns] for row in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
