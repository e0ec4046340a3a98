"""HTTP routes of the sidebar's storyboard: the one parser of scripts, for the page.

POST /throughline/storyboard/parse {"script": text}
    {"form": ..., "settings": {...}, "characters": [...], "locations": [...], "scenes": [...],
     "shots": [...], "warnings": [...]}
POST /throughline/storyboard/edit {"script": text, "edit": {"edit": kind, ...}}
    {"script": the new text, "storyboard": what parse says of it}

The kinds of edits are those of `planning/edits.py`, and "as_script", which writes a storyboard of
another form as a script. What cannot be read or done is {"error": ..., "line": ..., "column": ...},
line and column null where the error is none of the text. Nothing is kept, and no file is opened:
reference pictures are shown through ComfyUI's own /view.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

from aiohttp import web

from ..planning.edits import read_edit
from ..planning.formats import SCRIPT, detect_form, read_storyboard, write_storyboard
from ..planning.line_edit import place_of
from ..planning.script import SETTINGS, Outline, read_outline
from ..planning.script_edit import edit_script
from ..planning.storyboard import (
    NO_SHOTS,
    Character,
    Location,
    Shot,
    Storyboard,
    StoryboardError,
    image_prompt,
    video_prompt,
)

ADDRESS = "/throughline/storyboard"
MOST_BYTES = 1 << 20
"""A script of 400 lines is about 40 kB: a megabyte is more than anyone writes by hand."""
FENCED = "script in a code block"
AS_SCRIPT = {"edit": "as_script"}

_WARNING = re.compile(r"line (\d+), column (\d+): (.*)", re.S)


def register_storyboard_routes() -> None:
    """Add the routes to the running server; does nothing without one, or when they are there."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    address = ADDRESS + "/parse"
    if server is None or any(getattr(route, "path", "") == address for route in server.routes):
        return
    server.routes.post(address)(post_parse)
    server.routes.post(ADDRESS + "/edit")(post_edit)


async def post_parse(request: web.Request) -> web.Response:
    return await _answer(request, lambda body: describe_script(body["script"]))


async def post_edit(request: web.Request) -> web.Response:
    return await _answer(request, lambda body: edited_script(body["script"], body.get("edit")))


def describe_script(text: str) -> dict[str, Any]:
    """What the page shows of a script, or its error with line and column.

    `empty` is true where nothing is wrong but that there is no shot yet.
    """
    form = _form(text)
    try:
        outline = read_outline(text) if form == SCRIPT else None
        if outline is not None and not outline.shots:
            return {"error": NO_SHOTS, "line": None, "column": None, "empty": True}
        storyboard = read_storyboard(text)
    except StoryboardError as error:
        return _error(error)
    return {"form": form, **_described(storyboard, outline)}


def edited_script(text: str, edit: object) -> dict[str, Any]:
    """The script after one edit with what the page shows of it, or why it cannot be."""
    form = _form(text)
    try:
        if edit == AS_SCRIPT:
            changed = write_storyboard(read_storyboard(text), SCRIPT)
        elif form == SCRIPT:
            changed = edit_script(text, read_edit(edit))
        else:
            raise StoryboardError(f"turn this storyboard ({form}) into a script to change it")
        if _form(changed) != SCRIPT:
            raise StoryboardError(
                f"the text would then be read as {_form(changed)}, no longer as a script; a first "
                "line that begins with // keeps it a script"
            )
    except StoryboardError as error:
        return _error(error)
    return {"script": changed, "storyboard": describe_script(changed)}


def _form(text: str) -> str:
    """The form of a text. The fences around what a language model answered are no script's lines:
    such a text is read, and must be written as a script before its lines are changed."""
    form = detect_form(text)
    fenced = form == SCRIPT and text.lstrip("\ufeff \t\r\n").startswith("```")
    return FENCED if fenced else form


def _error(error: StoryboardError) -> dict[str, Any]:
    return {"error": error.problem, "line": error.line, "column": error.column}


def _described(storyboard: Storyboard, outline: Outline | None) -> dict[str, Any]:
    definitions = outline.definitions if outline else {}
    lines = {name: span.line for name, span in definitions.items()}

    def line(one: Character | Location) -> int | None:
        return lines.get(one.name.casefold())

    return {
        "settings": {
            key: getattr(storyboard, {"global": "global_text"}.get(key, key)) for key in SETTINGS
        },
        "characters": [
            {**_definition(one), "pin": one.pin, "lora": one.lora, "line": line(one)}
            for one in storyboard.characters
        ],
        "locations": [{**_definition(one), "line": line(one)} for one in storyboard.locations],
        "scenes": _scenes(storyboard, outline),
        "shots": [_shot(storyboard, shot) for shot in storyboard.shots],
        "warnings": [_warning(warning) for warning in storyboard.warnings],
    }


def _definition(one: Character | Location) -> dict[str, Any]:
    return {"name": one.name, "description": one.description, "refs": list(one.refs)}


def _scenes(storyboard: Storyboard, outline: Outline | None) -> list[dict[str, Any]]:
    """Every scene in the order of the text, also those without a shot.

    `line` is null for shots above the first scene line.
    """
    places = {shot.scene: shot.location for shot in storyboard.shots}
    lines = outline.scenes if outline else {}
    unmarked = [scene for scene in places if scene not in lines]
    return [{"number": scene, "location": places[scene], "line": None} for scene in unmarked] + [
        {
            "number": scene,
            "location": places.get(scene) or place_of(span.text) or None,
            "line": span.line,
        }
        for scene, span in lines.items()
    ]


def _shot(storyboard: Storyboard, shot: Shot) -> dict[str, Any]:
    return {
        "id": shot.id,
        "scene": shot.scene,
        "location": shot.location,
        "caption": shot.caption,
        "size": shot.size,
        "seconds": shot.seconds,
        "transition": shot.transition,
        "characters": list(shot.characters),
        "motion": shot.motion,
        "camera": shot.camera,
        "seed": None if shot.seed is None else str(shot.seed),  # too long for a page's numbers
        "recall": list(shot.recall),
        "negative": shot.negative,
        "refs": list(shot.refs),
        "strength": shot.strength,
        "lora": shot.lora,
        "audio": shot.audio,
        "keyframe": shot.keyframe_prompt,
        "line": shot.line,
        "prompts": {
            "image": image_prompt(storyboard, shot),
            "video": video_prompt(storyboard, shot),
        },
    }


def _warning(words: str) -> dict[str, Any]:
    match = _WARNING.fullmatch(words)
    if match is None:
        return {"text": words, "line": None, "column": None}
    return {"text": match[3], "line": int(match[1]), "column": int(match[2])}


async def _answer(
    request: web.Request, say: Callable[[dict[str, Any]], dict[str, Any]]
) -> web.Response:
    """The answer of `say` to the request's body, worked out beside the server's loop."""
    content = bytearray()
    async for piece in request.content.iter_chunked(1 << 16):
        content += piece
        if len(content) > MOST_BYTES:
            words = f"a storyboard must have at most {MOST_BYTES} bytes, got more"
            return _refused(words, 413)
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return _refused("the request must be JSON", 400)
    if not isinstance(body, dict) or not isinstance(body.get("script"), str):
        return _refused('the request must be an object with a text "script"', 400)
    return web.json_response(await asyncio.to_thread(say, body))


def _refused(words: str, status: int) -> web.Response:
    return web.json_response({"error": words, "line": None, "column": None}, status=status)
