"""Trainings on several devices or machines, launched by accelerate.

On one machine `dev.py train memory --processes 2` is enough: accelerate's own launcher forks this
process, which has the pack in already. On several machines, or with accelerate's saved settings,
`accelerate launch [its options] dev.py train memory ...` starts dev.py in every process, and each
enters the pack by its path as always.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from .libraries import library

LONGEST_WAIT = timedelta(days=1)
"""How long a process waits for the others: one may still be encoding videos (torch: 10 minutes)."""

PRECISIONS = ("no", "bf16")
"""fp16 is left out: its loss scale is a state that the checkpoints do not keep."""


def add_launch_options(parser: argparse.ArgumentParser) -> None:
    """Options that say where a training runs."""
    group = parser.add_argument_group("where it runs")
    group.add_argument("--processes", type=int, default=1, help="on this machine, one per GPU")
    group.add_argument("--mixed-precision", choices=PRECISIONS, default="bf16")
    group.add_argument("--cpu", action="store_true", help="leave the GPUs alone")
    group.add_argument("--threads", type=int, default=1, help="of each process on the CPU")
    group.add_argument("--checkpoint-seconds", type=float, default=300.0)
    group.add_argument(
        "--gradient-checkpointing",
        action="store_true",
        help="compute activations twice instead of keeping them: when memory runs out",
    )


def launch(function: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> None:
    """Call `function(options)` here, or in `options.processes` forks of this process.

    Raises ValueError when a launcher started this process and `--processes` asks for more.
    """
    if options.processes == 1:
        function(options)
        return
    if "WORLD_SIZE" in os.environ:
        raise ValueError(
            "--processes is for a training that nobody launched; accelerate launch sets the "
            f"number of processes itself, got --processes {options.processes}"
        )
    library("accelerate").notebook_launcher(
        function,
        (options,),
        num_processes=options.processes,
        mixed_precision=options.mixed_precision,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",  # any free port
        rdzv_id=str(os.getpid()),
    )


def make_accelerator(options: argparse.Namespace) -> Any:
    """The accelerator of this process.

    A step takes one way to remember and leaves the parameters of the others alone, which
    DistributedDataParallel has to be told. Buffers are constants of the frozen model.
    """
    import torch

    accelerate = library("accelerate")
    handlers = [
        accelerate.DistributedDataParallelKwargs(
            find_unused_parameters=True, broadcast_buffers=False
        ),
        accelerate.InitProcessGroupKwargs(timeout=LONGEST_WAIT),
    ]
    return accelerate.Accelerator(
        cpu=options.cpu or not torch.accelerator.is_available(),
        mixed_precision=options.mixed_precision,
        kwargs_handlers=handlers,
    )
