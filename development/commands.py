"""The command line of dev.py: reads it, steps into the environment, calls the command's module."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence

from . import environment


def parser() -> argparse.ArgumentParser:
    """The command line: demo, test, bench, train."""
    top = argparse.ArgumentParser(prog="dev.py", description="Everything one needs to work here.")
    commands = top.add_subparsers(dest="command", required=True)

    test = commands.add_parser("test", help="run the tests")
    test.add_argument(
        "what", nargs="*", help="pure, host, server, browser, or a path; nothing: all of them"
    )
    return top


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status."""
    options, extra = parser().parse_known_args(arguments)
    if extra and options.command != "test":
        parser().error("unrecognized arguments: " + " ".join(extra))
    try:
        host = environment.ensure_host()
        if not environment.inside():
            return _step_inside(host, arguments)
        if options.command == "test":
            from . import testing

            return testing.run(host, options.what, extra)
    except environment.Problem as problem:
        environment.say(f"dev.py: {problem}")
        return 1
    return 0


def _step_inside(host: environment.Host, arguments: Sequence[str]) -> int:
    command = [str(host.python), str(environment.ROOT / "dev.py"), *arguments]
    environ = environment.clean_environ()
    if sys.platform == "win32":
        return subprocess.call(command, env=environ)
    sys.stdout.flush()
    os.execve(command[0], command, environ)
