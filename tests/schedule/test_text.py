"""A schedule prints as a table."""

from dcache.schedule import Plan, Schedule
from dcache.schedule.text import MOST_ROWS

ROW = (True, False, False, True)


def test_one_site_of_one_denoiser() -> None:
    schedule = Schedule(
        4,
        {"transformer": Plan({"*": {"trunk": ROW}}, codec="delta", predictor="newton", model="Flux")},
        method="newton",
        sampler="FlowMatchEulerDiscreteScheduler",
        guidance=3.5,
    )
    assert str(schedule).splitlines() == [
        "4 evaluations, newton, FlowMatchEulerDiscreteScheduler, guidance 3.5",
        "transformer (Flux): newton, codec delta",
        "  trunk  #..#   50%",
        "# computed  . predicted",
    ]


def test_branches_and_denoisers_are_apart_and_names_are_aligned() -> None:
    plan = Plan(
        {"cond": {"attn:0": ROW, "cross_attn:0": (True,) * 4}, "uncond": {"attn:0": ROW, "cross_attn:0": ROW}}
    )
    lines = str(Schedule(4, {"": plan, "other": Plan({"*": {"model": ROW}})})).splitlines()
    assert lines == [
        "4 evaluations",
        "denoiser: reuse",
        "  branch cond",
        "  attn:0        #..#   50%",
        "  cross_attn:0  ####  100%",
        "  branch uncond",
        "  attn:0        #..#   50%",
        "  cross_attn:0  #..#   50%",
        "other: reuse",
        "  model  #..#   50%",
        "# computed  . predicted",
    ]


def test_many_sites_are_summed_up() -> None:
    rows = {f"block:{i}": ROW for i in range(MOST_ROWS + 7)}
    lines = str(Schedule(4, {"": Plan({"*": rows})})).splitlines()
    assert len(lines) == 2 + MOST_ROWS + 1 + 1
    assert lines[-2] == "  ... and 7 more sites"
