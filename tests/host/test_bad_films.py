"""Bad inputs of assembly and drift report: refused before the first frame is decoded."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

ASSEMBLE, DRIFT = "ThroughlineAssembleVideo", "ThroughlineDriftReport"


def wire(name: str) -> tuple[str, str]:
    """An input that comes over a wire: the value of that name in conftest.py."""
    return ("wire", name)


GOOD = {"run": wire("run"), "vae": wire("vae")}


class Case(NamedTuple):
    """Inputs that differ from a graph that works, what the message must say, and the run."""

    id: str
    words: tuple[str, ...]
    inputs: dict[str, Any]
    node: str
    harm: Callable[[Path], None]


def unharmed(run: Path) -> None:
    """The run stays as it is."""


def case(
    id: str,
    *words: str,
    node: str = ASSEMBLE,
    harm: Callable[[Path], None] = unharmed,
    **inputs: Any,
) -> Case:
    return Case(id, words, inputs, node, harm)


def truncate_a_segment(run: Path) -> None:
    file = sorted((run / "segments").iterdir())[1]
    file.write_bytes(file.read_bytes()[:-100])


def flip_a_bit(run: Path) -> None:
    file = sorted((run / "segments").iterdir())[0]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def delete_a_segment(run: Path) -> None:
    sorted((run / "segments").iterdir())[1].unlink()


def swap_two_segments(run: Path) -> None:
    first, second = sorted((run / "segments").iterdir())
    other = first.with_name("other")
    first.rename(other)
    second.rename(first)
    other.rename(second)


def edit_manifest(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def harm(run: Path) -> None:
        file = run / "manifest.json"
        data = json.loads(file.read_text(encoding="utf-8"))
        change(data)
        file.write_text(json.dumps(data), encoding="utf-8")

    return harm


@edit_manifest
def forget_a_segment(data: dict[str, Any]) -> None:
    data["segments"][1].update(content=None, file=None, finished_at=None, seconds=None)


@edit_manifest
def forget_fps(data: dict[str, Any]) -> None:
    data["fps"] = None


@edit_manifest
def no_segments(data: dict[str, Any]) -> None:
    data["segments"] = []


CASES = (
    case("negative fps", "fps", "smaller than min", "-1.0", fps=-1.0),
    case("NaN fps", "fps must be 0.01 to 1000.0", "got nan", fps=math.nan),
    case("too many fps over a wire", "fps must be", "got 5000.0", fps=wire("5000.0")),
    case("no fps at all", "does not say its fps", "set fps", "got 0", harm=forget_fps),
    case("unknown format", "format", "not in list", "'gif'", format="gif"),
    case("unknown format over a wire", "format must be one of mp4 h264", "'magic'",
         format=wire("magic")),
    case("crf too high", "crf", "bigger than max of 51", "52", crf=52),
    case("crf over a wire", "crf must be 0 to 51", "got 99", crf=wire("99")),
    case("no file name", "filename prefix must end in a file name", "''", filename_prefix=""),
    case("a folder as file name", "filename prefix must end in a file name", "'video/'",
         filename_prefix="video/"),
    case("file outside", "filename prefix must stay inside ComfyUI's output folder", "'../film'",
         filename_prefix="../film"),
    case("file by absolute path", "must stay inside ComfyUI's output folder", "'/elsewhere/film'",
         filename_prefix="/elsewhere/film"),
    case("file outside over a wire", "must stay inside ComfyUI's output folder", "'../escape'",
         filename_prefix=wire("../escape")),
    case("NUL in the file name", "filename prefix must be plain text", r"'a\x00b'",
         filename_prefix="a\x00b"),
    case("unknown colour match", "colour_match", "not in list", "'magic'", colour_match="magic"),
    case("unknown colour match over a wire", "colour match must be one of off", "'magic'",
         colour_match=wire("magic")),
    case("colour match too strong", "colour_match_strength", "max of 1.0", "2.0",
         colour_match_strength=2.0),
    case("NaN colour match", "colour match strength must be 0 to 1", "got nan",
         colour_match_strength=math.nan),
    case("blend too long over a wire", "overlap blend must be 0 to 5", "got 99",
         overlap_blend=wire("99")),
    case("negative blend", "overlap_blend", "smaller than min of 0", "-1", overlap_blend=-1),
    case("no contact frames", "contact_frames", "smaller than min of 1", "0", contact_frames=0),
    case("no contact frames over a wire", "contact frames must be 1 or more", "got 0",
         contact_frames=wire("0")),
    case("not a run", "run must come from a Throughline sampler", "str", run=wire("magic")),
    case("VAE for pictures", "vae must be a video VAE", "TAESD", vae=wire("picture vae")),
    case("VAE of another model", "this VAE has 16 latent channels", "the run has 4",
         run=wire("small run")),
    case("unfinished run", "run 'film' is not finished", "1 of 2 segments", harm=forget_a_segment),
    case("empty run", "run 'film'", "no segments", harm=no_segments),
    case("truncated segment", "segment 2 of run 'film' is damaged", "truncated",
         harm=truncate_a_segment),
    case("altered segment", "segment 1 of run 'film' is damaged", "hash", harm=flip_a_bit),
    case("segment gone", "segment 2 of run 'film' is gone", harm=delete_a_segment),
    case("segments swapped", "segment 1 of run 'film' has been made again since",
         harm=swap_two_segments),
    case("drift: not a run", "run must come from a Throughline sampler", "str", node=DRIFT,
         run=wire("magic")),
    case("drift: VAE of another model", "this VAE has 16 latent channels", "the run has 4",
         node=DRIFT, run=wire("small run")),
    case("drift: unfinished run", "run 'film' is not finished", "1 of 2 segments", node=DRIFT,
         harm=forget_a_segment),
    case("drift: truncated segment", "segment 2 of run 'film' is damaged", node=DRIFT,
         harm=truncate_a_segment),
)  # fmt: skip


@pytest.fixture
def film_run(comfy_folders: dict[str, Path]) -> Path:
    """A finished run `film` of two segments in one chain, 16 channels, 32 x 32 pixels."""
    import torch

    from throughline.planning.frames import FrameGrid
    from throughline.planning.script import parse_storyboard
    from throughline.planning.segments import FilmSettings, plan_segments
    from throughline.runs.folder import RunFolder

    settings = FilmSettings(
        fps=8.0,
        grid=FrameGrid(4),
        segment_latent_frames=3,
        tail_latent_frames=1,
        seconds_per_shot=1.0,
        unmarked_shots="continue",
        seed=5,
        first_start="text",
        first_known_latent_frames=0,
    )
    segments = plan_segments(parse_storyboard("A dog runs.\nIt stops."), settings)
    root = comfy_folders["output"] / "throughline"
    with RunFolder.open(root, "film", {"model": "test"}, segments, fps=8.0) as folder:
        for segment in segments:
            latent = torch.zeros((1, 16, segment.latent_frames, 4, 4))
            folder.write_segment(segment.index, latent, {}, 1.0)
    return root / "film"


@pytest.fixture
def decoded(comfy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of decoding functions that were called; they stop the graph."""
    from throughline.nodes import assembling

    calls: list[str] = []

    def decode(*arguments: Any, **options: Any) -> Any:
        calls.append("decode_chain")
        raise RuntimeError("decode_chain was called")

    monkeypatch.setattr(assembling, "decode_chain", decode)
    return calls


@pytest.mark.parametrize("bad", [pytest.param(one, id=one.id) for one in CASES])
def test_a_bad_input_is_refused_before_decoding(
    bad: Case,
    refusals: Any,
    decoded: list[str],
    film_run: Path,
    make_run: Callable[..., Path],
    comfy_folders: dict[str, Path],
) -> None:
    make_run(comfy_folders["output"] / "throughline", "small", finished=6)
    bad.harm(film_run)
    message = refusals.message(bad.node, {**GOOD, **bad.inputs})
    assert decoded == [] and refusals.sampled == []
    missing = [word for word in bad.words if word not in message]
    assert not missing, f"{missing} not in: {message}"
    assert [file for file in comfy_folders["output"].rglob("*.m*4")] == []


@pytest.mark.parametrize("node", [ASSEMBLE, DRIFT])
def test_a_good_graph_reaches_the_decoder(
    node: str, refusals: Any, decoded: list[str], film_run: Path
) -> None:
    """So the count above would see a call."""
    assert "was called" in refusals.message(node, GOOD)
    assert decoded == ["decode_chain"]
