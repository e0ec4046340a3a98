"""Which LoRAs a shot gets, from the words of the script and from the graph."""

from __future__ import annotations

import pytest

from throughline.planning.lora_words import NamedLora, parse_loras
from throughline.planning.script import parse_storyboard
from throughline.planning.shot_loras import AppliedLora, LoraOffer, loras_of_shots
from throughline.planning.storyboard import StoryboardError
from throughline.planning.storyboard_summary import ignored_settings

SCRIPT = """@Ana = a woman | lora: face 0.9
@Tom = a man | lora: face 0.4, hat
#attic = under the roof
== Scene 1 #attic ==
A street. {lora: night}
<Ana> waits. {lora: night 0.5, coat}
<Tom> and <Ana> talk.
<Ana> leaves. {lora: face -1, night 0}
== Scene 2 ==
An empty room."""

OFFERS = (
    LoraOffer(names=("coat",), strength=1.0),
    LoraOffer(names=("Face", "face.safetensors"), strength=0.7),
    LoraOffer(names=("hat",), strength=0.3),
    LoraOffer(names=("night",), strength=0.8),
)


def applied(*offers: LoraOffer, script: str = SCRIPT) -> list[dict[int, float]]:
    """Strengths by the index of the offer, shot by shot."""
    shots = loras_of_shots(parse_storyboard(script), offers)
    return [{one.index: one.strength for one in shot} for shot in shots]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("coat", [("coat", None)]),
        ("coat 0.8, night", [("coat", 0.8), ("night", None)]),
        (
            "my coat -1，b/c.safetensors .5、x2",
            [("my coat", -1), ("b/c.safetensors", 0.5), ("x2", None)],
        ),
        ("", []),
    ],
)
def test_words(text: str, names: list[tuple[str, float | None]]) -> None:
    assert parse_loras(text) == tuple(NamedLora(*one) for one in names)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("coat,", "must not be empty, got ''"),
        ("coat, COAT 1", "named once, got 'COAT' twice"),
        ("coat 101", "from -100 to 100, got 101"),
        ("../coat", "no '..'"),
        ("coat:0.8", "no ':', got 'coat:0.8'"),
        ("coat 1 2", "does not end with a number apart by a space, got 'coat 1'"),
        ("a|b", "comma, semicolon, bar or brace"),
    ],
)
def test_words_that_are_refused_are_placed(text: str, words: str) -> None:
    with pytest.raises(StoryboardError) as caught:
        parse_storyboard(f"A street.\nA room. {{lora: {text}}}")
    assert words in str(caught.value)
    assert (caught.value.line, caught.value.column) == (2, 16)


def test_shot_then_character_then_graph() -> None:
    """Shot 1.3: <Tom> comes first, so his strength of the face counts. Strength 0 is none."""
    assert applied(*OFFERS) == [
        {3: 0.8},
        {0: 1.0, 1: 0.9, 3: 0.5},
        {1: 0.4, 2: 0.3},
        {1: -1.0},
        {},
    ]


def test_the_order_is_that_of_the_graph() -> None:
    shots = loras_of_shots(parse_storyboard("A. {lora: night, coat}"), OFFERS)
    assert shots == ((AppliedLora(0, 1.0), AppliedLora(3, 0.8)),)


def test_the_graph_places_a_lora_by_itself() -> None:
    everywhere = LoraOffer(names=("grain",), strength=0.2, used_in=("<Tom>", "2.1", "#attic"))
    plain = (
        "@Tom = a man\n#attic = dusty\n<Tom> waits.\n== Scene 2 ==\nA.\n== Scene 3 #attic ==\nB.\n"
    )
    assert applied(everywhere, script=plain + "== Scene 4 ==\nC.") == [
        {0: 0.2},
        {0: 0.2},
        {0: 0.2},
        {},
    ]
    assert applied(everywhere, script=plain + "== Scene 4 ==\nC. {lora: grain 0.9}")[-1] == {0: 0.9}
    assert applied(everywhere, script=plain + "<Tom> goes. {lora: grain 0}")[-1] == {}


@pytest.mark.parametrize(
    ("offers", "words"),
    [
        (OFFERS[:3], "line 5, column 1: shot 1.1: no LoRA is called 'night'; connected are coat"),
        (OFFERS[1:], "line 6, column 1: shot 1.2: no LoRA is called 'coat'"),
        ((OFFERS[0], *OFFERS), "two LoRAs are called 'coat'"),
        (
            (*OFFERS, LoraOffer(names=("x",), strength=1.0, used_in=("Eve",))),
            "used_in of the LoRA 'x' must name shots, characters or locations, got 'Eve'",
        ),
    ],
)
def test_names_that_do_not_fit(offers: tuple[LoraOffer, ...], words: str) -> None:
    with pytest.raises(StoryboardError, match="LoRA") as caught:
        applied(*offers)
    assert words in str(caught.value)


def test_an_unknown_lora_of_a_character_names_the_character() -> None:
    with pytest.raises(StoryboardError, match="character Ana in shot 1.2: .* called 'face'"):
        applied(OFFERS[0], OFFERS[2], OFFERS[3])


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), 100.5])
def test_a_strength_of_the_graph_is_checked(strength: float) -> None:
    with pytest.raises(ValueError, match="strength of a LoRA must be from -100 to 100"):
        LoraOffer(names=("x",), strength=strength)


def test_without_loras_in_the_graph_the_script_is_told() -> None:
    storyboard = parse_storyboard(SCRIPT)
    found = ignored_settings(storyboard)
    assert "lora of shot 1.1 has no effect here" in found
    assert "lora of character Ana has no effect here" in found
    assert ignored_settings(storyboard, follows=("lora",)) == ()
