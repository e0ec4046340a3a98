"""Bad inputs, each through the real nodes in the real executor: an error before any sampling.

Every case says which words the message must hold: the input, the rule and the value that came.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

SAMPLER, SEGMENT = "ThroughlineARSegmentSampler", "ThroughlineSegment"
STORYBOARD = "ThroughlineStoryboard"
NAN, INFINITY = math.nan, math.inf


def wire(name: str) -> tuple[str, str]:
    """An input that comes over a wire: the value of that name in conftest.py."""
    return ("wire", name)


@dataclass(frozen=True)
class Case:
    """Inputs that differ from a graph that works, and what the message must say.

    `prepare` sets up the folder output/throughline of ComfyUI.
    """

    id: str
    words: tuple[str, ...]
    inputs: dict[str, Any]
    node: str = SAMPLER
    prepare: Callable[[Path, Callable[..., Path]], None] | None = field(default=None)


def case(
    id: str,
    *words: str,
    node: str = SAMPLER,
    prepare: Callable[[Path, Callable[..., Path]], None] | None = None,
    **inputs: Any,
) -> Case:
    return Case(id=id, words=words, inputs=inputs, node=node, prepare=prepare)


MODELS = {
    "model": wire("wan_t2v"),
    "vae": wire("vae"),
    "positive": wire("text"),
    "negative": wire("text"),
}
SMALL = {"width": 32, "height": 32, "segment_frames": 17, "steps": 2, "cfg": 1.0}
GOOD: dict[str, dict[str, Any]] = {
    SAMPLER: {
        **MODELS,
        **SMALL,
        "script": "A dog runs.",
        "seconds_per_shot": 0.5,
        "run_name": "film",
    },
    SEGMENT: {**MODELS, **SMALL},
    STORYBOARD: {},
}
"""What a working graph sets beside the widgets' defaults."""


def foreign_folder(runs: Path, make_run: Callable[..., Path]) -> None:
    (runs / "film").mkdir(parents=True)
    (runs / "film" / "holiday.jpg").write_bytes(b"not ours")


def file_in_the_way(runs: Path, make_run: Callable[..., Path]) -> None:
    runs.mkdir(parents=True)
    (runs / "film").write_text("x", encoding="utf-8")


def newer_manifest(runs: Path, make_run: Callable[..., Path]) -> None:
    manifest = make_run(runs, "film") / "manifest.json"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace('"version": 1', '"version": 9', 1), encoding="utf-8")


def truncated_manifest(runs: Path, make_run: Callable[..., Path]) -> None:
    manifest = make_run(runs, "film") / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:200])


def not_a_number_in_the_manifest(runs: Path, make_run: Callable[..., Path]) -> None:
    manifest = make_run(runs, "film") / "manifest.json"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace('"fps": 8', '"fps": NaN', 1), encoding="utf-8")


def path_outside_in_the_manifest(runs: Path, make_run: Callable[..., Path]) -> None:
    manifest = make_run(runs, "film") / "manifest.json"
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace('"segments/', '"../../', 1), encoding="utf-8")


def link_that_leads_out(runs: Path, make_run: Callable[..., Path]) -> None:
    outside = runs.parent / "elsewhere"
    outside.mkdir(parents=True)
    runs.mkdir(parents=True)
    (runs / "film").symlink_to(outside)


SCRIPT_CASES = (
    case("script empty", "script", "at least one shot", "no shots", script=""),
    case("script of comments", "script", "at least one shot", script="// later\n\n"),
    case("0 seconds", "script, line 1, column 2", "seconds per shot must be above 0", "0s",
         script="[0s] a"),
    case("negative seconds", "script, line 2", "above 0", "got -3s", script="a\n[-3s] b"),
    case("NaN seconds", "script", "above 0", "got nans", script="[nans] a"),
    case("infinite seconds", "script", "at most 3600", "got inf s", script="[inf s] a"),
    case("two hours", "script", "at most 3600", "got 7200s", script="[7200s] a"),
    case("minutes", "script", "in seconds", "got '2min'", script="[2min] a"),
    case("a frame count as length", "script", "in seconds", "'81'", script="[81] a"),
    case("bracket not closed", "script", "needs its ']'", "none", script="[5s a dog"),
    case("brace not closed", "script", "needs its '}'", "none", script="a {seed: 1"),
    case("unknown key", "script", "accepts the keys motion", "'cfg'", script="a {cfg: 3}"),
    case("seed with a fraction", "script", "seed must be a whole number", "'1.5'",
         script="a {seed: 1.5}"),
    case("seed too large", "script", "seed must be a whole number", "got 99999999999999999999",
         script="a {seed: 99999999999999999999}"),
    case("recall of a later shot", "script", "recall must name an earlier shot", "'1.2'",
         script="a {recall: 1.2}\nb"),
    case("two characters of one name", "script, line 2", "name may be used once", "'ana'",
         script="@Ana = x\n@ana = y\nc"),
    case("picture outside the folder", "script", "inside ComfyUI's input folder", "'../a.png'",
         script="@Ana = x | ref: ../a.png\nb"),
    case("picture by absolute path", "script", "no absolute paths", "'/etc/passwd'",
         script="a {refs: /etc/passwd}"),
    case("picture on a drive", "script", "no drive letters", "'C:/a.png'",
         script="a {refs: C:/a.png}"),
    case("picture behind backslashes", "script", "no backslashes", r"'..\\a.png'",
         script="a {refs: ..\\a.png}"),
    case("picture in another folder's notation", "script", "no [output]", "a.png [output]",
         script="a {refs: a.png [output]}"),
    case("control character", "script", "control characters", "U+0007", script="a \x07"),
    case("bad script over a wire", "script, line 1", "in seconds", "'5min'",
         script=wire("bad script")),
    case("storyboard node: bad script", "script, line 1", "above 0", "got 0s",
         node=STORYBOARD, script="[0s] a"),
    case("storyboard node: NaN fps", "fps must be above 0", "got nan", node=STORYBOARD, fps=NAN),
    case("storyboard node: fps too high", "fps", "max of 240", "999", node=STORYBOARD, fps=999.0),
)  # fmt: skip

NUMBER_CASES = (
    case("seconds per shot 0", "seconds_per_shot", "smaller than min", "0.0", seconds_per_shot=0.0),
    case("seconds per shot NaN", "seconds per shot must be above 0", "nan", seconds_per_shot=NAN),
    case("seconds per shot over a wire", "seconds per shot must be above 0", "-1.0",
         seconds_per_shot=wire("-1.0")),
    case("fps 0", "fps", "smaller than min", "0.0", fps=0.0),
    case("fps NaN", "fps must be above 0", "nan", fps=NAN),
    case("fps infinite", "fps", "max of 240", "inf", fps=INFINITY),
    case("fps 0 over a wire", "fps must be above 0", "got 0", fps=wire("0.0")),
    case("width off the grid", "width must be a multiple of 8", "got 100", width=100),
    case("width 0", "width", "smaller than min of 16", "0", width=0),
    case("height off the grid over a wire", "height must be a multiple of 8", "got 33",
         height=wire("33")),
    case("wrong frame count", "segment_frames", "4n+1 frames", "got 80", segment_frames=80),
    case("negative frame count", "segment_frames", "smaller than min", "-4", segment_frames=-4),
    case("segment no longer than its tail", "segment must be longer", "got 1 latent",
         segment_frames=1),
    case("tail longer than the segment", "segment must be longer", "9 latent frames",
         tail_latent_frames=9),
    case("tail longer than the family takes", "at most 1 latent", "tail_latent_frames 4",
         model=wire("hunyuan_replace"), positive=wire("hunyuan text"),
         negative=wire("hunyuan text"), tail_latent_frames=4),
    case("negative seed", "seed", "smaller than min of 0", "-1", seed=-1),
    case("seed too large for a seed", "seed", "bigger than max", str(2**64), seed=2**64),
    case("seed over a wire", "seed must be 0 to", "got -5", seed=wire("-5")),
    case("no steps", "steps", "smaller than min of 1", "0", steps=0),
    case("no steps over a wire", "steps must be 1 or more", "got 0", steps=wire("0")),
    case("cfg NaN", "cfg must be 0 to 100", "got nan", cfg=NAN),
    case("cfg infinite", "cfg", "max of 100", "inf", cfg=INFINITY),
    case("cfg negative over a wire", "cfg must be 0 to 100", "got -1.0", cfg=wire("-1.0")),
    case("cfg with a distilled model", "cfg must be 1", "causal Wan", "got 5",
         model=wire("wan_causal"), sampler_name="ar_video", cfg=5.0),
    case("wrong sampler for a causal model", "needs the sampler 'ar_video'", "'euler'",
         model=wire("wan_causal")),
    case("causal sampler for another model", "sampler_name 'ar_video'", "causal Wan model",
         "Wan T2V", sampler_name="ar_video"),
    case("unknown sampler", "sampler_name", "not in list", "magic", sampler_name="magic"),
    case("unknown scheduler", "scheduler", "not in list", "magic", scheduler="magic"),
    case("unknown transition", "unmarked_shots", "not in list", "fade", unmarked_shots="fade"),
    case("unknown sampler over a wire", "sampler_name must be one of euler", "'magic'",
         sampler_name=wire("magic")),
    case("unknown scheduler over a wire", "scheduler must be one of simple", "'magic'",
         scheduler=wire("magic")),
    case("unknown transition over a wire", "unmarked_shots must be one of continue, cut",
         "'magic'", unmarked_shots=wire("magic")),
    case("storyboard of another kind", "storyboard must come from a Storyboard node", "str",
         storyboard=wire("magic")),
    case("a million frames a second over a wire", "fps must be above 0 and at most 240",
         "1000000.0", fps=wire("1000000.0")),
    case("a day per shot over a wire", "seconds per shot must be above 0 and at most 3600",
         "1000000.0", seconds_per_shot=wire("1000000.0")),
    case("sigmas NaN", "sigmas must be finite", "nan", sigmas=wire("sigmas NaN")),
    case("one sigma", "sigmas need 2 values or more", "(1,)", sigmas=wire("one sigma")),
    case("rising sigmas", "sigmas must fall", "[0.5, 1.0, 0.0]", sigmas=wire("rising sigmas")),
    case("negative sigmas", "sigmas must be 0 or more", "-1.0", sigmas=wire("negative sigmas")),
    case("retakes that are no retakes", "retakes", "'4:1, 7:2'", "'again'", retakes="again"),
    case("retake of segment 0", "retakes", "'0:1'", retakes="0:1"),
    case("retake of a segment that is not there", "retakes", "1 to 1 only", "got 9", retakes="9:1"),
)  # fmt: skip

RUN_CASES = (
    *(
        case(f"run name {name!r}"[:40], "run name", *words, run_name=name)
        for name, words in (
            ("", ("one folder name", "an empty name")),
            ("../escape", ("one folder name", "'../escape'")),
            ("/elsewhere/film", ("one folder name", "'/elsewhere/film'")),
            ("a/b", ("one folder name", "'a/b'")),
            ("a\\b", ("one folder name", "b'")),
            ("C:film", ("one folder name", "'C:film'")),
            ("..", ("without a leading dot", "'..'")),
            (".hidden", ("without a leading dot", "'.hidden'")),
            ("con.txt", ("reserved by Windows", "'con.txt'")),
            ("x" * 300, ("at most 100 characters", "got 300")),
            ("a\x00b", ("one folder name", "x00b'")),
        )
    ),
    case("run name over a wire", "one folder name", "'../escape'", run_name=wire("../escape")),
    case("folder of somebody else", "film is not a Throughline run", "'holiday.jpg'",
         prepare=foreign_folder),
    case("file of that name", "film is a file, not a run folder", prepare=file_in_the_way),
    case("manifest of a newer version", "run 'film'", "reads up to 1", "version 9",
         prepare=newer_manifest),
    case("truncated manifest", "film", "manifest", prepare=truncated_manifest),
    case("NaN in the manifest", "film", "NaN", prepare=not_a_number_in_the_manifest),
    case("manifest that points outside", "film", "../../", prepare=path_outside_in_the_manifest),
    case("link that leads out", "run 'film' leads out of the folder", prepare=link_that_leads_out),
)  # fmt: skip

VALUE_CASES = (
    case("2 start frames", "start_image", "4n+1 frames", "got 2", start_image=wire("2 images")),
    case("NaN start image", "start_image must be finite", "NaN", start_image=wire("NaN image")),
    case("grey start image", "start_image must be frames, height, width, 3 colours", "(1, 8, 8, 1)",
         start_image=wire("grey image")),
    case("start image and start latent", "start_image or start_latent", "got both",
         start_image=wire("image"), start_latent=wire("latent")),
    case("NaN latent", "start_latent must be finite", "NaN", start_latent=wire("NaN latent")),
    case("latent of another size", "start_latent must have the shape (1, 16, 3, 4, 4)",
         "(1, 16, 3, 6, 6)", start_latent=wire("larger latent")),
    case("latent of another model", "start_latent must have the shape", "(1, 48, 3, 4, 4)",
         start_latent=wire("48 channels")),
    case("batch of latents", "start_latent must have the shape", "(2, 16, 3, 4, 4)",
         start_latent=wire("2 latents")),
    case("latent without pictures", "start_latent must have the shape", "got (5,)",
         start_latent=wire("row")),
    case("start image of many frames", "start_image", "at most 1 latent", "got 2",
         model=wire("hunyuan_replace"), positive=wire("hunyuan text"),
         negative=wire("hunyuan text"), start_image=wire("5 images")),
    case("latent of a picture", "start_latent must have the shape", "(1, 4, 8, 8)",
         start_latent=wire("picture latent")),
    case("VAE of another model", "vae must make the model's latents (48 channels", "16 channels",
         model=wire("wan_ti2v")),
    case("VAE for pictures", "vae must make the model's latents", "4 channels",
         vae=wire("picture vae")),
    case("model for pictures", "model must be able to continue a video", "Flux", "use Wan",
         model=wire("picture model")),
    case("experts of two families", "low_noise_model must be the other expert", "Wan T2V",
         "got Wan I2V", low_noise_model=wire("wan_i2v")),
    case("switch outside the noise levels", "switch_sigma", "bigger than max of 0.99", "3.0",
         low_noise_model=wire("wan_t2v"), switch_sigma=3.0),
    case("switch over a wire", "switch_sigma must lie between 0 and 1", "got -1.0",
         low_noise_model=wire("wan_t2v"), switch_sigma=wire("-1.0")),
    case("neither clip nor positive", "clip or positive must be connected", "got neither",
         positive=None),
    case("clip and positive", "clip or positive", "got both", clip=wire("text")),
    case("positive without negative", "negative must be connected", "got cfg 5", negative=None,
         cfg=5.0),
    case("empty conditioning", "positive must hold a conditioning", "empty",
         positive=wire("empty text")),
    case("NaN conditioning", "negative must be finite", "NaN", negative=wire("NaN text")),
    case("text of another encoder", "positive must be 24 wide", "got 99",
         positive=wire("wide text")),
    case("encoder of another model", "clip must be 24 wide", "got 32", positive=None,
         negative=None, clip=wire("encoder of another model")),
    case("memory of another kind", "memory must come from a memory encoder", "str",
         memory=wire("../escape")),
    case("memory of another model", "encoder tiny.safetensors", "trained for throughline-demo",
         "of class HunyuanVideo",
         model=wire("hunyuan_replace"), memory=wire("memory"), positive=wire("hunyuan text"),
         negative=wire("hunyuan text")),
    case("memory of another size", "memory must be of the film's size, 32 x 32", "got 64 x 64",
         memory=wire("larger memory")),
    case("memory that stays empty", "memory must hold something", "got an empty one",
         script="One.\n[cut] Two.", memory=wire("memory of nothing")),
    case("memory strength", "memory_strength", "bigger than max of 1.0", "1.5",
         memory=wire("memory"), memory_strength=1.5),
    case("memory strength over a wire", "memory_strength must be 0 to 1", "-1.0",
         memory=wire("memory"), memory_strength=wire("-1.0")),
    case("model that cannot remember", "model must be one that memory can enter", "causal",
         model=wire("wan_causal"), memory=wire("memory"), sampler_name="ar_video", cfg=1.0),
    case("segment: memory of another kind", "memory must come from a memory encoder", "str",
         node=SEGMENT, memory=wire("../escape")),
    case("plan of another kind", "plan", "connect it there", "str",
         plan=wire("../escape")),
    case("segment: wrong frame count", "segment_frames", "4n+1 frames", "got 80", node=SEGMENT,
         segment_frames=80),
    case("segment: nothing new", "segment_frames must be more than the 5 frames", "got 5",
         node=SEGMENT, segment_frames=5, previous=wire("latent")),
    case("segment: NaN previous", "previous must be finite", "NaN", node=SEGMENT,
         previous=wire("NaN latent")),
    case("segment: previous of another size", "previous must have the shape", "(1, 16, 3, 6, 6)",
         node=SEGMENT, previous=wire("larger latent")),
    case("segment: VAE of another model", "vae must make the model's latents", "16 channels",
         node=SEGMENT, model=wire("wan_ti2v")),
    case("segment: two starts", "start_image or previous", "got both", node=SEGMENT,
         start_image=wire("image"), previous=wire("latent")),
)  # fmt: skip

CASES = (*SCRIPT_CASES, *NUMBER_CASES, *RUN_CASES, *VALUE_CASES)


@pytest.mark.parametrize("bad", [pytest.param(one, id=one.id) for one in CASES])
def test_a_bad_input_is_refused_before_sampling(
    bad: Case, refusals: Any, comfy_folders: dict[str, Path], make_run: Callable[..., Path]
) -> None:
    if bad.prepare is not None:
        bad.prepare(comfy_folders["output"] / "throughline", make_run)
    message = refusals.message(bad.node, {**GOOD[bad.node], **bad.inputs})
    assert refusals.sampled == []
    missing = [word for word in bad.words if word not in message]
    assert not missing, f"{missing} not in: {message}"


@pytest.mark.parametrize(
    ("node", "inputs"),
    [
        (SAMPLER, {}),
        (SAMPLER, {"clip": wire("encoder"), "positive": None, "negative": None}),
        (SAMPLER, {"storyboard": wire("storyboard"), "script": ""}),
        (SAMPLER, {"start_image": wire("5 images"), "low_noise_model": wire("wan_t2v")}),
        (SEGMENT, {}),
        (SEGMENT, {"previous": wire("latent")}),
    ],
)
def test_a_good_graph_reaches_the_sampler(node: str, inputs: dict[str, Any], refusals: Any) -> None:
    """So the count above would see a call."""
    assert "was called" in refusals.message(node, {**GOOD[node], **inputs})
    assert len(refusals.sampled) == 1


def test_a_run_that_is_being_written_is_refused(
    refusals: Any, comfy_folders: dict[str, Path], make_run: Callable[..., Path]
) -> None:
    import filelock

    folder = make_run(comfy_folders["output"] / "throughline", "film")
    with filelock.FileLock(folder / ".lock", timeout=0):
        message = refusals.message(SAMPLER, GOOD[SAMPLER])
    assert "run 'film' is being written by another process" in message
    assert refusals.sampled == []


def test_nothing_is_left_outside_the_output_folder(
    refusals: Any, comfy_folders: dict[str, Path]
) -> None:
    for name in ("../escape", "..", "/throughline-escape"):
        refusals.message(SAMPLER, {**GOOD[SAMPLER], "run_name": name})
    assert not list(comfy_folders["output"].parent.rglob("*escape*"))
    assert not Path("/throughline-escape").exists()


def test_there_are_sixty() -> None:
    assert len(CASES) >= 60 and len({one.id for one in CASES}) == len(CASES)
