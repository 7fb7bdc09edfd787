"""Schedules for tests: one with everything that a schedule can say, and a small one."""

from dcache.schedule import Plan, Schedule


def row(text):
    return tuple(c == "1" for c in text)


FULL = Schedule(
    steps=6,
    components={
        "transformer": Plan(
            {
                "cond": {"run:1-3": row("110100"), "mlp.context:4": row("100001")},
                "uncond": {"run:1-3": row("100100"), "mlp.context:4": row("100001")},
            },
            codec="value:bfloat16",
            predictor="taylor",
            parameters={"order": 2, "since": 1},
            clock="logsnr",
            branches="together",
            model="FluxTransformer2DModel",
            config="0123456789ab",
        ),
        "transformer_2": Plan({"*": {"model": row("101010")}}),
    },
    method="searched",
    sampler="FlowMatchEulerDiscreteScheduler",
    resolution=(1024, 768),
    guidance=3.5,
    measured={"seconds": 1.25, "machine": "a CPU", "nested": {"list": [1, 2.5, None, "ü"]}},
)
SMALL = Schedule.of_steps([0, 2], 4)
