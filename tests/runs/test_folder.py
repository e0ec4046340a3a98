"""Opening, writing, resuming, redoing, extending, refusing: the run folder on a real disk."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from throughline.planning.segments import Segment
from throughline.runs import atomic, folder
from throughline.runs.atomic import DiskFullError
from throughline.runs.folder import RunFolder, plan_run
from throughline.runs.run import Run, list_runs, open_run

PARAMETERS: dict[str, Any] = {"model": "demo", "steps": 6, "cfg": 4.0, "fps": 8}


def plan(
    count: int, cuts: Sequence[int] = (), takes: dict[int, int] | None = None
) -> tuple[Segment, ...]:
    """`count` segments of 3 latent frames, 1 of them known where they continue."""
    segments: list[Segment] = []
    for i in range(count):
        anew = i == 0 or i in cuts
        segments.append(
            Segment(
                index=i,
                shot=i,
                shot_id=f"1.{i + 1}",
                chain=sum(1 for cut in cuts if cut <= i),
                start="text" if anew else "tail",
                latent_frames=3,
                known_latent_frames=0 if anew else 1,
                prompt=f"shot {i + 1}",
                negative="",
                seed=100 + i,
                take=(takes or {}).get(i, 0),
            )
        )
    return tuple(segments)


def latent_of(segment: Segment, parent: torch.Tensor | None) -> torch.Tensor:
    """A stand-in sampler: deterministic in seed, take and the latent that it continues."""
    generator = torch.Generator().manual_seed(segment.seed * 31 + segment.take)
    latent = torch.randn(1, 4, segment.latent_frames, 2, 2, generator=generator)
    return latent if parent is None else latent + parent[:, :, -1:]


def make(root: Path, segments: Sequence[Segment], **changes: Any) -> list[int]:
    """Bring the run "film" to the plan; the indices of the segments that had to be made."""
    made = []
    with RunFolder.open(root, "film", {**PARAMETERS, **changes}, segments) as run_folder:
        for segment in segments:
            if not run_folder.state()[segment.index].needs_render:
                continue
            parent = None
            if segment.start == "tail":
                parent = run_folder.read_segment(segment.index - 1)
            run_folder.write_segment(
                segment.index, latent_of(segment, parent), {"luma": 0.5}, 1.5, b"jpeg%d" % len(made)
            )
            made.append(segment.index)
        assert not any(state.needs_render for state in run_folder.state())
    return made


def statuses(root: Path, segments: Sequence[Segment], **changes: Any) -> list[str]:
    states = plan_run(root, "film", {**PARAMETERS, **changes}, segments)
    return [state.status for state in states]


def segment_path(root: Path, index: int) -> Path:
    record = open_run(root / "film").segments[index]
    assert record.file is not None
    return root / "film" / record.file


def latents(run: Run) -> list[torch.Tensor]:
    return [run.latent(i) for i in range(len(run.segments))]


def test_what_is_written_comes_back_bit_equal(tmp_path: Path) -> None:
    segments = plan(3)
    assert make(tmp_path, segments) == [0, 1, 2]
    run = open_run(tmp_path / "film")
    parent = None
    for segment in segments:
        parent = latent_of(segment, parent)
        assert torch.equal(run.latent(segment.index), parent)
    assert run.fps == 8 and run.name == "film" and not run.unfinished
    assert run.segments[1].parent_content == run.segments[0].content
    assert run.segments[0].statistics == {"luma": 0.5} and run.segments[0].seconds == 1.5
    assert (tmp_path / "film/previews/0002.jpg").read_bytes() == b"jpeg1"


def test_the_same_plan_again_makes_nothing(tmp_path: Path) -> None:
    make(tmp_path, plan(3))
    before = (tmp_path / "film/manifest.json").read_bytes()
    assert make(tmp_path, plan(3)) == []
    assert make(tmp_path, plan(3), cfg=4) == []
    assert (tmp_path / "film/manifest.json").read_bytes() == before


def test_a_new_run_is_missing_and_planning_makes_no_folder(tmp_path: Path) -> None:
    assert statuses(tmp_path, plan(2)) == ["missing", "missing"]
    assert list(tmp_path.iterdir()) == []


def test_a_changed_segment_is_made_again_with_what_depends_on_it(tmp_path: Path) -> None:
    segments = plan(6, cuts=[4])
    make(tmp_path, segments)
    changed = list(segments)
    changed[2] = dataclasses.replace(changed[2], prompt="another prompt")
    states = plan_run(tmp_path, "film", PARAMETERS, changed)
    assert [state.status for state in states] == [
        "reused", "reused", "changed", "depends", "reused", "reused"
    ]  # fmt: skip
    assert states[2].reason == "prompt 'shot 3' -> 'another prompt'"
    assert make(tmp_path, changed) == [2, 3]


def test_another_parameter_makes_everything_again_and_says_which(tmp_path: Path) -> None:
    make(tmp_path, plan(2, cuts=[1]))
    states = plan_run(tmp_path, "film", {**PARAMETERS, "steps": 8, "model": "other"}, plan(2, [1]))
    assert {state.status for state in states} == {"changed"}
    assert states[0].reason == "model 'demo' -> 'other'; steps '6' -> '8'"
    assert make(tmp_path, plan(2, cuts=[1]), steps=8) == [0, 1]


def test_another_start_image_leaves_the_shots_from_text(tmp_path: Path) -> None:
    first, *rest = plan(3, cuts=[1])
    segments = [dataclasses.replace(first, start="image", known_latent_frames=1), *rest]
    make(tmp_path, segments, starts={"image": "a"})
    assert make(tmp_path, segments, starts={"image": "b"}) == [0]


def test_another_keyframe_makes_the_segments_that_use_it(tmp_path: Path) -> None:
    """Segment 2 starts from one picture, segment 3 ends on another; 4 continues 3."""
    segments = plan(4, cuts=[1, 2])
    first = {"1": ["start a"], "2": ["end b"]}
    make(tmp_path, segments, keyframes=first)
    assert make(tmp_path, segments, keyframes={**first, "1": ["start c"]}) == [1]
    again = {"1": ["start c"], "2": ["end d"]}
    states = plan_run(tmp_path, "film", {**PARAMETERS, "keyframes": again}, segments)
    assert [state.status for state in states] == ["reused", "reused", "changed", "depends"]
    assert states[2].reason == "keyframes \"['end b']\" -> \"['end d']\""
    assert make(tmp_path, segments, keyframes={"1": ["start c"]}) == [2, 3]
    assert make(tmp_path, segments, keyframes=first) == []  # earlier takes come back


def test_every_field_of_a_segment_but_its_place_is_in_the_key(tmp_path: Path) -> None:
    place = {"index", "shot", "shot_id", "chain"}
    place |= {"start_keyframe", "end_keyframe", "context_keyframes"}  # their pictures count
    before, segment = plan(2, cuts=[1])
    key = folder.segment_keys(PARAMETERS, [before, segment])[1]
    for field in dataclasses.fields(Segment):
        value = getattr(segment, field.name)
        usual = value + 1 if isinstance(value, int) else "x"
        other = {"start": "image", "recalls": (), "guided_by": (0,)}.get(field.name, usual)
        changed = dataclasses.replace(segment, **{field.name: other})
        same = folder.segment_keys(PARAMETERS, [before, changed])[1] == key
        assert same == (field.name in place)


def test_a_retake_replaces_one_segment_and_what_follows_and_going_back_is_free(
    tmp_path: Path,
) -> None:
    make(tmp_path, plan(4, cuts=[2]))
    first = latents(open_run(tmp_path / "film"))
    retake = plan(4, cuts=[2], takes={0: 1})
    assert make(tmp_path, retake) == [0, 1]
    assert not torch.equal(open_run(tmp_path / "film").latent(0), first[0])
    assert len(open_run(tmp_path / "film").manifest.unused) == 2
    assert (tmp_path / "film/previews/0001.jpg").read_bytes() == b"jpeg0"
    assert make(tmp_path, plan(4, cuts=[2])) == []
    again = latents(open_run(tmp_path / "film"))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_the_preview_follows_the_take(tmp_path: Path) -> None:
    for take, picture in ((0, b"first"), (1, b"second")):
        with RunFolder.open(tmp_path, "film", PARAMETERS, plan(1, takes={0: take})) as run_folder:
            run_folder.write_segment(0, latent_of(plan(1)[0], None), {}, 1.0, picture)
    preview = tmp_path / "film/previews/0001.jpg"
    assert preview.read_bytes() == b"second"
    RunFolder.open(tmp_path, "film", PARAMETERS, plan(1)).close()
    assert preview.read_bytes() == b"first"
    preview.unlink()
    RunFolder.open(tmp_path, "film", PARAMETERS, plan(1)).close()
    assert preview.read_bytes() == b"first"
    preview.write_bytes(b"")  # what a power cut may leave
    RunFolder.open(tmp_path, "film", PARAMETERS, plan(1)).close()
    assert preview.read_bytes() == b"first"


def test_earlier_takes_are_kept_up_to_a_number(tmp_path: Path) -> None:
    for take in range(6):
        make(tmp_path, plan(1, takes={0: take}))
    run = open_run(tmp_path / "film")
    assert len(run.manifest.unused) == folder.KEPT_TAKES == 3
    assert make(tmp_path, plan(1, takes={0: 3})) == []
    assert make(tmp_path, plan(1, takes={0: 0})) == [0]


def test_a_longer_plan_keeps_the_beginning_and_a_shorter_one_the_rest(tmp_path: Path) -> None:
    make(tmp_path, plan(2))
    assert make(tmp_path, plan(4)) == [2, 3]
    assert make(tmp_path, plan(1)) == []
    run = open_run(tmp_path / "film")
    assert len(run.segments) == 1 and len(run.manifest.unused) == 3
    assert make(tmp_path, plan(4)) == []


def test_a_shot_that_moves_takes_its_file_along(tmp_path: Path) -> None:
    first, second = plan(2, cuts=[1])
    make(tmp_path, [first, second])
    swapped = [dataclasses.replace(second, index=0), dataclasses.replace(first, index=1)]
    assert make(tmp_path, swapped) == []
    assert torch.equal(open_run(tmp_path / "film").latent(0), latent_of(second, None))


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty", "gone"])
def test_a_damaged_segment_is_made_again_alone(tmp_path: Path, damage: str) -> None:
    make(tmp_path, plan(4))
    path = segment_path(tmp_path, 1)
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        new = {"truncated": data[:-9], "altered": data[:-9] + b"x" + data[-8:], "empty": b""}
        path.write_bytes(new[damage])
    status = "missing" if damage == "gone" else "damaged"
    assert statuses(tmp_path, plan(4)) == ["reused", status, "depends", "depends"]
    with pytest.raises(ValueError, match="segment 2 of run 'film' is (damaged|gone)"):
        open_run(tmp_path / "film").latent(1)
    assert make(tmp_path, plan(4)) == [1]


def test_a_damaged_segment_that_comes_out_different_takes_what_follows_with_it(
    tmp_path: Path,
) -> None:
    make(tmp_path, plan(4, cuts=[3]))
    segment_path(tmp_path, 1).write_bytes(b"")
    with RunFolder.open(tmp_path, "film", PARAMETERS, plan(4, cuts=[3])) as run_folder:
        assert run_folder.run.unfinished == (2, 3)
        run_folder.write_segment(1, torch.ones(1, 4, 3, 2, 2), {}, 1.0, None)
        states = run_folder.state()
        assert [s.status for s in states] == ["reused", "reused", "depends", "reused"]
        assert states[2].reason == "continues segment 2, which came out different"
        assert run_folder.run.unfinished == (3,)
        with pytest.raises(ValueError, match="segment 3 of run 'film' is not finished"):
            run_folder.read_segment(2)
    assert make(tmp_path, plan(4, cuts=[3])) == [2]


@pytest.mark.parametrize("seed", range(40))
def test_any_altered_byte_is_found_or_harmless(tmp_path: Path, seed: int) -> None:
    """Corruption fuzz: the latents that come back are the right ones, or none are."""
    make(tmp_path, plan(1))
    path = segment_path(tmp_path, 0)
    good = open_run(tmp_path / "film").latent(0)
    data = bytearray(path.read_bytes())
    generator = torch.Generator().manual_seed(seed)
    place = int(torch.randint(len(data), (1,), generator=generator))
    if seed % 4 == 0:
        del data[place:]
    else:
        data[place] ^= 1 << int(torch.randint(8, (1,), generator=generator))
    path.write_bytes(bytes(data))
    if statuses(tmp_path, plan(1)) == ["reused"]:
        with RunFolder.open(tmp_path, "film", PARAMETERS, plan(1)) as run_folder:
            assert torch.equal(run_folder.read_segment(0), good)
    else:
        assert make(tmp_path, plan(1)) == [0]
    assert torch.equal(open_run(tmp_path / "film").latent(0), good)


def test_a_run_that_was_made_again_is_not_read_through_an_old_snapshot(tmp_path: Path) -> None:
    make(tmp_path, plan(1))
    old = open_run(tmp_path / "film")
    segment_path(tmp_path, 0).write_bytes(b"")
    with RunFolder.open(tmp_path, "film", PARAMETERS, plan(1)) as run_folder:
        run_folder.write_segment(0, torch.ones(1, 4, 3, 2, 2), {}, 1.0, None)
    with pytest.raises(ValueError, match="has been made again since"):
        old.latent(0)


def test_chains_and_film_lengths(tmp_path: Path) -> None:
    make(tmp_path, plan(5, cuts=[2]))
    run = open_run(tmp_path / "film")
    assert [[record.number for record in chain] for chain in run.chains] == [[1, 2], [3, 4, 5]]
    assert [record.film_latent_frames for record in run.segments] == [3, 2, 3, 2, 2]


def test_the_content_key_follows_the_content(tmp_path: Path) -> None:
    make(tmp_path, plan(2))
    key = open_run(tmp_path / "film").content_key()
    make(tmp_path, plan(2, takes={1: 1}))
    assert open_run(tmp_path / "film").content_key() != key
    make(tmp_path, plan(2))
    assert open_run(tmp_path / "film").content_key() == key


def test_a_second_writer_is_refused_by_name(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "film", PARAMETERS, plan(1)):
        with pytest.raises(ValueError, match="run 'film' is being written by another process"):
            RunFolder.open(tmp_path, "film", PARAMETERS, plan(1))
    RunFolder.open(tmp_path, "film", PARAMETERS, plan(1)).close()


def test_the_lock_is_let_go_when_rendering_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        with RunFolder.open(tmp_path, "film", PARAMETERS, plan(1)):
            raise KeyboardInterrupt
    assert make(tmp_path, plan(1)) == [0]


@pytest.mark.parametrize(
    "name",
    ["", " ", "..", ".", "../film", "a/b", "a\\b", "/etc", "film.", ".film", " film", "CON",
     "nul.txt", "a:b", "film\n", "a\x00b", "f" * 101, "?", "a*"],
)  # fmt: skip
def test_names_that_leave_the_folder_or_cannot_be_moved_are_refused(
    tmp_path: Path, name: str
) -> None:
    root = tmp_path / "root"
    with pytest.raises(ValueError, match="run name"):
        RunFolder.open(root, name, PARAMETERS, plan(1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["film", "夜の列車", "Night train 2", "a.b", "été-1"])
def test_names_of_artists_are_fine(tmp_path: Path, name: str) -> None:
    with RunFolder.open(tmp_path, name, PARAMETERS, plan(1)) as run_folder:
        assert run_folder.run.name == name


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "film").symlink_to(outside)
    with pytest.raises(ValueError, match="leads out of the folder"):
        RunFolder.open(root, "film", PARAMETERS, plan(1))
    assert list(outside.iterdir()) == []


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "film"
    foreign.mkdir()
    (foreign / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match="not a Throughline run .*holiday.jpg"):
        RunFolder.open(tmp_path, "film", PARAMETERS, plan(1))
    assert [path.name for path in foreign.iterdir()] == ["holiday.jpg"]
    with pytest.raises(ValueError, match="not a Throughline run"):
        open_run(foreign)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "film").write_bytes(b"x")
    with pytest.raises(ValueError, match="is a file, not a run folder"):
        RunFolder.open(tmp_path, "film", PARAMETERS, plan(1))


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "malformed"),
        ("{", "malformed"),
        ("[]", "not a JSON object"),
        ('{"version": 2}', "newer Throughline .manifest version 2"),
        ('{"version": "1"}', "its version is '1'"),
        ('{"version": 1}', "'name' is nothing"),
        ("\xff", "malformed"),
        ("[" * 100_000, "malformed"),
        ('{"version": NaN}', "malformed"),
    ],
)
def test_a_newer_or_malformed_manifest_is_refused_and_left_alone(
    tmp_path: Path, text: str, message: str
) -> None:
    make(tmp_path, plan(1))
    manifest = tmp_path / "film/manifest.json"
    manifest.write_bytes(text.encode("latin-1"))
    for attempt in (
        lambda: RunFolder.open(tmp_path, "film", PARAMETERS, plan(1)),
        lambda: plan_run(tmp_path, "film", PARAMETERS, plan(1)),
        lambda: open_run(tmp_path / "film"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            attempt()
        assert "film" in str(caught.value)
    assert manifest.read_bytes() == text.encode("latin-1")


@pytest.mark.parametrize(
    "field, value",
    [("file", "../../etc/passwd"), ("file", "segments/..\\x.safetensors"), ("preview", "/etc/x"),
     ("seed", "1"), ("seed", True), ("index", 5), ("known_latent_frames", 9), ("start", "tail"),
     ("statistics", []), ("seconds", "x")],
)  # fmt: skip
def test_a_record_that_does_not_add_up_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    make(tmp_path, plan(1))
    path = tmp_path / "film/manifest.json"
    data = json.loads(path.read_text())
    data["segments"][0][field] = value
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="manifest.json of run 'film' is malformed .segment 1"):
        open_run(tmp_path / "film")


def test_bad_input_is_refused_before_the_folder_is_made(tmp_path: Path) -> None:
    root = tmp_path / "root"
    tail = dataclasses.replace(plan(1)[0], start="tail")
    for parameters, segments, message in (
        ({"model": torch.zeros(1)}, plan(1), "parameters.model must be JSON data, got Tensor"),
        ({"cfg": float("nan")}, plan(1), "parameters.cfg must be finite"),
        ({"text": "\ud800"}, plan(1), "parameters.text must be Unicode text"),
        ({1: 2}, plan(1), "must have text keys"),
        ({"fps": 0}, plan(1), "fps of run 'film' must be above 0, got 0"),
        ({}, (), "needs at least one segment, got none"),
        ({}, (tail,), "segment 1 cannot start from a tail"),
    ):
        with pytest.raises(ValueError, match=message):
            RunFolder.open(root, "film", parameters, segments)
    assert not root.exists()


def test_bad_latents_are_refused(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, "film", PARAMETERS, plan(2)) as run_folder:
        for latent, message in (
            (torch.zeros(1, 4, 2, 2, 2), r"segment 1 of run 'film' must be \[1, channels, 3"),
            (torch.zeros(2, 4, 3, 2, 2), r"got \[2, 4, 3, 2, 2\]"),
            (torch.zeros(4, 3, 2, 2), "must be"),
            (torch.full((1, 4, 3, 2, 2), float("nan")), "came out with NaN"),
        ):
            with pytest.raises(ValueError, match=message):
                run_folder.write_segment(0, latent, {}, 1.0)
        with pytest.raises(ValueError, match="continues segment 1, which is not on disk"):
            run_folder.write_segment(1, torch.zeros(1, 4, 3, 2, 2), {}, 1.0)
        with pytest.raises(ValueError, match="statistics of segment 1.luma must be finite"):
            run_folder.write_segment(0, torch.zeros(1, 4, 3, 2, 2), {"luma": float("nan")}, 1.0)
    assert not list((tmp_path / "film/segments").iterdir())


def test_a_full_disk_names_folder_and_bytes_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunFolder.open(tmp_path, "film", PARAMETERS, plan(2)) as run_folder:
        run_folder.write_segment(0, torch.zeros(1, 4, 3, 2, 2), {}, 1.0)

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(atomic.os, "fsync", full)
            with pytest.raises(
                DiskFullError, match=r"needs at least \d+ bytes in .*segments"
            ) as caught:
                run_folder.write_segment(1, torch.ones(1, 4, 3, 2, 2), {}, 1.0)
        assert str(tmp_path) in str(caught.value)
        assert [s.status for s in run_folder.state()] == ["reused", "missing"]
    files = [path.name for path in (tmp_path / "film").rglob("*") if path.is_file()]
    assert not [name for name in files if "partial" in name]
    assert open_run(tmp_path / "film").unfinished == (2,)
    assert torch.equal(open_run(tmp_path / "film").latent(0), torch.zeros(1, 4, 3, 2, 2))


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    make(tmp_path, plan(1))
    left = tmp_path / "film/segments/.0002-abc.safetensors.01ab.partial"
    left.write_bytes(b"half")
    RunFolder.open(tmp_path, "film", PARAMETERS, plan(1)).close()
    assert not left.exists()


def test_a_start_that_was_killed_before_its_manifest_can_go_on(tmp_path: Path) -> None:
    (tmp_path / "film/segments").mkdir(parents=True)
    (tmp_path / "film/.lock").touch()
    (tmp_path / "film/.manifest.json.01ab23cd.partial").write_bytes(b"{")
    assert make(tmp_path, plan(1)) == [0]


def test_the_list_of_runs_leaves_out_what_is_none(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "nowhere") == ()
    make(tmp_path, plan(1))
    (tmp_path / "other").mkdir()
    (tmp_path / "file.txt").touch()
    assert [run.name for run in list_runs(tmp_path)] == ["film"]


def test_a_run_without_segments_finished_says_so(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, "film", PARAMETERS, plan(12)).close()
    with pytest.raises(ValueError, match=r"12 of 12 segments are missing .1, .* and 2 more"):
        open_run(tmp_path / "film").require_finished()
