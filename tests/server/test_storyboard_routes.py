"""The storyboard's routes: what the page is told of a script, and what they refuse."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import pytest

from throughline.nodes import storyboard_routes

PARSE, EDIT = "/throughline/storyboard/parse", "/throughline/storyboard/edit"
SCRIPT = """\
title: Rain
@Ana = woman, 30 | ref: ana.png
== Scene 1 #town ==
[wide, 5s] <Ana> waits. {motion: pan; seed: 18446744073709551615}
<Bob> runs. {recall: 1.1}

== Scene 2 ==
"""


def ask(server: Any, path: str, body: bytes | dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Status and answer of a POST."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(server.address + path, data, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_the_page_is_told_all_of_a_script(server: Any) -> None:
    status, told = ask(server, PARSE, {"script": SCRIPT})
    assert (status, told["form"]) == (200, "script")
    first, second = told["shots"]
    assert (first["id"], first["scene"], first["location"], first["line"]) == ("1.1", 1, "town", 4)
    assert (first["size"], first["seconds"], first["transition"]) == ("wide", 5.0, None)
    assert (first["characters"], first["motion"]) == (["Ana"], "pan")
    assert first["seed"] == "18446744073709551615"  # a page's numbers would round it
    assert first["prompts"]["video"] == "wide, Ana (woman, 30), Ana waits. pan"
    assert second["recall"] == ["1.1"]
    assert told["characters"] == [
        {
            "name": "Ana",
            "description": "woman, 30",
            "refs": ["ana.png"],
            "pin": True,
            "lora": "",
            "line": 2,
        }
    ]
    assert told["locations"] == [{"name": "town", "description": "", "refs": [], "line": None}]
    assert told["scenes"] == [
        {"number": 1, "location": "town", "line": 3},
        {"number": 2, "location": None, "line": 7},
    ]
    assert told["settings"]["title"] == "Rain"
    assert {"text": "nobody is called 'Bob'; read as words", "line": 5, "column": 1} in told[
        "warnings"
    ]


def test_mistakes_have_their_place(server: Any) -> None:
    status, told = ask(server, PARSE, {"script": "A door.\n[0s] A street."})
    assert status == 200 and (told["line"], told["column"]) == (2, 2)
    assert told["error"].startswith("seconds per shot must be above 0")
    status, told = ask(server, PARSE, {"script": "title: Rain"})
    assert (told["line"], told["empty"]) == (None, True)


def test_an_edit_gives_the_new_script_and_what_it_says(server: Any) -> None:
    edit = {"edit": "move_shot", "shot": "1.1", "scene": 2}
    status, told = ask(server, EDIT, {"script": SCRIPT, "edit": edit})
    assert status == 200 and "which must stay before it" in told["error"]
    assert told["line"] is None
    edit = {"edit": "move_shot", "shot": "1.2", "scene": 2}
    status, told = ask(server, EDIT, {"script": SCRIPT, "edit": edit})
    assert told["script"].endswith("== Scene 2 ==\n<Bob> runs. {recall: 1.1}\n")
    assert told["storyboard"] == ask(server, PARSE, {"script": told["script"]})[1]
    first = {"edit": "insert_shot", "caption": "Rain."}
    assert ask(server, EDIT, {"script": "", "edit": first})[1]["script"] == "Rain."


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("StoryMem", '{"scenes": [{"scene_num": 1, "video_prompts": ["A door.", "Rain."]}]}'),
        ("frame schedule", '"0": "A door.", "16": "Rain."'),
        ("script in a code block", "```\nA door.\nRain.\n```"),
    ],
)
def test_other_forms_are_shown_and_become_a_script(server: Any, form: str, text: str) -> None:
    _, told = ask(server, PARSE, {"script": text})
    assert told["form"] == form
    assert [shot["caption"] for shot in told["shots"]] == ["A door.", "Rain."]
    edit: dict[str, Any] = {"edit": "delete_shot", "shot": "1.1"}
    _, told = ask(server, EDIT, {"script": text, "edit": edit})
    assert f"turn this storyboard ({form}) into a script" in told["error"]
    _, told = ask(server, EDIT, {"script": text, "edit": {"edit": "as_script"}})
    assert told["storyboard"]["form"] == "script"
    assert [shot["caption"] for shot in told["storyboard"]["shots"]] == ["A door.", "Rain."]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "JSON"),
        (b"{", 400, "JSON"),
        (b"\xff\xfe", 400, "JSON"),
        (b"[" * 100_000, 400, "JSON"),
        (b"[]", 400, "object"),
        (b"{}", 400, "script"),
        (b'{"script": 3}', 400, "script"),
        (b'{"script": "' + b"a" * (1 << 20) + b'"}', 413, "at most"),
        (
            b'{"script": "\\ud800", "edit": {"edit": "insert_scene"}}',
            200,
            "control characters",
        ),
        (b'{"script": "a", "edit": null}', 200, "an edit must be an object"),
        (b'{"script": "a", "edit": {"edit": "__class__"}}', 200, "an edit is one of"),
        (b'{"script": "a", "edit": {"edit": "delete_shot", "shot": "1.1"}}', 200, "one shot"),
    ],
)
def test_what_is_no_request_is_refused(server: Any, body: bytes, status: int, words: str) -> None:
    answered, told = ask(server, EDIT, body)
    assert answered == status
    assert words in told["error"]


def test_registering_twice_adds_nothing(prompt_server: Any) -> None:
    storyboard_routes.register_storyboard_routes()
    count = len(prompt_server.routes)
    storyboard_routes.register_storyboard_routes()
    assert len(prompt_server.routes) == count
