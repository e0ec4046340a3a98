"""Peak memory and step time of full-size Wan under a 12 GB cap, with and without memory.

Wan 2.1 1.3B in bfloat16 and 14B in 8 bits (offloaded), random weights of core's own class, one
segment of 81 frames at 480 x 832 with guidance, for both kinds of core's patchers: without memory,
and with 20 s and 60 s of history at 4x4x2. Needs an NVIDIA GPU with 12 GB, and 20 GB of RAM.

The cap is hard twice over: a process beside the measured one takes all memory of the card but 12
GB, so that ComfyUI sees a card of that size, and torch refuses to hold more
(`torch.cuda.set_per_process_memory_fraction`). `peak_gb` is the most that torch held, `used_gb` the
most that was missing from the card, with what the dynamic patcher maps itself; `step_seconds` the
median after the first step, which loads the model; `loaded_gb` what of the model was on the card in
the end. A row with a `note` instead did not come to its end.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from development.environment import ROOT, Problem

from ._vram_case import GIB, Case

SEEDS = range(1)
"""Random weights and tokens: neither memory nor time depends on them, so one is enough."""

CAP = 12 * GIB

CASES = tuple(
    Case(model=model, dtype=dtype, patcher=patcher, history_seconds=seconds, cap_bytes=CAP)
    for model, dtype in (("Wan 2.1 1.3B", "bfloat16"), ("Wan 2.1 14B", "float8_e4m3fn"))
    for patcher in ("plain", "dynamic")
    for seconds in (0, 20, 60)
)

START = """
import importlib.util, sys
root, comfyui, case = sys.argv[1:4]
for name in ("development", "benchmarks"):
    spec = importlib.util.spec_from_file_location(
        name, f"{root}/{name}/__init__.py", submodule_search_locations=[f"{root}/{name}"])
    sys.modules[name] = importlib.util.module_from_spec(spec)
from benchmarks._vram_case import main
main(comfyui, root, case)
"""


def run(seeds: range) -> list[dict[str, Any]]:
    """One row for each case and seed, printed as they come. Raises Problem without a GPU."""
    if not torch.cuda.is_available():
        raise Problem(
            "bench vram needs an NVIDIA GPU with 12 GB or more, and this machine has none that "
            "torch can use"
        )
    rows = []
    with everything_but(CAP):
        for seed in seeds:
            for case in CASES:
                rows.append(in_own_process(Case(**{**asdict(case), "seed": seed})))
                print(json.dumps(rows[-1]), flush=True)
    return rows


@contextmanager
def everything_but(cap: int) -> Iterator[None]:
    """Hold all free memory of the card but `cap` bytes, so that it is a card of that size."""
    free = torch.cuda.mem_get_info()[0]
    ballast = torch.empty(max(0, free - cap), dtype=torch.uint8, device="cuda")
    try:
        yield
    finally:
        del ballast
        torch.cuda.empty_cache()


def in_own_process(case: Case) -> dict[str, Any]:
    """The row that a process of its own prints last."""
    import comfy

    comfyui = str(Path(next(iter(comfy.__path__))).parent)
    done = subprocess.run(
        [sys.executable, "-P", "-c", START, str(ROOT), comfyui, json.dumps(asdict(case))],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        return {"method": case.label, "note": f"failed: {last}"}
    return json.loads(done.stdout.splitlines()[-1])
