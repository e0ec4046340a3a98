"""The sidebar's routes: what they tell of the runs on disk, and that nothing else is ever read."""

from __future__ import annotations

import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from throughline.nodes import routes

MakeRun = Callable[..., Path]
RUNS = "/throughline/runs"
OUTSIDE = (
    "..",
    ".",
    "%2e%2e",
    "..%2f..%2finput",
    "%2e%2e%2fsecret",
    "..%5c..%5cinput",
    "%2fetc",
    "c%3a",
    "%00",
    "a%00b",
    "%ff%fe",
    "nul",
    ".lock",
    "x" * 300,
)


def answer(server: Any, path: str) -> tuple[int, bytes]:
    """Status and body of a GET whose path is sent as it is written."""
    try:
        with urllib.request.urlopen(server.address + path, timeout=30) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_without_runs_the_list_is_empty(server: Any, runs_root: Path) -> None:
    assert server.get(RUNS) == {"runs": []}
    runs_root.rmdir()
    assert server.get(RUNS) == {"runs": []}
    runs_root.mkdir()


def test_runs_are_listed_the_newest_first(server: Any, runs_root: Path, make_run: MakeRun) -> None:
    older = make_run(runs_root, "older", finished=6)
    os.utime(older / "manifest.json", (1_000_000_000, 1_000_000_000))
    make_run(runs_root, "夜の雨 100%", finished=4)
    first, second = server.get(RUNS)["runs"]
    assert [first["name"], second["name"]] == ["夜の雨 100%", "older"]
    assert (first["segments"], first["finished"], first["seconds"]) == (6, 4, 6.0)
    assert (second["finished"], second["updated"]) == (6, "2001-09-09T01:46:40Z")


def test_a_run_tells_its_segments(server: Any, runs_root: Path, make_run: MakeRun) -> None:
    make_run(runs_root, "夜の雨 100%", finished=4)
    run = server.get(RUNS + "/%E5%A4%9C%E3%81%AE%E9%9B%A8%20100%25")
    assert run["name"] == "夜の雨 100%"
    assert [s["number"] for s in run["segments"]] == [1, 2, 3, 4, 5, 6]
    assert [s["status"] for s in run["segments"]] == ["done"] * 4 + ["waiting"] * 2
    assert [s["chain"] for s in run["segments"]] == [0, 0, 0, 0, 1, 1]
    segment = run["segments"][1]
    assert (segment["seed"], segment["take"], segment["seconds"]) == (6, 0, 1.5)
    assert segment["prompt"].startswith("Shot 2") and segment["statistics"]["seam"] == 1.0
    assert server.get(segment["preview"])[:3] == b"\xff\xd8\xff"
    assert run["segments"][5]["preview"] is None
    assert answer(server, f"{RUNS}/older/previews/1.jpg")[0] == 404


def test_a_plan_tells_how_long_its_segments_are(
    server: Any, runs_root: Path, make_run: MakeRun
) -> None:
    make_run(runs_root, "film", finished=6)
    film = server.get(RUNS + "/film")
    assert (film["kind"], film["schedule"]) == ("film", None)
    assert [s["length"] for s in film["segments"]] == [2, 2, 2, 2, 2, 2]
    assert [s["continues"] for s in film["segments"]] == [False, True, True, True, False, True]
    planned = {str(index): ["MMPL T2V", 21] for index in range(6)}
    make_run(runs_root, "plan", finished=6, parameters={"kind": "plan", "planned": planned})
    plan = server.get(RUNS + "/plan")
    assert plan["kind"] == "plan"
    assert [s["length"] for s in plan["segments"]] == [21, 19, 19, 19, 21, 19]


def test_a_run_tells_its_schedule(server: Any, runs_root: Path, make_run: MakeRun) -> None:
    from throughline.planning.forecast import lower_bounds
    from throughline.planning.schedule import Costs, film_jobs, list_schedule
    from throughline.planning.schedule_chart import Chart, Timing, playable_at
    from throughline.runs.schedule_file import FILE_NAME, write_schedule

    costs = Costs(plan=2.0, fill_1=3.0)
    slots = list_schedule(film_jobs(2, costs), 2).slots
    chart = Chart(
        segments=2,
        devices=("cpu 1", "cpu 2"),
        seed_from="terminal",
        order="critical path first",
        reason="",
        costs=costs,
        measured=(),
        bounds=lower_bounds(2, costs, 2),
        enough_devices=3,
        predicted=Timing(slots=slots, first_footage=playable_at(slots, "fill 1")),
        actual=None,
        running=True,
    )
    folder = make_run(runs_root, "fill", finished=6, parameters={"kind": "fill"})
    write_schedule(folder, chart)
    told = server.get(RUNS + "/fill")["schedule"]
    assert told["devices"] == ["cpu 1", "cpu 2"] and told["predicted"]["makespan"] == 7.0
    assert told["predicted"]["slots"][0]["segment"] == 1
    (folder / FILE_NAME).write_text("{", encoding="utf-8")
    assert server.get(RUNS + "/fill")["schedule"] is None


def test_a_clip_of_a_segment_is_handed_out(
    server: Any, runs_root: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    from throughline.runs.clips import clip_path
    from throughline.runs.run import open_run

    run = open_run(make_run(runs_root, "film 1", finished=4))
    assert [s["clip"] for s in server.get(RUNS + "/film%201")["segments"]] == [None] * 6
    assert answer(server, f"{RUNS}/film%201/clips/1.mp4")[0] == 404
    video = b"\0\0\0\x1cftypisom" + bytes(range(200))
    files = [clip_path(run, record) for record in run.segments[:3]]
    files[0].parent.mkdir()
    files[0].write_bytes(video)
    files[1].write_bytes(b"<script>alert(1)</script>")
    outside = tmp_path / "outside.mp4"
    outside.write_bytes(video)
    files[2].symlink_to(outside)
    clips = [s["clip"] for s in server.get(RUNS + "/film%201")["segments"]]
    assert clips[0].startswith(f"{RUNS}/film%201/clips/1.mp4?v=") and clips[1:] == [None] * 5
    assert answer(server, clips[0]) == (200, video)
    for number in (0, 2, 3, 5, 7, 999999):
        assert answer(server, f"{RUNS}/film%201/clips/{number}.mp4")[0] == 404
    for name in OUTSIDE:
        assert answer(server, f"{RUNS}/{name}/clips/1.mp4")[0] == 404


def test_a_new_take_has_another_thumbnail_address(
    server: Any, runs_root: Path, make_run: MakeRun
) -> None:
    make_run(runs_root, "film", finished=6)
    before = server.get(RUNS + "/film")["segments"]
    make_run(runs_root, "film", finished=6, takes={4: 1})
    after = server.get(RUNS + "/film")["segments"]
    assert [segment["take"] for segment in after] == [0, 0, 0, 0, 1, 0]
    changed = [a["number"] for a, b in zip(after, before, strict=True) if a != b]
    assert changed == [5, 6]  # 6 continues 5
    assert after[4]["preview"] != before[4]["preview"]


def test_files_that_are_gone_or_truncated_are_said(
    server: Any, runs_root: Path, make_run: MakeRun
) -> None:
    files = sorted((make_run(runs_root, "film", finished=4) / "segments").iterdir())
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-10])
    files[2].write_bytes(files[3].read_bytes())
    states = [(s["status"], s["reason"]) for s in server.get(RUNS + "/film")["segments"]]
    assert states[:4] == [
        ("damaged", "its file is gone"),
        ("damaged", "its file is truncated or altered"),
        ("damaged", "its file holds another segment"),
        ("done", ""),
    ]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 99}', "\x00", "[" * 100_000])
def test_a_damaged_manifest_hides_no_other_run(
    server: Any, runs_root: Path, make_run: MakeRun, text: str
) -> None:
    make_run(runs_root, "good", finished=1)
    (make_run(runs_root, "bad", finished=1) / "manifest.json").write_text(text)
    listed = {entry["name"]: entry for entry in server.get(RUNS)["runs"]}
    assert listed["good"]["finished"] == 1 and "error" not in listed["good"]
    assert "bad" in listed["bad"]["error"]
    run = server.get(RUNS + "/bad")
    assert run["segments"] == [] and run["error"] == listed["bad"]["error"]
    assert answer(server, f"{RUNS}/bad/previews/1.jpg")[0] == 404


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_is_no_run_is_refused(
    server: Any, runs_root: Path, make_run: MakeRun, name: str
) -> None:
    make_run(runs_root.parent, "secret", finished=1)  # a valid run, one folder too high
    try:
        for path in (f"{RUNS}/{name}", f"{RUNS}/{name}/previews/1.jpg"):
            status, body = answer(server, path)
            assert status in (400, 404), path
            assert str(runs_root.parent).encode() not in body
    finally:
        shutil.rmtree(runs_root.parent / "secret")


@pytest.mark.parametrize("number", ["0", "5", "7", "999999", "-1", "1e3", "%31/../1", "0000001"])
def test_a_number_that_is_no_segment_is_refused(
    server: Any, runs_root: Path, make_run: MakeRun, number: str
) -> None:
    make_run(runs_root, "film", finished=4)
    assert answer(server, f"{RUNS}/film/previews/{number}.jpg")[0] == 404


def test_links_do_not_lead_out(
    server: Any, runs_root: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    outside = make_run(tmp_path, "outside", finished=2)
    (runs_root / "linked").symlink_to(outside, target_is_directory=True)
    borrowed = runs_root / "borrowed"
    borrowed.mkdir()
    (borrowed / "manifest.json").symlink_to(outside / "manifest.json")
    previews = make_run(runs_root, "previews", finished=2)
    shutil.rmtree(previews / "previews")
    (previews / "previews").symlink_to(outside / "previews", target_is_directory=True)
    segments = make_run(runs_root, "segments", finished=2)
    shutil.rmtree(segments / "segments")
    (segments / "segments").symlink_to(outside / "segments", target_is_directory=True)
    assert {entry["name"] for entry in server.get(RUNS)["runs"]} == {"previews", "segments"}
    assert answer(server, f"{RUNS}/linked")[0] == 404
    assert answer(server, f"{RUNS}/linked/previews/1.jpg")[0] == 404
    assert answer(server, f"{RUNS}/borrowed")[0] == 404
    assert answer(server, f"{RUNS}/previews/previews/1.jpg")[0] == 404
    assert server.get(f"{RUNS}/segments")["segments"][0]["status"] == "damaged"


def test_a_thumbnail_that_is_no_picture_is_refused(
    server: Any, runs_root: Path, make_run: MakeRun
) -> None:
    film = make_run(runs_root, "film", finished=1)
    (film / "previews" / "0001.jpg").write_text("<script>alert(1)</script>")
    assert answer(server, f"{RUNS}/film/previews/1.jpg")[0] == 404


def test_the_routes_only_read(server: Any, runs_root: Path, make_run: MakeRun) -> None:
    film = make_run(runs_root, "film", finished=4)
    before = {path: path.stat().st_mtime_ns for path in sorted(film.rglob("*"))}
    for path in (RUNS, f"{RUNS}/film", f"{RUNS}/film/previews/1.jpg"):
        assert answer(server, path)[0] == 200
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            request = urllib.request.Request(server.address + path, b"{}", method=method)
            with pytest.raises(urllib.error.HTTPError, match="405|404"):
                urllib.request.urlopen(request, timeout=30)
    assert {path: path.stat().st_mtime_ns for path in sorted(film.rglob("*"))} == before


def test_without_a_server_nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    import server as host_server

    monkeypatch.setattr(host_server.PromptServer, "instance", None, raising=False)
    routes.register_routes()


def test_registering_twice_adds_nothing(prompt_server: Any) -> None:
    routes.register_routes()
    count = len(prompt_server.routes)
    routes.register_routes()
    assert len(prompt_server.routes) == count
