"""The film as a stream: which latents are decoded, and which frame belongs to which segment."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from throughline.planning.frames import FrameGrid
from throughline.planning.segments import Segment, film_frames
from throughline.runs.film import chain_latents, crossfade, film_parts, segment_frames
from throughline.runs.folder import RunFolder
from throughline.runs.run import Run

GRID = FrameGrid(4)


def segments_of(lengths: Sequence[tuple[str, int, int]]) -> list[Segment]:
    """(start, latent frames, known latent frames) of each segment."""
    segments: list[Segment] = []
    for i, (start, latent_frames, known) in enumerate(lengths):
        chain = sum(1 for other, _, _ in lengths[1 : i + 1] if other != "tail")
        segments.append(
            Segment(
                index=i,
                shot=i,
                shot_id=str(i),
                chain=chain,
                start=start,
                latent_frames=latent_frames,
                known_latent_frames=known,
                prompt="",
                negative="",
                seed=i,
            )
        )
    return segments


def run_of(root: Path, segments: Sequence[Segment], shift: float = 0.0) -> Run:
    """Latent frame n of a chain has the value n; a handed frame is repeated plus `shift`."""
    with RunFolder.open(root, "film", {"fps": 8}, segments) as folder:
        end = 0
        for segment in segments:
            tail = segment.start == "tail"
            first = end - segment.known_latent_frames if tail else 0
            end = first + segment.latent_frames
            latent = torch.arange(first, end, dtype=torch.float32).view(1, 1, -1, 1, 1)
            latent = latent.expand(1, 2, -1, 2, 2).clone()
            if tail:
                latent[:, :, : segment.known_latent_frames] += shift
            folder.write_segment(segment.index, latent, {}, 1.0)
        return folder.run


def decode(pieces: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """A causal stand-in: the first latent frame is one frame, every other one is four."""
    first = True
    for piece in pieces:
        repeats = [1 if first and i == 0 else 4 for i in range(piece.shape[2])]
        first = False
        values = torch.repeat_interleave(piece[0, 0], torch.tensor(repeats), 0)
        yield values[..., None].expand(-1, -1, -1, 3)


PLANS = [
    [("text", 3, 0)],
    [("image", 3, 1), ("tail", 4, 1), ("tail", 3, 2)],
    [("text", 3, 0), ("tail", 3, 1), ("text", 2, 0), ("tail", 5, 2), ("text", 1, 0)],
]


@pytest.mark.parametrize("plan", PLANS)
def test_every_frame_is_there_once_and_in_order(
    tmp_path: Path, plan: list[tuple[str, int, int]]
) -> None:
    segments = segments_of(plan)
    run = run_of(tmp_path, segments)
    counts = [0] * len(segments)
    for chain in run.chains:
        values: list[float] = []
        for part in film_parts(run, chain, decode, GRID, 0):
            assert part.offset == counts[part.record.index]
            assert 0 < part.frames.shape[0] <= 8
            counts[part.record.index] += part.frames.shape[0]
            values += part.frames[:, 0, 0, 0].tolist()
        latent_frames = sum(record.film_latent_frames for record in chain)
        assert values == [0.0] + [float(n) for n in range(1, latent_frames) for _ in range(4)]
    assert tuple(counts) == segment_frames(run, GRID)
    assert sum(counts) == film_frames(segments, GRID)


def test_a_decoder_on_another_grid_is_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path, segments_of(PLANS[1]))
    for grid, which in ((FrameGrid(8), "fewer"), (FrameGrid(2), "more")):
        with pytest.raises(ValueError, match=f"makes {which} frames than run 'film' has"):
            list(film_parts(run, run.chains[0], decode, grid, 0))


@pytest.mark.parametrize(
    ("blend", "expected"),
    [
        (0, [0, 1, 2, 3, 4, 5]),
        (1, [0, 1, 2, 3 + 3, 4, 5]),
        (2, [0, 1, 2 + 2, 3 + 4, 4, 5]),
        (5, [0, 1, 2 + 2, 3 + 4, 4, 5]),  # no more than were handed over
    ],
)
def test_overlap_blend_ramps_into_what_the_model_made_of_it(
    tmp_path: Path, blend: int, expected: list[float]
) -> None:
    run = run_of(tmp_path, segments_of([("text", 4, 0), ("tail", 4, 2)]), shift=6.0)
    pieces = list(chain_latents(run, run.chains[0], blend))
    assert torch.cat(pieces, 2)[0, 0, :, 0, 0].tolist() == pytest.approx(expected)


def test_a_crossfade_by_hand() -> None:
    zero, one = torch.zeros(1, 1, 3, 1, 1), torch.ones(1, 1, 3, 1, 1)
    assert crossfade(zero, one).flatten().tolist() == [0.25, 0.5, 0.75]
    assert torch.equal(crossfade(one, one), one)


def filled_run(root: Path, lengths: Sequence[tuple[int, int]]) -> Run:
    """Filled segments of (latent frames, known ones); frame n of segment s is 100 s + n."""
    segments = segments_of([("plan", frames, known) for frames, known in lengths])
    with RunFolder.open(root, "fill", {"fps": 8}, segments) as folder:
        for segment in segments:
            latent = torch.full((1, 2, segment.latent_frames, 2, 2), 100.0 * segment.index)
            folder.write_segment(segment.index, latent, {}, 1.0)
        return folder.run


def numbered(pieces: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """A stand-in for a decoder: frame n of a clip is its latent's value plus n, in odd pieces."""
    for piece in pieces:
        count = GRID.frames(piece.shape[2])
        frames = torch.arange(float(count)) + float(piece[0, 0, 0, 0, 0])
        yield from frames.view(-1, 1, 1, 1).split(7)


def values(run: Run, blend: int) -> list[tuple[int, int, float]]:
    """Segment, place and value of every frame of the film."""
    found = []
    for chain in run.chains:
        for part in film_parts(run, chain, numbered, GRID, blend):
            for i, frame in enumerate(part.frames):
                found.append((part.record.index, part.offset + i, float(frame.flatten()[0])))
    return found


@pytest.mark.parametrize("latent_frames", [3, 6, 21])
def test_filled_segments_drop_the_frames_they_share(tmp_path: Path, latent_frames: int) -> None:
    run = filled_run(tmp_path, [(latent_frames, 0), (latent_frames, 2), (latent_frames, 2)])
    whole, new = GRID.frames(latent_frames), 4 * (latent_frames - 2)
    assert [len(chain) for chain in run.chains] == [3]
    assert segment_frames(run, GRID) == (whole, new, new)
    wanted = [(0, i, float(i)) for i in range(whole)]
    for segment in (1, 2):
        wanted += [(segment, i, 100.0 * segment + 5 + i) for i in range(new)]
    assert values(run, 0) == wanted


@pytest.mark.parametrize("blend", [1, 3, 5, 9])
def test_what_is_shared_may_pass_from_one_to_the_other(tmp_path: Path, blend: int) -> None:
    run = filled_run(tmp_path, [(6, 0), (6, 2)])
    plain, faded = values(run, 0), values(run, blend)
    count = min(blend, 5)
    assert [one[:2] for one in faded] == [one[:2] for one in plain]
    assert faded[: 21 - count] == plain[: 21 - count] and faded[21:] == plain[21:]
    for i in range(count):
        weight = (i + 1) / (count + 1)
        before, after = 21 - count + i, 100 + 5 - count + i
        assert faded[21 - count + i][2] == pytest.approx((1 - weight) * before + weight * after)


def test_a_cut_between_filled_segments_shares_nothing(tmp_path: Path) -> None:
    run = filled_run(tmp_path, [(6, 0), (6, 0), (6, 2)])
    assert [len(chain) for chain in run.chains] == [1, 2]
    assert segment_frames(run, GRID) == (21, 21, 16)
    assert values(run, 3)[:39] == values(run, 0)[:39]
    assert values(run, 3)[39:42] != values(run, 0)[39:42]


@pytest.mark.parametrize(("more", "said"), [(1, "more frames"), (-1, "fewer frames")])
def test_another_decoder_of_a_filled_segment_is_refused(
    tmp_path: Path, more: int, said: str
) -> None:
    run = filled_run(tmp_path, [(6, 0)])

    def wrong(pieces: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        yield torch.zeros(21 + more, 1, 1, 1)

    with pytest.raises(ValueError, match=said):
        list(film_parts(run, run.chains[0], wrong, GRID, 0))
