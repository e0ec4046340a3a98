"""Read-only HTTP routes of the sidebar: the runs on disk, their segments and thumbnails.

GET /throughline/runs                               {"runs": [...]}, the newest first
GET /throughline/runs/{name}                        {"name", "kind", "segments": [...], "schedule"}
GET /throughline/runs/{name}/previews/{number}.jpg  a thumbnail
GET /throughline/runs/{name}/clips/{number}.mp4     what a segment adds to the film

Nothing outside <ComfyUI's output>/throughline is opened, and nothing is ever written. A run that
cannot be read has its reason under "error" and hides no other run.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import safetensors
from aiohttp import web

from ..runs.clips import clip_path
from ..runs.keys import FILM
from ..runs.manifest import FILE_NAME, SegmentRecord
from ..runs.paths import is_inside, run_path
from ..runs.run import Run, open_run
from ..runs.schedule_file import chart_json, read_schedule
from ..runs.timeline import added_latent_frames, run_kind
from .rendering import runs_root

ADDRESS = "/throughline/runs"
JPEG_START = b"\xff\xd8\xff"
"""First bytes of every JPEG: a file of another kind is not handed out under that name."""

MP4_MARK = b"ftyp"
"""Bytes 4 to 7 of every MP4 that our writer makes (ISO 14496-12, 4.3)."""


def register_routes() -> None:
    """Add the routes to the running server; does nothing without one, or when they are there."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is None or any(getattr(route, "path", "") == ADDRESS for route in server.routes):
        return
    server.routes.get(ADDRESS)(get_runs)
    server.routes.get(ADDRESS + "/{name}")(get_run)
    server.routes.get(ADDRESS + "/{name}/previews/{number:[0-9]{1,6}}.jpg")(get_preview)
    server.routes.get(ADDRESS + "/{name}/clips/{number:[0-9]{1,6}}.mp4")(get_clip)


async def get_runs(request: web.Request) -> web.Response:
    return _json({"runs": await asyncio.to_thread(list_runs, runs_root())})


async def get_run(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    described = await asyncio.to_thread(describe_run, runs_root(), name)
    return _not_found(f"there is no run {name!r}") if described is None else _json(described)


async def get_preview(request: web.Request) -> web.Response:
    name, number = request.match_info["name"], int(request.match_info["number"])
    picture = await asyncio.to_thread(read_preview, runs_root(), name, number)
    if picture is None:
        return _not_found(f"there is no thumbnail of segment {number} of run {name!r}")
    return web.Response(body=picture, content_type="image/jpeg")


async def get_clip(request: web.Request) -> web.StreamResponse:
    name, number = request.match_info["name"], int(request.match_info["number"])
    file = await asyncio.to_thread(find_clip, runs_root(), name, number)
    if file is None:
        return _not_found(f"there is no clip of segment {number} of run {name!r}")
    return web.FileResponse(file, headers={"Content-Type": "video/mp4"})


def list_runs(root: Path) -> list[dict[str, Any]]:
    """Every run below `root`, the newest first.

    Entries: name, segments and finished (counts), updated (UTC, ISO 8601), seconds (what sampling
    the finished segments took); error instead of figures for a run that cannot be read.
    """
    names = [path.name for path in root.iterdir()] if root.is_dir() else []
    paths = [path for name in sorted(names) if (path := _find(root, name)) is not None]
    entries = [(_modified(path), _summary(path)) for path in paths]
    entries.sort(key=lambda entry: entry[0], reverse=True)
    return [{**summary, "updated": _utc(modified)} for modified, summary in entries]


def describe_run(root: Path, name: str) -> dict[str, Any] | None:
    """One run with its segments as the page shows them, None where there is no run `name`.

    `kind` is "film", "plan", "fill" or "keyframes"; `schedule` what runs/schedule_file.py
    describes, null for a run that has none.
    """
    path = _find(root, name)
    if path is None:
        return None
    run = _open(path)
    if isinstance(run, str):
        return {"name": name, "kind": FILM, "segments": [], "schedule": None, "error": run}
    chart = read_schedule(path)
    return {
        "name": name,
        "kind": run_kind(run.manifest),
        "segments": [_segment(run, record) for record in run.segments],
        "schedule": None if chart is None else chart_json(chart),
    }


def read_preview(root: Path, name: str, number: int) -> bytes | None:
    """The JPEG of segment `number` (1-based), None where there is none."""
    path = _find(root, name)
    run = None if path is None else _open(path)
    if not isinstance(run, Run) or not 1 <= number <= len(run.segments):
        return None
    preview = run.segments[number - 1].preview
    if preview is None or not is_inside(run.path, run.path / preview):
        return None
    try:
        picture = (run.path / preview).read_bytes()
    except OSError:
        return None
    return picture if picture.startswith(JPEG_START) else None


def find_clip(root: Path, name: str, number: int) -> Path | None:
    """The file of the clip of segment `number` (1-based), None where there is none."""
    path = _find(root, name)
    run = None if path is None else _open(path)
    if not isinstance(run, Run) or not 1 <= number <= len(run.segments):
        return None
    return _clip(run, run.segments[number - 1])


def _clip(run: Run, record: SegmentRecord) -> Path | None:
    if not record.finished:
        return None
    file = clip_path(run, record)
    try:
        if not (is_inside(run.path, file) and file.is_file()):
            return None
        with file.open("rb") as stream:
            return file if stream.read(8)[4:] == MP4_MARK else None
    except OSError:
        return None


def _find(root: Path, name: str) -> Path | None:
    """The folder of run `name`; None for names that are none or that lead out of `root`."""
    try:
        path = run_path(root, name)
        manifest = path / FILE_NAME
        return path if manifest.is_file() and is_inside(path, manifest) else None
    except (ValueError, OSError):
        return None


def _open(path: Path) -> Run | str:
    """The run, or why it cannot be read."""
    try:
        return open_run(path)
    except ValueError as error:
        return str(error)
    except OSError as error:
        return f"{FILE_NAME} of run {path.name!r} cannot be read: {error.strerror}"


def _summary(path: Path) -> dict[str, Any]:
    run = _open(path)
    if isinstance(run, str):
        return {"name": path.name, "segments": 0, "finished": 0, "seconds": 0.0, "error": run}
    finished = [record for record in run.segments if record.finished]
    return {
        "name": path.name,
        "segments": len(run.segments),
        "finished": len(finished),
        "seconds": sum(record.seconds or 0.0 for record in finished),
    }


def _segment(run: Run, record: SegmentRecord) -> dict[str, Any]:
    status, reason = _status(run, record)
    preview, clip = None, None
    if record.content is not None:
        address = f"{ADDRESS}/{quote(run.path.name, safe='')}"
        version = f"v={record.key[:8]}{record.content[:8]}"  # browsers keep pictures for a day
        if record.preview is not None:
            preview = f"{address}/previews/{record.number}.jpg?{version}"
        if _clip(run, record) is not None:
            clip = f"{address}/clips/{record.number}.mp4?{version}"
    return {
        "number": record.number,
        "shot_id": record.shot_id,
        "prompt": record.prompt,
        "status": status,
        "reason": reason,
        "seed": record.seed,
        "take": record.take,
        "chain": None if record.is_planned else record.chain,  # redone alone, without followers
        "continues": record.continues,
        "length": added_latent_frames(run.manifest, record),
        "seconds": record.seconds,
        "statistics": dict(record.statistics),
        "preview": preview,
        "clip": clip,
    }


def _status(run: Run, record: SegmentRecord) -> tuple[str, str]:
    """Status and reason from a quick look; the sampler checks every byte before it reuses one."""
    if not record.finished or record.file is None:
        return "waiting", ""
    path = run.path / record.file
    if not is_inside(run.path, path) or not path.is_file():
        return "damaged", "its file is gone"
    try:
        with safetensors.safe_open(path, "pt") as file:
            content = (file.metadata() or {}).get("content")
    except (safetensors.SafetensorError, OSError):
        return "damaged", "its file is truncated or altered"
    if content != record.content:
        return "damaged", "its file holds another segment"
    return "done", ""


def _modified(path: Path) -> float:
    try:
        return (path / FILE_NAME).stat().st_mtime
    except OSError:
        return 0.0


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _json(value: dict[str, Any], status: int = 200) -> web.Response:
    return web.json_response(value, status=status)


def _not_found(why: str) -> web.Response:
    return _json({"error": why}, status=404)
