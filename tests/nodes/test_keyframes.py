"""ThroughlineKeyframePlanner through the host's executor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from .planner_graphs import SCRIPT, SIDE, Graph, planner_graph, recalled

EVENT = "throughline.segment"


class Look:
    """An output node that keeps what it is given."""

    CATEGORY = "Throughline tests"
    FUNCTION = "look"
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    SEEN: ClassVar[list[Any]] = []

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        kinds = ("TL_KEYFRAMES", "IMAGE", "IMAGE", "STRING")
        names = ("keyframes", "images", "sheet", "report")
        options = {"forceInput": True}
        return {"required": {n: (k, options) for n, k in zip(names, kinds, strict=True)}}

    def look(self, **given: Any) -> tuple[()]:
        self.SEEN.append(given)
        return ()


def statuses(events: list[tuple[str, Any]], wanted: str) -> list[int]:
    return [d["segment"] for kind, d in events if kind == EVENT and d["status"] == wanted]


@pytest.fixture
def runs(comfy_folders: dict[str, Path]) -> Path:
    return comfy_folders["output"] / "throughline"


@pytest.fixture
def read(runs: Path) -> Callable[..., list[torch.Tensor]]:
    """`read(name)`: the latents of a run, in order."""
    from throughline.runs.run import open_run

    def latents(name: str = "frames") -> list[torch.Tensor]:
        run = open_run(runs / name)
        return [run.latent(record.index) for record in run.segments]

    return latents


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """`calls()`: seeds of the sampler calls since the last time."""
    from development.tiny_nodes import CALLS

    file = tmp_path / "calls.txt"
    monkeypatch.setenv(CALLS, str(file))

    def seeds() -> list[int]:
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        file.unlink(missing_ok=True)
        return [int(line) for line in text.split()]

    return seeds


@pytest.fixture
def look(run_film: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[Graph], dict[str, Any]]:
    """`look(graph)`: run it, and what the planner gives by name."""
    import nodes

    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "Look", Look)

    def run(graph: Graph) -> dict[str, Any]:
        Look.SEEN.clear()
        names = ("keyframes", "images", "sheet", "report")
        wires = {name: ["p", slot] for slot, name in enumerate(names)}
        run_film({**graph, "look": {"class_type": "Look", "inputs": wires}})
        return Look.SEEN.pop()

    return run


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> list[bool]:
    return [torch.equal(a, b) for a, b in zip(left, right, strict=True)]


def text_of(outputs: dict[str, Any]) -> str:
    return str(outputs["p"]["text"][0])


def test_every_shot_becomes_a_picture(
    look: Any, read: Any, runs: Path, calls: Callable[[], list[int]]
) -> None:
    from throughline.runs.run import open_run

    given = look(planner_graph())
    keyframes, images, report = given["keyframes"], given["images"], given["report"]
    assert images.shape == (4, SIDE, SIDE, 3)
    assert 0.0 <= float(images.min()) and float(images.max()) <= 1.0
    assert torch.equal(keyframes.images, images)
    assert keyframes.shot_ids == ("1.1", "1.2", "2.1", "3.1") and keyframes.run_name == "frames"
    assert given["sheet"].ndim == 4 and given["sheet"].shape[-1] == 3
    assert calls() == [3, 4, 5, 6]
    assert "frames: 4 keyframes, 4 made now, 0 on disk" in report
    assert recalled(report)["1.1"] == [] and "1.1" in recalled(report)["3.1"]
    run = open_run(runs / "frames")
    assert run.manifest.parameters["kind"] == "keyframes" and not run.unfinished
    assert all(record.preview for record in run.segments)
    assert [latent.shape for latent in read()] == [(1, 16, 1, 4, 4)] * 4
    assert not any(torch.equal(a, b) for a, b in zip(read(), read()[1:], strict=False))


def test_the_first_keyframe_is_the_ksamplers(run_film: Any, read: Any) -> None:
    graph = planner_graph(script="A red room.", sampler_name="dpmpp_2m", steps=4)
    graph["a"] = {
        "class_type": "CLIPTextEncode",
        "inputs": {"clip": ["m", 1], "text": "A red room."},
    }
    graph["n"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": ["m", 1], "text": "blur"}}
    graph["e"] = {
        "class_type": "EmptyHunyuanLatentVideo",
        "inputs": {"width": SIDE, "height": SIDE, "length": 1, "batch_size": 1},
    }
    graph["k"] = {
        "class_type": "KSampler",
        "inputs": {
            "model": ["m", 0],
            "positive": ["a", 0],
            "negative": ["n", 0],
            "latent_image": ["e", 0],
            "seed": 3,
            "steps": 4,
            "cfg": 2.0,
            "sampler_name": "dpmpp_2m",
            "scheduler": "simple",
            "denoise": 1.0,
        },
    }
    graph["s"] = {
        "class_type": "SaveLatent", "inputs": {"samples": ["k", 0], "filename_prefix": "expected"}
    }  # fmt: skip
    outputs, _ = run_film(graph)
    import folder_paths
    from safetensors.torch import load_file

    saved = outputs["s"]["latents"][0]
    file = Path(folder_paths.get_output_directory()) / saved["subfolder"] / saved["filename"]
    assert torch.equal(load_file(file)["latent_tensor"], read()[0])


def test_queueing_again_makes_nothing(
    run_film: Any, read: Any, calls: Callable[[], list[int]]
) -> None:
    run_film(planner_graph())
    before = read()
    calls()
    outputs, events = run_film(planner_graph(negative_prompt="blur "))  # the node runs again
    assert len(calls()) == 4  # another text, other keyframes
    outputs, events = run_film(planner_graph())
    assert calls() == [] and statuses(events, "reused") == [1, 2, 3, 4]
    assert "4 keyframes, 0 made now, 4 on disk" in text_of(outputs)
    assert all(same(read(), before))


def test_a_retake_costs_that_shot_and_who_saw_it(
    run_film: Any, read: Any, calls: Callable[[], list[int]]
) -> None:
    script = SCRIPT.replace("looks up.", "looks up. {recall: 1.1}")
    outputs, _ = run_film(planner_graph(script=script, references=1))
    seen = recalled(text_of(outputs))
    assert seen["3.1"] == ["1.1"]
    before = read()
    for number, shot in enumerate(seen, 1):
        users = [other for other in seen if shot in seen[other]]
        expected = [number, *(list(seen).index(user) + 1 for user in users)]
        for user in users:  # and who saw those
            expected += [list(seen).index(o) + 1 for o in seen if user in seen[o]]
        graph = planner_graph(script=script, references=1, retakes=f"{number}:1")
        outputs, events = run_film(graph)
        assert recalled(text_of(outputs)) == seen
        assert statuses(events, "done") == sorted(set(expected))
        assert same(read(), before) == [i + 1 not in expected for i in range(4)]
    calls()
    run_film(planner_graph(script=script, references=1))
    assert calls() == [] and all(same(read(), before))  # the first takes were kept


def test_a_changed_line_costs_that_shot_and_who_saw_it(run_film: Any) -> None:
    run_film(planner_graph(references=1))
    _, events = run_film(
        planner_graph(references=1, script=SCRIPT.replace("<Ana> looks up.", "<Ana> looks away."))
    )
    assert statuses(events, "done") == [4]


def test_weights_that_choose_the_same_pictures_change_nothing(run_film: Any) -> None:
    run_film(planner_graph(references=1))
    _, events = run_film(planner_graph(references=1, weight_recency=0.21, drift_gate=True))
    assert statuses(events, "done") == []


def test_a_shot_sees_what_it_asks_for_by_hand(run_film: Any) -> None:
    script = SCRIPT.replace("looks up.", "looks up. {recall: 2.1}")
    outputs, _ = run_film(planner_graph(script=script, references=1))
    assert recalled(text_of(outputs))["3.1"] == ["2.1"]
    assert "asked for: 2.1" in text_of(outputs)


def test_shots_say_their_own_seed_negative_and_prompt(
    run_film: Any, runs: Path, calls: Callable[[], list[int]]
) -> None:
    from throughline.runs.run import open_run

    script = (
        'style: ink\nA room. {seed: 70; negative: fog}\nA hall. {keyframe: "only a door"}\nA lake.'
    )
    run_film(planner_graph(script=script))
    assert calls() == [70, 4, 5]
    records = open_run(runs / "frames").segments
    assert [one.prompt for one in records] == ["ink, A room.", "only a door", "ink, A lake."]
    assert [one.negative for one in records] == ["fog", "", ""]


def test_only_showing_samples_and_writes_nothing(
    run_film: Any, runs: Path, calls: Callable[[], list[int]]
) -> None:
    shown = planner_graph(when_queued="only show what would be rendered")
    outputs, events = run_film(shown)
    assert not runs.exists() and calls() == []
    assert statuses(events, "waiting") == [1, 2, 3, 4]
    assert text_of(outputs).count("to make, not made yet") == 4
    assert recalled(text_of(outputs))["3.1"]  # words decide, so it is known already
    run_film(planner_graph())
    changed = {**shown, "b": {**shown["b"], "inputs": {"script": SCRIPT + "The end.", "fps": 0.0}}}
    outputs, _ = run_film(changed)
    assert text_of(outputs).count(": on disk") == 4 and "3.2: to make" in text_of(outputs)


def test_with_the_drift_gate_choices_wait_for_pictures(
    run_film: Any, calls: Callable[[], list[int]]
) -> None:
    graph = planner_graph(
        drift_gate=True, drift_threshold=1000.0, when_queued="only show what would be rendered"
    )
    outputs, _ = run_film(graph)
    assert text_of(outputs).count("decided when its turn comes") == 3
    run_film(planner_graph(drift_gate=True, drift_threshold=1000.0))
    outputs, _ = run_film(graph)
    assert text_of(outputs).count(": on disk") == 4
    calls()
    gated = planner_graph(
        drift_gate=True, drift_threshold=0.0, when_queued=graph["p"]["inputs"]["when_queued"]
    )
    outputs, _ = run_film(gated)
    assert calls() == []


def test_interrupted_within_a_step_and_continued(
    run_film: Any, read: Any, calls: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management as management

    from throughline.nodes import keyframe_rendering

    run_film(planner_graph(run_name="whole"))
    calls()
    tell = keyframe_rendering.announce_segment

    def press(data: Any) -> None:
        tell(data)
        if (data["segment"], data["status"], data["step"]) == (3, "running", 1):
            management.interrupt_current_processing()

    with monkeypatch.context() as patch, pytest.raises(run_film.error) as stopped:
        patch.setattr(keyframe_rendering, "announce_segment", press)
        run_film(planner_graph())
    assert statuses(stopped.value.events, "failed") == [3]
    assert calls() == [3, 4, 5]
    run_film(planner_graph())
    assert calls() == [5, 6]
    assert all(same(read(), read("whole")))


def write_picture(folder: Path, name: str, colour: tuple[int, int, int]) -> None:
    from PIL import Image

    folder.mkdir(exist_ok=True)
    Image.new("RGB", (48, 40), colour).save(folder / name)


def test_reference_files_are_seen_and_their_pixels_count(
    run_film: Any, comfy_folders: dict[str, Path], read: Any
) -> None:
    script = SCRIPT.replace("green coat", "green coat | ref: ana.png").replace(
        "Rain falls.", "Rain falls. {refs: rain.png}"
    )
    write_picture(comfy_folders["input"], "ana.png", (200, 30, 30))
    write_picture(comfy_folders["input"], "rain.png", (20, 30, 90))
    outputs, _ = run_film(planner_graph(script=script, references=1))
    seen = recalled(text_of(outputs))
    assert seen["1.1"] == ["ana.png"] and seen["2.1"] == ["rain.png"] and seen["3.1"] == ["ana.png"]
    before = read()
    run_film(planner_graph(run_name="without", references=1))
    assert not torch.equal(read("without")[0], before[0])
    write_picture(comfy_folders["input"], "rain.png", (220, 30, 90))
    graph = planner_graph(script=script, references=1)
    graph["b"]["inputs"]["fps"] = 1.0  # the host would not run the node again for a file
    _, events = run_film(graph)
    assert 3 in statuses(events, "done") and 1 not in statuses(events, "done")


def test_a_run_of_a_film_is_not_taken(
    run_film: Any, film: Callable[..., Graph], calls: Callable[[], list[int]], read: Any
) -> None:
    run_film(film(run_name="shared"))
    before = read("shared")
    calls()
    with pytest.raises(run_film.error, match="'shared' is that of a run of film"):
        run_film(planner_graph(run_name="shared"))
    assert calls() == [] and all(same(read("shared"), before))
    run_film(planner_graph())
    calls()
    with pytest.raises(run_film.error, match="'frames' is that of a run of keyframes"):
        run_film(film(run_name="frames"))
    assert calls() == []


BAD = [
    ("width must be a multiple of 8", {"width": 36}),
    ("cfg must be 0 to 100, got nan", {"cfg": float("nan")}),
    ("retakes name shots 1 to 4 only, got 9", {"retakes": "9:1"}),
    (
        "reference_mode 'atlas' is for models that take references as pictures",
        {"reference_mode": "atlas"},
    ),
    ("model must make pictures jointly, got WAN21", {"reference_mode": "joint K/V"}),
    ("needs a causal Wan model", {"sampler_name": "ar_video"}),
]


@pytest.mark.parametrize(("words", "changes"), BAD, ids=[words[:24] for words, _ in BAD])
def test_bad_inputs_are_refused_before_sampling(
    run_film: Any, calls: Callable[[], list[int]], runs: Path, words: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(run_film.error, match=words.replace("(", "\\(").replace(")", "\\)")):
        run_film(planner_graph(**changes))
    assert calls() == [] and not runs.exists()


def test_a_missing_reference_file_is_refused_before_sampling(
    run_film: Any, calls: Callable[[], list[int]], runs: Path
) -> None:
    script = SCRIPT.replace("looks up.", "looks up. {refs: gone.png}")
    with pytest.raises(run_film.error, match="gone.png"):
        run_film(planner_graph(script=script))
    assert calls() == [] and not runs.exists()


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("storyboard must come from a Storyboard node, got str", {"storyboard": "x"}),
        ("memory must come from a memory encoder node, got str", {"memory": "x"}),
        ("loras must come from a Shot LoRA node, got str", {"loras": "x"}),
        ("sampler_name must be one of", {"sampler_name": "x"}),
        ("reference_mode must be one of", {"reference_mode": "x"}),
        ("references must be 0 or more, got -1", {"references": -1}),
        ("guidance must be 0 to 100, got -1", {"guidance": -1.0}),
        ("memory_strength must be 0 to 1, got 2", {"memory_strength": 2.0}),
        ("steps must be 1 or more, got 0", {"steps": 0}),
        ("weight_text must be 0 or more, got -1", {"weight_text": -1.0}),
    ],
)
def test_bad_values_over_wires_are_refused(comfy: Any, words: str, changes: dict[str, Any]) -> None:
    from development.tiny_models import FAMILIES, tiny_text_encoder, tiny_wan_vae
    from throughline.nodes.keyframe_plan import keyframe_request, plan_story
    from throughline.planning.script import parse_storyboard

    inputs = {
        **planner_graph()["p"]["inputs"],
        "model": FAMILIES["wan_t2v"].model(),
        "vae": tiny_wan_vae(),
        "clip": tiny_text_encoder(),
        "storyboard": parse_storyboard(SCRIPT),
    }
    assert len(plan_story(keyframe_request(inputs)).segments) == 4
    with pytest.raises(ValueError, match=words):
        plan_story(keyframe_request({**inputs, **changes}))


def test_bad_texts_are_refused_before_the_graph_runs(comfy: Any) -> None:
    from throughline.nodes.keyframes import KeyframePlanner

    assert KeyframePlanner.validate_inputs(run_name="frames", retakes="4:1, 7:2") is True
    assert "retakes must read like" in str(KeyframePlanner.validate_inputs(retakes="x"))
    assert "run name" in str(KeyframePlanner.validate_inputs(run_name="../up"))


def test_a_keyframe_that_has_drifted_is_not_shown_again(run_film: Any) -> None:
    script = "@Ana = a woman\n<Ana> in a room.\n<Ana> in a hall.\n<Ana> in a garden."
    outputs, _ = run_film(planner_graph(script=script))
    assert sorted(recalled(text_of(outputs))["1.3"]) == ["1.1", "1.2"]
    gated = {"script": script, "drift_gate": True, "drift_threshold": 0.0}
    outputs, events = run_film(planner_graph(**gated))
    assert recalled(text_of(outputs))["1.3"] == ["1.1"]  # the anchor
    assert "1.2 is left out: Ana has drifted by" in text_of(outputs)
    assert statuses(events, "done") == [3]
    by_hand = script.replace("garden.", "garden. {recall: 1.2}")
    outputs, _ = run_film(planner_graph(**{**gated, "script": by_hand}))
    assert "1.2" in recalled(text_of(outputs))["1.3"]


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("wan_i2v", {}),
        ("wan22_i2v", {}),
        ("wan_vace", {}),
    ],
)
def test_any_video_model_draws_keyframes(
    run_film: Any, read: Any, family: str, changes: dict[str, Any]
) -> None:
    script = "A room.\nA hall."
    outputs, _ = run_film(planner_graph(family, script, **changes))
    assert recalled(text_of(outputs))["1.2"] == ["1.1"]
    beside = read()
    run_film(planner_graph(family, script, reference_mode="none", run_name="alone", **changes))
    assert same(beside, read("alone")) == [True, False]


def test_a_model_without_memory_draws_from_words_alone(run_film: Any) -> None:
    causal = {"sampler_name": "ar_video", "cfg": 1.0}
    outputs, _ = run_film(planner_graph("wan_causal", "A room.\nA hall.", **causal))
    assert "Warning, this model takes no references" in text_of(outputs)
    assert "2 made now" in text_of(outputs)


def test_a_causal_model_is_told_what_it_needs(run_film: Any) -> None:
    with pytest.raises(run_film.error, match="needs the sampler 'ar_video', got sampler_name"):
        run_film(planner_graph("wan_causal", "A room.", cfg=1.0))
    with pytest.raises(run_film.error, match="samples without guidance: cfg must be 1, got 2"):
        run_film(planner_graph("wan_causal", "A room.", sampler_name="ar_video"))


def test_progress_and_previews_are_shown(
    run_film: Any, comfy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.utils

    told: list[tuple[int, int, Any]] = []

    def hook(value: int, total: int, preview: Any, node_id: str | None = None) -> None:
        told.append((value, total, preview))

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0)
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_PERCENT", 0)
    _, events = run_film(planner_graph())
    steps = [d["step"] for kind, d in events if kind == EVENT and d["status"] == "running"]
    assert steps == [0, 1, 2] * 4
    values = [value for value, total, _ in told if total == 8]
    assert values == sorted(values) and values[-1] == 8
    pictures = [preview for *_, preview in told if preview is not None]
    assert len(pictures) == 4 and all(kind == "JPEG" for kind, *_ in pictures)


def test_a_damaged_keyframe_is_made_again_alone(
    run_film: Any, read: Any, runs: Path, calls: Callable[[], list[int]]
) -> None:
    from throughline.runs.run import open_run

    run_film(planner_graph())
    before = read()
    file = runs / "frames" / str(open_run(runs / "frames").segments[0].file)
    file.write_bytes(file.read_bytes()[:-100])
    calls()
    outputs, events = run_film(planner_graph(weight_recency=0.21))
    assert calls() == [3] and statuses(events, "reused") == [2, 3, 4]
    assert "1.1: made now" in text_of(outputs) and all(same(read(), before))
