"""The command line of dev.py: reads it, steps into the environment, calls the command's module."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import benching, cluster, converting, demo, environment, testing, trainings

PASS_ON = ("test", "train", "convert")
"""Commands whose further arguments belong to pytest, to the training and to the converter."""


def parser() -> argparse.ArgumentParser:
    """The command line: demo, test, bench, train, convert, cluster."""
    top = argparse.ArgumentParser(prog="dev.py", description="Everything one needs to work here.")
    commands = top.add_subparsers(dest="command", required=True)

    command = commands.add_parser("demo", help="make the demo's video in a real ComfyUI")
    command.add_argument("--out", type=Path, default=Path("demo"), help="folder for the results")
    command.add_argument(
        "--workflow", type=Path, default=demo.WORKFLOW, help="another workflow, UI or API form"
    )
    command.add_argument("--open", action="store_true", help="leave the server running")
    command.add_argument("--gpu", action="store_true", help="let ComfyUI use the graphics card")

    command = commands.add_parser("test", help="run the tests")
    command.add_argument(
        "what", nargs="*", help="pure, host, server, browser, or a path; nothing: all of them"
    )

    command = commands.add_parser("bench", help="measure methods side by side")
    command.add_argument("name", nargs="?", help="nothing: list what exists")
    command.add_argument("--json", type=Path, help="write {name, machine, rows} to this file")
    command.add_argument("--seeds", help="A:B, the seeds A to B-1")

    command = commands.add_parser("train", help="train a demo model")
    command.add_argument("name", nargs="?", help="nothing: list what exists")

    command = commands.add_parser("cluster", help="run a Ray cluster of this machine")
    command.add_argument(
        "--workers", type=int, default=2, help="how many segments are filled at once"
    )
    command.add_argument("--gpu", action="store_true", help="let the workers use graphics cards")

    commands.add_parser("convert", help="write released weights as safetensors", add_help=False)
    return top


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that servers are stopped too
    options, extra = parser().parse_known_args(arguments)
    if extra and options.command not in PASS_ON:
        parser().error("unrecognized arguments: " + " ".join(extra))
    try:
        host = environment.ensure_host()
        if not environment.inside():
            return _step_inside(host, arguments)
        return _run(host, options, extra)
    except environment.Problem as problem:
        environment.say(f"dev.py: {problem}")
        return 1
    except KeyboardInterrupt:
        return 130


def _run(host: environment.Host, options: argparse.Namespace, extra: Sequence[str]) -> int:
    if options.command == "demo":
        return demo.run(host, options.out, options.workflow, options.open, options.gpu)
    if options.command == "test":
        return testing.run(host, options.what, extra)
    if options.command == "bench":
        return benching.run(host, options.name, options.json, benching.parse_seeds(options.seeds))
    if options.command == "cluster":
        return cluster.run(host, options.workers, options.gpu)
    if options.command == "convert":
        return converting.run(extra)
    return trainings.run(host, options.name, extra)


def _step_inside(host: environment.Host, arguments: Sequence[str]) -> int:
    command = [str(host.python), str(environment.ROOT / "dev.py"), *arguments]
    environ = environment.clean_environ()
    if sys.platform == "win32":
        return subprocess.call(command, env=environ)
    sys.stdout.flush()
    os.execve(command[0], command, environ)
