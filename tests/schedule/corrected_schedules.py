"""A schedule with corrections of its predictions, and its file edited by hand."""

import json

import torch

from dcache.predictors.corrections import Correction, Corrections
from dcache.schedule import Plan, Schedule

ROW = (True, False, False, True, False, False)


def entry(channels=3, anchor=0, seed=0):
    numbers = torch.randn(2, channels, generator=torch.Generator().manual_seed(seed))
    return Correction(numbers[0], numbers[1], anchor)


def tables():
    rows = {1: entry(seed=1), 2: entry(seed=2), 4: entry(anchor=3, seed=3)}
    return Corrections({"trunk": rows}, {"trunk": -1})


def corrected_schedule(corrections=None, **more):
    return Schedule(
        6, {"transformer": Plan({"*": {"trunk": ROW}}, corrections=corrections or tables())}, **more
    )


def edited(path, change):
    content = json.loads(path.read_text())
    del content["checksum"]
    change(content)
    path.write_text(json.dumps(content))
