"""From a run to a file: what is written, reused, refused, cleaned up; measures on the way."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from throughline.memory.drift import measure_segments
from throughline.planning.frames import FrameGrid
from throughline.planning.segments import Segment
from throughline.runs.assemble import (
    AssemblySettings,
    Film,
    assemble,
    check_run,
    contact_frames,
    work_frames,
)
from throughline.runs.folder import RunFolder
from throughline.runs.measures import measure_keys, measure_run, read_measures
from throughline.runs.run import Run, open_run
from throughline.runs.video_file import read_frames

GRID = FrameGrid(4)
SIDE = 4
LOSSLESS = AssemblySettings(format="mkv ffv1")


def make_run(root: Path, gains: Sequence[float], cuts: Sequence[int] = (), take: int = 0) -> Run:
    """Segments of 3 latent frames (the later ones hand on 1), each a picture times its gain."""
    segments = [
        Segment(
            index=i,
            shot=i,
            shot_id=str(i),
            chain=sum(1 for cut in cuts if cut <= i),
            start="text" if i == 0 or i in cuts else "tail",
            latent_frames=3,
            known_latent_frames=0 if i == 0 or i in cuts else 1,
            prompt="",
            negative="",
            seed=i,
            take=take,
        )
        for i in range(len(gains))
    ]
    picture = torch.rand(1, 3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 0.6
    with RunFolder.open(root / "throughline", "film", {"fps": 8}, segments) as folder:
        for segment, gain in zip(segments, gains, strict=True):
            if folder.state()[segment.index].needs_render:
                latent = (picture * gain).expand(-1, -1, 3, -1, -1)
                folder.write_segment(segment.index, latent, {}, 1.0)
        return folder.run


class Decoder:
    """The picture itself, 8 times as large; counts the latent frames that it was given."""

    def __init__(self) -> None:
        self.latent_frames = 0

    def __call__(self, pieces: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        first = True
        for piece in pieces:
            self.latent_frames += piece.shape[2]
            for latent in piece[0].unbind(1):
                frame = latent.permute(1, 2, 0)
                frame = frame.repeat_interleave(8, 0).repeat_interleave(8, 1)
                yield frame.expand(1 if first else 4, -1, -1, -1)
                first = False


def make_film(
    run: Run, root: Path, settings: AssemblySettings = LOSSLESS, vae: str = "vae", **changes: Any
) -> tuple[Film, int, list[int]]:
    """The film, the latent frames that were decoded for it, and the progress that was reported."""
    decoder, progress = Decoder(), []

    def choose(extension: str) -> Path:
        count = len(list(root.glob("film_*")))
        return root / f"film_{count + 1:05}_{extension}"

    arguments: dict[str, Any] = {
        "decode": decoder,
        "choose_file": choose,
        "report": progress.append,
        **changes,
    }
    film = assemble(
        run,
        grid=GRID,
        settings=settings,
        fps=check_run(run, SIDE * 8, SIDE * 8, settings),
        vae_fingerprint=vae,
        output_root=root,
        metadata={},
        **arguments,
    )
    return film, decoder.latent_frames, progress


def all_frames(film: Film) -> torch.Tensor:
    return read_frames(film.path, list(range(film.frames)))


def test_the_film_is_all_chains_after_each_other(tmp_path: Path) -> None:
    run = make_run(tmp_path, [1.0, 1.2, 0.5], cuts=[2])
    film, _, progress = make_film(run, tmp_path)
    assert film.frames == (1 + 8) + 8 + (1 + 8) == sum(progress) == work_frames(run, GRID, LOSSLESS)
    assert film.fps == 8 and not film.reused
    means = all_frames(film).mean((1, 2, 3))
    expected = torch.tensor([1.0] * 9 + [1.2] * 8 + [0.5] * 9) * float(run.latent(0).mean())
    assert torch.allclose(means, expected, atol=0.005)


def test_the_same_film_again_is_the_same_file(tmp_path: Path) -> None:
    run = make_run(tmp_path, [1.0, 1.2])
    first, decoded, _ = make_film(run, tmp_path)
    again, decoded_again, progress = make_film(run, tmp_path)
    assert again.path == first.path and again.reused and not first.reused
    assert (decoded, decoded_again) == (5, 0)
    assert sum(progress) == work_frames(run, GRID, LOSSLESS)
    assert torch.equal(contact_frames(first, 3), contact_frames(again, 3))


@pytest.mark.parametrize(
    "change", ["vae", "format", "fps", "overlap_blend", "take", "gone", "edited"]
)
def test_whatever_changes_the_film_makes_it_anew(tmp_path: Path, change: str) -> None:
    run = make_run(tmp_path, [1.0, 1.2])
    first, _, _ = make_film(run, tmp_path)
    settings, vae = LOSSLESS, "vae"
    if change == "vae":
        vae = "another"
    elif change == "take":
        run = make_run(tmp_path, [1.0, 1.1], take=1)
    elif change == "gone":
        first.path.unlink()
    elif change == "edited":
        first.path.write_bytes(b"edited")
    else:
        value = {"format": "mp4 h264", "fps": 12.0, "overlap_blend": 1}[change]
        settings = AssemblySettings(**{"format": "mkv ffv1", change: value})
    film, decoded, _ = make_film(run, tmp_path, settings, vae)
    assert not film.reused and decoded == 5
    if change == "take":
        film, _, _ = make_film(make_run(tmp_path, [1.0, 1.2]), tmp_path)
        assert film.reused and film.path == first.path


def test_colour_match_brings_segments_back_without_steps(tmp_path: Path) -> None:
    run = make_run(tmp_path, [1.0, 1.2, 1.4, 0.5], cuts=[3])
    settings = AssemblySettings(format="mkv ffv1", colour_match="mean and contrast")
    film, decoded, progress = make_film(run, tmp_path, settings)
    assert sum(progress) == work_frames(run, GRID, settings) == 2 * film.frames
    assert decoded == 2 * (3 + 2 + 2 + 3)  # measured first, then corrected
    means = all_frames(film).mean((1, 2, 3)) / float(run.latent(0).mean())
    assert torch.allclose(means[:5], torch.ones(5), atol=0.02)  # the anchor's first half
    middles = means[[9 + 4, 17 + 7]]
    assert torch.allclose(middles, torch.ones(2), atol=0.03)  # brought back
    assert torch.allclose(means[25:], torch.full((9,), 0.5), atol=0.01)  # another scene
    plain = AssemblySettings(format="mkv ffv1", colour_match="mean")
    _, decoded, _ = make_film(run, tmp_path, plain)
    assert decoded == 10  # the measures are known by now


def test_measures_are_taken_on_the_way_and_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path, [1.0, 1.05, 1.05, 1.0], cuts=[2])
    make_film(run, tmp_path)
    decoder, progress = Decoder(), []
    measured = measure_run(run, decoder, GRID, "vae", 0, progress.append)
    assert decoder.latent_frames == 0 and sum(progress) == 9 + 8 + 9 + 8
    frames = [
        torch.cat(list(Decoder()([run.latent(i)[:, :, k:]]))) for i, k in enumerate((0, 1, 0, 1))
    ]
    frames[1] = frames[1][:1].expand(8, -1, -1, -1)
    frames[3] = frames[3][:1].expand(8, -1, -1, -1)
    expected = measure_segments(frames, cuts=[2], frames_per_latent=4, lone_frames=1)
    for one, other in zip(measured, expected, strict=True):
        assert one.frames == other.frames and (one.entry_step is None) == (other.entry_step is None)
        assert one.luma == pytest.approx(other.luma, rel=1e-5)
        assert one.texture == pytest.approx(other.texture, rel=1e-5)
        assert one.entry_step == pytest.approx(other.entry_step, abs=1e-6)
        assert one.median_step == pytest.approx(other.median_step, abs=1e-6)
    assert measured[2].entry_step is None and measured[1].entry_step is not None


def test_only_chains_that_changed_are_measured_again(tmp_path: Path) -> None:
    run = make_run(tmp_path, [1.0, 1.1, 0.9], cuts=[1, 2])
    measure_run(run, Decoder(), GRID, "vae", 0, lambda frames: None)
    longer = make_run(tmp_path, [1.0, 1.1, 0.9, 0.8], cuts=[1, 2])
    decoder = Decoder()
    measure_run(longer, decoder, GRID, "vae", 0, lambda frames: None)
    assert decoder.latent_frames == 3 + 2
    keys = measure_keys(longer, "vae", 0)
    assert keys[:3] == measure_keys(run, "vae", 0)
    assert measure_keys(longer, "vae", 1)[2] != measure_keys(run, "vae", 1)[2]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"version": 1}',
        '{"version": 1, "measures": []}',
        '{"films": [{}]}',
        '{"films": [{"file": 3}]}',
        '{"films": 1}',
    ],
)
def test_damaged_caches_are_made_again(tmp_path: Path, text: str) -> None:
    run = make_run(tmp_path, [1.0])
    first, _, _ = make_film(run, tmp_path)
    for name in ("measures.json", "films.json"):
        (run.path / name).write_text(text)
    film, decoded, _ = make_film(run, tmp_path)
    assert not film.reused and decoded == 3
    keys = measure_keys(run, "vae", 0)
    assert len(read_measures(run, keys)) == 1
    data = json.loads((run.path / "measures.json").read_text())
    data["measures"][keys[0]]["colour"]["mean"] = [1]
    (run.path / "measures.json").write_text(json.dumps(data))
    assert read_measures(run, keys) == {}


def test_a_film_outside_the_output_folder_is_not_believed(tmp_path: Path) -> None:
    run = make_run(tmp_path, [1.0])
    film, _, _ = make_film(run, tmp_path)
    data = json.loads((run.path / "films.json").read_text())
    secret = tmp_path.parent / ".secret.partial.mkv"
    secret.write_bytes(b"x")
    data["films"] = [{**data["films"][0], "file": "../secret.mkv"}, {"file": "../secret.mkv"}]
    (run.path / "films.json").write_text(json.dumps(data))
    film, _, _ = make_film(run, tmp_path)
    assert not film.reused and secret.exists()
    secret.unlink()


def test_an_interrupt_leaves_no_half_film(tmp_path: Path) -> None:
    run = make_run(tmp_path, [1.0, 1.1])

    def interrupt(frames: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_film(run, tmp_path, report=interrupt)
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".mkv"]
    assert not make_film(run, tmp_path)[0].reused


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    run = make_run(tmp_path, [1.0])
    left = tmp_path / ".film_00001_.partial.mkv"
    left.write_bytes(b"half")
    (run.path / "films.json").write_text('{"films": [{"file": "film_00001_.mkv"}]}')
    make_film(run, tmp_path)
    assert not left.exists()


def test_contact_frames_are_evenly_spaced(tmp_path: Path) -> None:
    film, _, _ = make_film(make_run(tmp_path, [1.0, 0.5]), tmp_path)
    frames = all_frames(film)
    assert torch.equal(contact_frames(film, 3), frames[[0, 8, 16]])
    assert torch.equal(contact_frames(film, 1), frames[:1])
    assert contact_frames(film, 99).shape == frames.shape


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fps": -1.0}, "fps must be 0.01 to 1000.0, or 0 for the run's own, got -1.0"),
        ({"fps": float("nan")}, "fps must be .* got nan"),
        ({"fps": 5000.0}, "fps must be .* got 5000.0"),
        ({"format": "avi"}, "format must be one of mp4 h264, .*, got 'avi'"),
        ({"crf": 52}, "crf must be 0 to 51, got 52"),
        ({"colour_match": "on"}, "colour match must be one of off, .*, got 'on'"),
        ({"colour_match_strength": 1.5}, "strength must be 0 to 1, got 1.5"),
        ({"contact_frames": 0}, "contact frames must be 1 or more, got 0"),
        ({"overlap_blend": 6}, "overlap blend must be 0 to 5 latent frames, got 6"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AssemblySettings(**changes)


def test_bad_runs_are_refused_before_the_first_frame(tmp_path: Path) -> None:
    run = make_run(tmp_path, [1.0, 1.1])
    path = run.path / str(run.segments[1].file)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(ValueError, match="segment 2 of run 'film' is damaged"):
        check_run(run, 32, 32, LOSSLESS)
    path.unlink()
    with pytest.raises(ValueError, match="segment 2 of run 'film' is gone"):
        check_run(run, 32, 32, LOSSLESS)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="even width and height only, got 33x32"):
        check_run(run, 33, 32, AssemblySettings())
    assert check_run(run, 32, 32, AssemblySettings(fps=24.0)) == 24.0
    segments = [
        Segment(index=0, shot=0, shot_id="1", chain=0, start="text", latent_frames=3,
                known_latent_frames=0, prompt="", negative="", seed=0)
    ]  # fmt: skip
    RunFolder.open(tmp_path, "empty", {}, segments).close()
    with pytest.raises(ValueError, match="run 'empty' is not finished: 1 of 1 segments"):
        check_run(open_run(tmp_path / "empty"), 32, 32, LOSSLESS)
    with RunFolder.open(tmp_path, "no fps", {}, segments) as folder:
        folder.write_segment(0, torch.zeros(1, 3, 3, 4, 4), {}, 1.0)
        with pytest.raises(ValueError, match="run 'no fps' does not say its fps: set fps, got 0"):
            check_run(folder.run, 32, 32, LOSSLESS)


def test_segments_of_different_sizes_are_refused(tmp_path: Path) -> None:
    segments = [
        Segment(index=i, shot=i, shot_id=str(i), chain=i, start="text", latent_frames=3,
                known_latent_frames=0, prompt="", negative="", seed=i)
        for i in range(2)
    ]  # fmt: skip
    with RunFolder.open(tmp_path, "film", {"fps": 8}, segments) as folder:
        folder.write_segment(0, torch.zeros(1, 3, 3, 4, 4), {}, 1.0)
        folder.write_segment(1, torch.zeros(1, 3, 3, 4, 6), {}, 1.0)
        with pytest.raises(ValueError, match=r"segment 2 .* has latents \[1, 3, 3, 4, 6\]"):
            check_run(folder.run, 32, 32, LOSSLESS)
