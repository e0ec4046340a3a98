"""python3 dev.py demo: a shipped workflow through the real server, and its results in a folder."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .environment import ROOT, Host, Problem, cache_folder, locked, say
from .progress import Progress
from .server import Server

WORKFLOW = ROOT / "workflows" / "01_long_take.json"
REPORT = "drift report of "
"""The nodes that the demo adds to a graph, to read a report, have ids that begin with this."""
VIDEOS = {".mp4", ".mov", ".mkv", ".webm"}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What summary.json holds. Times in seconds; `drift` is the report of ThroughlineDriftReport.

    `seconds` and `frames` are counted in the finished file. `peak_ram_mb` is the largest resident
    memory of the server (10**6 bytes); `wall_s` runs from the start of the server to the last file.
    """

    segments: int
    frames: int
    seconds: float
    peak_ram_mb: float
    wall_s: float
    drift: dict[str, Any] | None
    reused_segments: int


def run(host: Host, out: Path, workflow: Path, stay_open: bool, gpu: bool = False) -> int:
    """Queue `workflow` (UI or API form) and bring its results to `out`; returns the exit status.

    The base directory is kept, so that a second call finds the finished segments of the first.
    With `stay_open` the server runs on until Ctrl+C.
    """
    graph = read_workflow(workflow)
    base = cache_folder() / "base"
    base.mkdir(parents=True, exist_ok=True)
    with locked(base / "lock", "another demo is running; waiting for its end"):
        return _run_alone(host, out, workflow, graph, base, stay_open, gpu)


def _run_alone(
    host: Host, out: Path, workflow: Path, graph: Any, base: Path, stay_open: bool, gpu: bool
) -> int:
    started = time.monotonic()
    with Server(host, base, () if gpu else ("--cpu",)) as server:
        say(f"ComfyUI {server.address}, log {server.log_file}")
        failed = server.failed_imports()
        if failed:
            raise Problem("the pack could not be loaded:\n" + server.log()[-3000:])
        prompt = to_prompt(graph, server)
        provide_inputs(prompt, workflow.parent, base / "input")
        progress = Progress({key: node["class_type"] for key, node in prompt.items()})
        workflow_to_embed = graph if "nodes" in graph else None
        _, entry = server.run(with_report(prompt), progress.hear, workflow_to_embed)
        progress.close()
        if entry["status"]["status_str"] != "success":
            raise Problem(_failure(entry))
        out.mkdir(parents=True, exist_ok=True)
        files = list(collect(entry["outputs"], server, out, workflow))
        summary = _summary(progress, files, entry["outputs"], server, time.monotonic() - started)
        (out / "summary.json").write_text(
            json.dumps(asdict(summary), indent=1) + "\n", encoding="utf-8"
        )
        _print(summary, texts(prompt, entry["outputs"]), [*files, out / "summary.json"])
        if stay_open:
            print(f"ComfyUI is open at {server.address} (Ctrl+C ends it)", flush=True)
            server.wait()
    return 0


def read_workflow(file: Path) -> dict[str, Any]:
    """The JSON of a workflow. Raises Problem for a file that is not one."""
    try:
        graph = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Problem(f"--workflow must name a workflow file, got {file}: {error}") from None
    if not isinstance(graph, dict) or not ("nodes" in graph or _is_api(graph)):
        raise Problem(f"--workflow must name a workflow in UI or API form, got {file}")
    return graph


def _is_api(graph: Mapping[str, Any]) -> bool:
    return bool(graph) and all(isinstance(x, dict) and "class_type" in x for x in graph.values())


def to_prompt(graph: dict[str, Any], server: Server) -> dict[str, Any]:
    """The graph in API form; one in UI form is converted with the server's node definitions."""
    if "nodes" not in graph:
        return graph
    from comfy_cli.workflow_to_api import convert_ui_to_api

    return convert_ui_to_api(graph, server.get("/object_info"))


def provide_inputs(prompt: Mapping[str, Any], source: Path, target: Path) -> None:
    """Copy images that LoadImage nodes name from beside the workflow into the input folder."""
    for node in prompt.values():
        name = node["inputs"].get("image")
        if node["class_type"] == "LoadImage" and isinstance(name, str):
            found = next(iter(sorted(source.rglob(Path(name).name))), None)
            if found is not None:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(found, target / name)


def collect(
    outputs: Mapping[str, Any], server: Server, out: Path, workflow: Path
) -> Iterator[Path]:
    """Copy every saved file to `out` under a name without counters.

    The first video takes the workflow's name (01_long_take.json gives long_take.mp4).
    """
    taken: set[str] = set()
    for entry in _files(outputs):
        suffix = Path(entry["filename"]).suffix.lower()
        stem = re.sub(r"[_-]*\d*_?$", "", Path(entry["filename"]).stem) or "picture"
        if suffix in VIDEOS and not any(Path(name).suffix in VIDEOS for name in taken):
            stem = re.sub(r"^\d+_", "", workflow.stem)
        name, number = stem + suffix, 2
        while name in taken:
            name, number = f"{stem}_{number}{suffix}", number + 1
        taken.add(name)
        keys = ("filename", "subfolder", "type")
        query = urllib.parse.urlencode({key: entry.get(key, "") for key in keys})
        (out / name).write_bytes(server.get(f"/view?{query}"))
        yield out / name


def _files(outputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for result in outputs.values():
        for entries in result.values():
            for entry in entries if isinstance(entries, list) else []:
                if isinstance(entry, dict) and entry.get("type") == "output":
                    yield entry


def with_report(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """The graph and, for each ThroughlineDriftReport, core's node that shows its JSON."""
    shown = {
        REPORT + node_id: {"class_type": "PreviewAny", "inputs": {"source": [node_id, 0]}}
        for node_id, node in prompt.items()
        if node["class_type"] == "ThroughlineDriftReport"
    }
    return {**prompt, **shown}


def drift_report(outputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """The report that `with_report` asked for, None where the graph measures no drift."""
    for node_id, result in outputs.items():
        if node_id.startswith(REPORT):
            return json.loads(result["text"][0])
    return None


def texts(prompt: Mapping[str, Any], outputs: Mapping[str, Any]) -> list[str]:
    """What the pack's own nodes say about their results, such as the table of drift."""
    return [
        text
        for node_id, result in outputs.items()
        if prompt.get(node_id, {}).get("class_type", "").startswith("Throughline")
        for text in result.get("text", ())
    ]


def video_length(file: Path) -> tuple[int, float]:
    """Frames and seconds of a video, counted by reading its packets."""
    import av

    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        frames = sum(1 for packet in container.demux(stream) if packet.size)
        assert stream.average_rate is not None
        return frames, float(frames / stream.average_rate)


def _summary(
    progress: Progress, files: list[Path], outputs: Mapping[str, Any], server: Server, wall: float
) -> Summary:
    video = next((file for file in files if file.suffix in VIDEOS), None)
    frames, seconds = video_length(video) if video else (0, 0.0)
    return Summary(
        segments=progress.segments,
        frames=frames,
        seconds=round(seconds, 3),
        peak_ram_mb=round(server.peak_ram_mb(), 1),
        wall_s=round(wall, 1),
        drift=drift_report(outputs),
        reused_segments=progress.reused,
    )


def _print(summary: Summary, said: list[str], files: list[Path]) -> None:
    for text in said:
        print(text)
    print(f"segments   {summary.segments}")
    if summary.reused_segments:
        print(f"reused     {summary.reused_segments} segments were on disk from an earlier run")
    print(f"video      {summary.frames} frames, {summary.seconds:g} s")
    print(f"peak RAM   {summary.peak_ram_mb:.0f} MB")
    print(f"wall time  {summary.wall_s:.0f} s")
    for file in files:
        print(f"file       {file}")
    sys.stdout.flush()


def _failure(entry: Mapping[str, Any]) -> str:
    for kind, data in entry["status"]["messages"]:
        if kind == "execution_error":
            return f"{data['node_type']} (node {data['node_id']}): {data['exception_message']}"
    return "the run was interrupted; the finished segments stay, the same command continues"
