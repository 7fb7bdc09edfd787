"""`dcache dlm demo`: every policy on both shipped models, with pictures of the rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dcache.eval.diffusion_lm.entries import parse
from dcache.eval.diffusion_lm.evaluation import Progress, evaluate
from dcache.eval.diffusion_lm.figures import Figures, figures_of
from dcache.eval.diffusion_lm.picture import picture_of
from dcache.eval.diffusion_lm.report import content_of
from dcache.eval.diffusion_lm.settings import RowSettings
from dcache.eval.diffusion_lm.subject import SHIPPED, RowSubject, load
from dcache.util.files import make_folder, write_json

TITLES = {
    "mirror": "eight random digits, and the same digits backwards",
    "acrostic": "five words with given initials",
}
NEXT = """\
next: on a masked-diffusion model of your own
dcache.enable(model, dcache.methods.dkv(refresh=8))
dcache.diffusion_lm.generate(model, input_ids, max_new_tokens=128)   # or any loop that calls the model
print(dcache.stats(model))"""


@dataclass(frozen=True)
class Shown:
    """Figures and files of one model in the demonstration.

    Attributes:
        subject: the model.
        title: what it writes.
        rows: figures of every policy.
        files: what was written.
    """

    subject: RowSubject
    title: str
    rows: list[Figures]
    files: list[Path]


def shown(settings: RowSettings, out: Path, progress: Progress) -> Iterator[Shown]:
    """Run every policy on each shipped model, and write a picture and the figures of each.

    Args:
        settings: what is generated.
        out: folder for the files.
        progress: called with what is at work, the number done and all.
    """
    make_folder(out)
    for name in SHIPPED:
        subject = load(name)
        entries, given = parse(subject.policies), settings.of(subject)
        rows = figures_of(evaluate(subject, entries, given, None, progress), given.seeds)
        picture = picture_of(subject, entries, given, out / f"{name}.png")
        figures = write_json(out / f"{name}.json", content_of(subject, given, rows))
        yield Shown(subject, TITLES[name], rows, [picture, figures])
