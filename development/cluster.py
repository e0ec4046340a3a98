"""python3 dev.py cluster --workers 2: a Ray cluster of this machine, to try an executor with.

Each worker is a ComfyUI of its own that starts when a film is filled. The cluster's processes are
children of this one and end with it.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .environment import Host, Problem, cache_folder, clean_environ, say
from .server import prepare_base

READY_SECONDS = 300
STOP_SECONDS = 20
STORE_BYTES = 256 * 1024**2


class Cluster:
    """A Ray head with room for `workers`. `with Cluster(host, 2, base) as cluster:` starts and
    stops it; `base` is the base directory that the workers' ComfyUI uses."""

    def __init__(
        self,
        host: Host,
        workers: int,
        base: Path,
        arguments: Sequence[str] = ("--cpu",),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._host, self._workers, self._base = host, workers, base
        self._arguments, self._environ = list(arguments), dict(environ or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._ports = _free_ports(3)

    @property
    def address(self) -> str:
        """For processes of this machine, and for tests."""
        return f"127.0.0.1:{self._ports[0]}"

    @property
    def pid(self) -> int:
        """The number of the head's process."""
        assert self._process is not None, "the cluster is not running"
        return self._process.pid

    @property
    def client_address(self) -> str:
        """For the node Executor, from any machine that reaches this one."""
        return f"ray://127.0.0.1:{self._ports[1]}"

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start and wait until it answers. Raises Problem with its log's end when it does not."""
        prepare_base(self._base)
        arguments = ["--disable-api-nodes", "--base-directory", str(self._base)]
        arguments += ["--database-url", "sqlite:///:memory:", *self._arguments]
        environ = {
            **clean_environ(),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # Ray's 15 leaves workers nothing beside other work
            "THROUGHLINE_COMFYUI": str(self._host.comfyui),
            "THROUGHLINE_COMFYUI_ARGUMENTS": shlex.join(arguments),
            **self._environ,
        }
        head, client, agent = self._ports
        command = [str(self._host.python.with_name("ray")), "start", "--head", "--block"]
        command += [f"--port={head}", f"--ray-client-server-port={client}"]
        command += [f"--runtime-env-agent-port={agent}"]  # else the client server is told port 0
        command += ["--include-dashboard=false", f"--object-store-memory={STORE_BYTES}"]
        command += [f'--resources={{"throughline": {self._workers}}}']
        self._log = tempfile.NamedTemporaryFile(prefix="throughline_cluster_", suffix=".log")
        self._process = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=sys.platform != "win32",
        )
        deadline = time.monotonic() + READY_SECONDS
        while not all(map(_answers, self._ports[:2])):
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self._tail()
                self.stop()
                raise Problem(f"the Ray cluster did not start:\n{said}")
            time.sleep(0.2)

    def stop(self) -> None:
        """End the head, and with it everything that it started."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            if sys.platform == "win32":
                self._process.kill()
            else:
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._log.close()

    def _tail(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-2000:]


def run(host: Host, workers: int, gpu: bool) -> int:
    """Run a cluster until Ctrl-C; returns the exit status."""
    if workers < 1:
        raise Problem(f"--workers must be 1 or more, got {workers}")
    base = cache_folder() / "base"
    with Cluster(host, workers, base, () if gpu else ("--cpu",)) as cluster:
        say(f"a Ray cluster with room for {workers} workers runs on this machine")
        say(f"in the node Executor: run_on 'Ray cluster', address {cluster.client_address}")
        say("Ctrl-C ends it")
        while True:
            time.sleep(3600)


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False
