"""A real ComfyUI server in a process of its own: start, queue a graph, follow it, stop.

Used by dev.py demo and by the tests of the levels server and browser. The tree of ComfyUI stays
untouched: models, input, output and settings live in a base directory, and the pack is linked
into its custom_nodes.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .environment import ROOT, Host, Problem, clean_environ

FOLDERS = ("custom_nodes", "models", "input", "output", "temp")
USER = "user/default"
# A first visit shows dialogs over the page; these settings say that it was not the first.
SETTINGS: dict[str, object] = {
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "1.47.12",
    "Comfy.Workflow.Persist": False,
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Appearance.DisableAnimations": True,
}
READY_SECONDS = 240  # a first start compiles some 4000 modules: 20 to 30 s measured on two cores

Event = tuple[str, Any]


class Refused(Problem):
    """The server did not accept a graph; `node_errors` is its answer by node id."""

    def __init__(self, message: str, node_errors: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.node_errors = dict(node_errors)


def prepare_base(base: Path) -> None:
    """Make a base directory with the pack linked in; what is there already stays."""
    for name in (*FOLDERS, f"{USER}/workflows", f"{USER}/subgraphs"):
        (base / name).mkdir(parents=True, exist_ok=True)
    link_pack(base / "custom_nodes" / "throughline")
    files = {
        "comfy.settings.json": json.dumps(SETTINGS),
        "comfy.templates.json": "[]",
        "user.css": "",
    }
    for name, text in files.items():
        if not (base / USER / name).exists():
            (base / USER / name).write_text(text, encoding="utf-8")


def link_pack(link: Path) -> None:
    """Link the repository as a folder of custom nodes (a junction on Windows)."""
    if link.exists() and link.resolve() == ROOT:
        return
    if link.is_symlink():
        link.unlink()
    try:
        link.symlink_to(ROOT, target_is_directory=True)
    except OSError:
        if sys.platform != "win32":
            raise
        import _winapi

        _winapi.CreateJunction(str(ROOT), str(link))


class Server:
    """One ComfyUI process. `with Server(host, base) as server:` starts and stops it."""

    def __init__(
        self,
        host: Host,
        base: Path,
        arguments: Sequence[str] = ("--cpu",),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """`arguments` go to ComfyUI's command line; `environ` is laid over this process's."""
        self._host, self.base = host, base
        self._arguments, self._environ = list(arguments), dict(environ or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._largest_mb = 0.0
        self.port = 0

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log_file(self) -> Path:
        """Everything the process printed since its start."""
        return self.base / "server.log"

    def log(self) -> str:
        """The text of the log."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    @property
    def pid(self) -> int:
        """The number of the running process."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> None:
        """Start and wait until it answers. Raises Problem with the log's end when it does not."""
        prepare_base(self.base)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [str(self._host.python), "main.py", "--port", str(self.port)]
        command += ["--disable-api-nodes", "--base-directory", str(self.base)]
        command += ["--database-url", "sqlite:///:memory:", *self._arguments]
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._host.comfyui,
                env={**clean_environ(), **self._environ},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        limit = time.monotonic() + READY_SECONDS
        while time.monotonic() < limit:
            with contextlib.suppress(OSError):
                self.get("/system_stats")
                return
            if self._process.poll() is not None:
                raise Problem("ComfyUI ended while starting:\n" + self.log()[-3000:])
            time.sleep(0.1)
        self.stop()
        raise Problem("ComfyUI did not answer:\n" + self.log()[-3000:])

    def stop(self) -> None:
        """End the process politely; by force after ten seconds."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End the process at once, as a crash would (kill -9)."""
        assert self._process is not None, "the server is not running"
        self._process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        self._process.wait()
        self._process = None

    def wait(self) -> None:
        """Block until the process ends by itself or Ctrl+C is pressed."""
        assert self._process is not None, "the server is not running"
        with contextlib.suppress(KeyboardInterrupt):
            self._process.wait()

    def get(self, path: str) -> Any:
        """The answer to GET: parsed when it is JSON, else bytes."""
        with urllib.request.urlopen(self.address + path, timeout=60) as answer:
            body = answer.read()
            kind = answer.headers.get("Content-Type", "")
        return json.loads(body) if "application/json" in kind else body

    def post(self, path: str, value: object) -> Any:
        """The answer to POST of one JSON value; None when it is empty."""
        request = urllib.request.Request(
            self.address + path, json.dumps(value).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def queue(self, prompt: Mapping[str, Any], client_id: str, workflow: object = None) -> str:
        """Queue a graph in API form and return its prompt id.

        `workflow`, the graph in UI form, goes along as the page sends it, so that files made by
        the graph can carry it. Raises Refused with the server's words when validation fails.
        """
        body: dict[str, Any] = {"prompt": prompt, "client_id": client_id}
        if workflow is not None:
            body["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        try:
            return self.post("/prompt", body)["prompt_id"]
        except urllib.error.HTTPError as error:
            raise _refusal(json.loads(error.read())) from None

    def run(
        self,
        prompt: Mapping[str, Any],
        on_event: Callable[[str, Any], object] = lambda kind, data: None,
        workflow: object = None,
        timeout: float = 600,
    ) -> tuple[list[Event], dict[str, Any]]:
        """Queue a graph and follow it to its end: (events in order, entry of the history).

        `on_event(type, data)` is called for each event as it comes; a binary preview has the
        type "binary" and its bytes. `timeout` is in seconds between two events. A graph that
        fails or is interrupted returns too: the last events and the entry's status tell.
        """
        import websocket

        client, events = str(uuid.uuid4()), []
        socket_address = f"ws://127.0.0.1:{self.port}/ws?clientId={client}"
        connection = websocket.create_connection(socket_address, timeout=timeout)
        with contextlib.closing(connection):
            wanted = {"supports_preview_metadata": True}  # else no previews come
            connection.send(json.dumps({"type": "feature_flags", "data": wanted}))
            prompt_id = self.queue(prompt, client, workflow)
            while True:
                message = connection.recv()
                if isinstance(message, bytes):
                    event: Event = ("binary", message)
                else:
                    value = json.loads(message)
                    event = (value["type"], value.get("data"))
                events.append(event)
                on_event(*event)
                self.peak_ram_mb()
                if _is_end(event, prompt_id):
                    return events, self.get(f"/history/{prompt_id}")[prompt_id]

    def interrupt(self) -> None:
        """Ask the server to stop the graph that it runs."""
        self.post("/interrupt", {})

    def peak_ram_mb(self) -> float:
        """Largest resident memory of the process since its start, in MB (10**6 bytes).

        Linux and Windows keep that figure; elsewhere it is the largest seen at any call, of which
        `run` makes one per event.
        """
        status = Path(f"/proc/{self.pid}/status")
        if status.exists():
            line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
            return int(line.split()[1]) * 1024 / 1e6
        import psutil

        memory = psutil.Process(self.pid).memory_info()
        seen = getattr(memory, "peak_wset", memory.rss) / 1e6
        self._largest_mb = max(self._largest_mb, seen)
        return self._largest_mb

    def failed_imports(self) -> list[str]:
        """Lines of the log that tell of custom nodes which could not be loaded."""
        marks = ("IMPORT FAILED", "Cannot import")
        return [line for line in self.log().splitlines() if any(mark in line for mark in marks)]


def _is_end(event: Event, prompt_id: str) -> bool:
    """True for the last event of a prompt; only after it the history is sure to have the entry."""
    kind, data = event
    return kind == "executing" and data["node"] is None and data.get("prompt_id") == prompt_id


def _refusal(answer: Mapping[str, Any]) -> Refused:
    node_errors = answer.get("node_errors") or {}
    lines = [answer["error"]["message"]]
    for node_id, entry in node_errors.items():
        for error in entry["errors"]:
            lines.append(
                f"{entry['class_type']} (node {node_id}): {error['message']}: {error['details']}"
            )
    return Refused("\n".join(lines), node_errors)


def environ_with_threads(count: int) -> dict[str, str]:
    """Environment that fixes torch's number of threads: equal floats from run to run."""
    return {"OMP_NUM_THREADS": str(count), "MKL_NUM_THREADS": str(count)}
