"""Schedules of a planned film: bounds, optimality where it is proven, the released log's times."""

from __future__ import annotations

import itertools
import random

import pytest

from throughline.planning.forecast import (
    calibrate,
    choose_order,
    choose_seed_from,
    enough_devices,
    film_bounds,
    forecast,
    fused_makespan,
    lower_bounds,
)
from throughline.planning.schedule import (
    Costs,
    FilmJobs,
    Job,
    JobGraph,
    Schedule,
    breadth_first,
    critical_path_first,
    depth_first,
    film_jobs,
    list_schedule,
)

RELEASED = Costs(plan=139.4, fill_1=135.5, fill_2=158.9)
"""The public server log of I2V 14B on 4 GPUs (section 5.3): a hop of 139.4 s, the hand-off
included, and 4 p + F = 852 s; the fills in the proportion of their work, 1.04 to 1.22."""


def check_precedence(graph: JobGraph, schedule: Schedule) -> None:
    ends = {slot.job: slot.end for slot in schedule.slots}
    starts = {slot.job: slot.start for slot in schedule.slots}
    assert set(ends) == set(graph.seconds)
    for job, before in graph.after.items():
        for one in before:
            assert starts[job] >= ends[one] - 1e-9
    for slot in schedule.slots:
        assert slot.end - slot.start == pytest.approx(graph.seconds[slot.job])
    for device in range(schedule.devices):
        own = sorted(slot for slot in schedule.slots if slot.device == device)
        for first, second in itertools.pairwise(own):
            assert second.start >= first.end - 1e-9


def random_costs(generator: random.Random) -> Costs:
    def some(least: float, most: float) -> float:
        return 0.0 if generator.random() < 0.25 else generator.uniform(least, most)

    return Costs(
        plan=generator.uniform(0.1, 5.0),
        fill_1=some(0.1, 8.0),
        fill_2=some(0.1, 8.0),
        hand_off=some(0.01, 1.0),
        decode=some(0.01, 2.0),
    )


def test_random_films_keep_order_and_bounds() -> None:
    generator = random.Random(0)
    optimal = 0
    for _ in range(2000):
        costs, devices = random_costs(generator), generator.randint(1, 8)
        segments = generator.randint(1, 12)
        seed_from = generator.choice(["terminal", "middle"])
        graph = film_jobs(segments, costs, seed_from)
        schedule = list_schedule(graph, devices)
        check_precedence(graph, schedule)
        bounds = lower_bounds(segments, costs, devices, seed_from)
        assert schedule.makespan >= bounds.best - 1e-6
        graham = bounds.area + (1 - 1 / devices) * bounds.chain
        assert schedule.makespan <= graham + 1e-6
        if devices >= enough_devices(costs, seed_from):
            assert schedule.makespan == pytest.approx(bounds.chain)
            optimal += 1
    assert optimal > 300


def best_makespan(graph: JobGraph, devices: int) -> float:
    """The shortest schedule of all orders of a small film."""
    jobs = list(graph.seconds)
    best = float("inf")
    for order in itertools.permutations(range(len(jobs))):
        rank = dict(zip(jobs, order, strict=True))
        schedule = list_schedule(graph, devices, lambda job, rank=rank: (float(rank[job]),))
        best = min(best, schedule.makespan)
    return best


def test_small_films_stay_within_grahams_factor_of_the_best() -> None:
    generator = random.Random(1)
    for _ in range(8):
        costs = Costs(plan=generator.uniform(0.5, 2.0), fill_1=generator.uniform(0.5, 4.0))
        graph = film_jobs(3, costs)
        best = best_makespan(graph, 2)
        assert best - 1e-9 <= list_schedule(graph, 2).makespan <= (2 - 1 / 2) * best + 1e-9


def test_the_released_log_is_reproduced() -> None:
    measured = 846.9
    assert fused_makespan(4, RELEASED, 4) == pytest.approx(measured, rel=0.02)
    assert list_schedule(film_jobs(4, RELEASED), 4).makespan == pytest.approx(measured, rel=0.02)
    assert enough_devices(RELEASED) == 4
    alone = list_schedule(film_jobs(4, RELEASED), 1).makespan
    assert alone / fused_makespan(4, RELEASED, 4) == pytest.approx(2.04, rel=0.01)


@pytest.mark.parametrize(
    ("segments", "devices", "fused", "spine"), [(4, 2, 1007.0, 1023.0), (12, 3, 2014.0, 1967.0)]
)
def test_neither_way_wins_with_few_devices(
    segments: int, devices: int, fused: float, spine: float
) -> None:
    """The design document's example (section 9)."""
    assert fused_makespan(segments, RELEASED, devices) == pytest.approx(fused, rel=0.01)
    oldest = lambda job: (float(job.step not in ("plan", "hand-off")), job.segment)  # noqa: E731
    graph = film_jobs(segments, RELEASED)
    found = list_schedule(graph, devices, oldest).makespan
    assert found == pytest.approx(spine, rel=0.01)
    assert list_schedule(graph, devices).makespan <= found + 1e-9


def test_fused_jobs_have_the_closed_form() -> None:
    """Section 5.4, for fewer devices than K* and for enough."""
    generator = random.Random(2)
    for _ in range(300):
        costs, segments = random_costs(generator), generator.randint(1, 12)
        devices = generator.randint(1, 6)
        job, hop = costs.plan + costs.leg(), costs.plan + costs.hand_off
        wanted = -(-segments // devices) * job + ((segments - 1) % devices) * hop
        if devices * hop >= job:
            wanted = segments * costs.plan + (segments - 1) * costs.hand_off + costs.leg()
        assert fused_makespan(segments, costs, devices) == pytest.approx(wanted)


def test_one_device_takes_the_same_time_in_every_order() -> None:
    graph = film_jobs(5, Costs(plan=2.0, fill_1=1.0, fill_2=3.0, hand_off=0.5, decode=0.25))
    orders = {
        name: list_schedule(graph, 1, order(graph))
        for name, order in {"depth": depth_first, "breadth": breadth_first}.items()
    }
    for schedule in orders.values():
        check_precedence(graph, schedule)
        assert schedule.makespan == pytest.approx(sum(graph.seconds.values()))
    deep = [slot.job for slot in orders["depth"].slots][:5]
    steps = ("plan", "fill 1", "fill 2", "decode", "hand-off")
    assert deep == [Job(0, step) for step in steps]
    wide = [slot.job.step for slot in orders["breadth"].slots]
    assert wide.index("fill 1") == 9 and set(wide[9:]) == {"fill 1", "fill 2", "decode"}


def test_from_the_middle_the_second_fill_never_runs() -> None:
    costs = Costs(plan=1.0, fill_1=1.0, fill_2=5.0)
    steps = {job.step for job in film_jobs(3, costs, "middle").seconds}
    assert steps == {"plan", "fill 1"}
    assert lower_bounds(3, costs, 2, "middle").chain == 4.0


def test_what_is_done_is_not_done_again() -> None:
    costs = Costs(plan=1.0, fill_1=2.0, hand_off=0.5)
    done = frozenset((Job(0, "plan"), Job(0, "hand-off"), Job(1, "plan")))
    film = FilmJobs(costs=costs, lengths=(1.0,) * 3, done=done)
    graph = film.graph()
    assert graph.after[Job(1, "hand-off")] == () and graph.after[Job(0, "fill 1")] == ()
    assert graph.after[Job(2, "plan")] == (Job(1, "hand-off"),)
    assert not done & set(graph.seconds)
    bounds = film_bounds(film, 2)  # two fills, and 0.5 + 1 + 2 for the rest
    assert (bounds.chain, bounds.area, bounds.ramp) == (3.5, 7.5 / 2, 0.0)


def test_a_cut_begins_a_chain_of_its_own() -> None:
    costs = Costs(plan=1.0, fill_1=2.0, hand_off=0.5)
    film = FilmJobs(costs=costs, lengths=(1.0,) * 4, cuts=frozenset((2,)))
    graph = film.graph()
    assert graph.after[Job(2, "plan")] == () and Job(1, "hand-off") not in graph.seconds
    assert graph.after[Job(3, "plan")] == (Job(2, "hand-off"),)
    assert film_bounds(film, 8).chain == 1.0 + 0.5 + 1.0 + 2.0
    assert list_schedule(graph, 8).makespan == 4.5


def test_long_segments_take_longer_and_hand_offs_do_not() -> None:
    costs = Costs(plan=2.0, fill_1=4.0, hand_off=0.5, decode=1.0)
    graph = FilmJobs(costs=costs, lengths=(1.0, 0.5)).graph()
    assert [graph.seconds[Job(1, step)] for step in ("plan", "fill 1", "decode")] == [1.0, 2.0, 0.5]
    assert graph.seconds[Job(0, "hand-off")] == 0.5


def test_bounds_of_any_film_hold_and_agree_with_the_closed_ones() -> None:
    generator = random.Random(3)
    for _ in range(300):
        costs, segments = random_costs(generator), generator.randint(1, 8)
        devices = generator.randint(1, 5)
        equal = FilmJobs(costs=costs, lengths=(1.0,) * segments)
        closed, graph = lower_bounds(segments, costs, devices), equal.graph()
        assert film_bounds(equal, devices) == closed
        assert max(graph.tails().values()) == pytest.approx(closed.chain)
        assert sum(graph.seconds.values()) / devices == pytest.approx(closed.area)
        film = FilmJobs(
            costs=costs,
            lengths=tuple(generator.uniform(0.2, 2.0) for _ in range(segments)),
            cuts=frozenset(i for i in range(1, segments) if generator.random() < 0.3),
            done=frozenset(job for job in graph.seconds if generator.random() < 0.2),
        )
        schedule = list_schedule(film.graph(), devices)
        check_precedence(film.graph(), schedule)
        assert schedule.makespan >= film_bounds(film, devices).best - 1e-6


def test_a_device_gets_what_fits() -> None:
    graph = film_jobs(4, Costs(plan=1.0, fill_1=1.0, fill_2=1.0))
    schedule = list_schedule(graph, 3, fits=lambda job, device: device == 1 or job.step != "fill 2")
    check_precedence(graph, schedule)
    assert {s.device for s in schedule.slots if s.job.step == "fill 2"} == {1}
    with pytest.raises(ValueError, match="fill 2 of segment 1 fits on no device"):
        list_schedule(graph, 3, fits=lambda job, device: job.step != "fill 2")


def test_modes_follow_memory_and_latency() -> None:
    peaks = {"plan": 9.0, "fill 1": 13.0, "fill 2": 21.0}
    costs = Costs(plan=1.0, fill_1=1.0, fill_2=1.0)
    assert choose_seed_from(peaks, 24.0, costs) == "terminal"
    assert choose_seed_from(peaks, 16.0, costs) == "middle"
    assert choose_seed_from(peaks, 24.0, costs, latency=2.5) == "middle"
    with pytest.raises(ValueError, match="first fill need 13, the devices have 12"):
        choose_seed_from(peaks, 12.0, costs)


def test_a_forecast_says_when_to_start_playing() -> None:
    film = FilmJobs(costs=Costs(plan=2.0, fill_1=3.0), lengths=(1.0,) * 4)
    found = forecast(film, 8, [1.0] * 4, critical_path_first)
    assert found.makespan == 11.0 and found.first_footage == 5.0
    assert found.start_delay == 8.0  # the fourth is done at 11 and plays from 3 on
    assert film_bounds(film, 8).chain == 11.0 and enough_devices(film.costs) == 3


def test_the_first_sample_counts_only_while_it_is_the_only_one() -> None:
    expected = Costs(plan=1.0, fill_1=2.0, decode=0.1, hand_off=0.2)
    assert calibrate(expected, {}) == expected
    once = calibrate(expected, {"plan": [5.0]})
    assert once == Costs(plan=5.0, fill_1=10.0, decode=0.5, hand_off=1.0)
    more = calibrate(expected, {"plan": [5.0, 3.0, 2.0, 4.0], "decode": [0.25]})
    assert more.plan == 3.0
    assert (more.fill_1, more.decode, more.hand_off) == (6.0, 0.25, pytest.approx(0.6))


def test_orders_serve_their_goals() -> None:
    film = FilmJobs(costs=RELEASED, lengths=(1.0,) * 12)
    plays = [4.75] * 12

    def chosen(devices: int, goal: str = "automatic", one_model: bool = True) -> str:
        return choose_order(film, devices, plays, goal, one_model).order  # type: ignore[arg-type]

    assert chosen(1) == "depth first" and chosen(1, one_model=False) == "breadth first"
    assert chosen(1, "earliest footage", one_model=False) == "depth first"
    assert chosen(4, "storyboard first") == "breadth first"
    made = frozenset((Job(0, "plan"), Job(0, "fill 1"), Job(1, "plan")))
    rest = FilmJobs(costs=Costs(plan=1.0, fill_1=1.0), lengths=(1.0,) * 3, done=made)
    goes_on = choose_order(rest, 1, [0.1] * 3).expected
    assert (goes_on.first_footage, goes_on.next_footage) == (0.0, 1.0)
    assert goes_on.schedule.slots[0].job == Job(1, "fill 1")
    decoded = FilmJobs(costs=Costs(plan=139.0, fill_1=292.0, decode=6.0), lengths=(1.0,) * 6)
    at_first = {"decode": 0, "plan": 0}

    def fits(job: Job, device: int) -> bool:
        return device == at_first.get(job.step, device)

    sooner = choose_order(decoded, 3, plays[:6], fits=fits).expected
    soonest = choose_order(decoded, 3, plays[:6], "shortest time", fits=fits).expected
    assert sooner.makespan <= 1.05 * soonest.makespan
    assert sooner.first_footage < 600.0 < 800.0 < soonest.first_footage
    generator = random.Random(4)
    for _ in range(40):
        costs, devices = random_costs(generator), generator.randint(2, 6)
        film = FilmJobs(costs=costs, lengths=(1.0,) * 6)
        orders = (critical_path_first, depth_first, breadth_first)
        tried = [forecast(film, devices, [1.0] * 6, order) for order in orders]
        fastest = choose_order(film, devices, [1.0] * 6, "shortest time").expected
        assert fastest.makespan == pytest.approx(min(one.makespan for one in tried))
        soonest = choose_order(film, devices, [1.0] * 6, "earliest footage").expected
        assert soonest.first_footage == pytest.approx(min(one.first_footage for one in tried))


def test_plans_stay_on_the_device_that_has_the_planner() -> None:
    film = FilmJobs(costs=Costs(plan=1.0, fill_1=3.0), lengths=(1.0,) * 6)
    expected = choose_order(
        film, 3, [1.0] * 6, fits=lambda job, device: (job.step == "plan") == (device == 0)
    ).expected
    check_precedence(film.graph(), expected.schedule)
    assert {s.device for s in expected.schedule.slots if s.job.step == "plan"} == {0}
    assert expected.makespan == 2.0 + 3 * 3.0  # two devices fill six, one from the second plan on


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Costs(plan=0.0, fill_1=1.0), "more than 0 seconds, got 0.0"),
        (lambda: Costs(plan=1.0, fill_1=float("nan")), "fill_1 must be 0 seconds or more"),
        (lambda: film_jobs(0, RELEASED), "1 segment or more, got 0"),
        (lambda: FilmJobs(costs=RELEASED, lengths=(1.0, 0.0)), "longer than 0"),
        (lambda: list_schedule(film_jobs(1, RELEASED), 0), "devices must be 1 or more, got 0"),
        (lambda: JobGraph({Job(0, "plan"): 1.0}, {Job(0, "plan"): (Job(1, "plan"),)}), "no job"),
        (
            lambda: JobGraph(
                {Job(0, "plan"): 1.0, Job(1, "plan"): 1.0},
                {Job(0, "plan"): (Job(1, "plan"),), Job(1, "plan"): (Job(0, "plan"),)},
            ),
            "in a circle",
        ),
    ],
)
def test_wrong_films_are_named(make: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()  # type: ignore[operator]
