"""The evaluation: every policy at every budget on every context; what is done is kept, and not done again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcache import lm_kv
from dcache.eval.digest import digest_of
from dcache.eval.language.ask import ask
from dcache.eval.language.policies import FULL, PolicyEntry, budget_text
from dcache.eval.language.settings import LanguageSettings
from dcache.eval.language.subject import LanguageSubject
from dcache.eval.language.task import Context
from dcache.eval.results_folder import made_once, model_facts, open_results

FORMAT, VERSION = "dcache.lm", 3
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Measured:
    """A policy at a budget, on all contexts.

    Attributes:
        label: the policy.
        budget: its budget; 1.0 for the uncompressed cache.
        answers: of each context, as `Answers.plain`.
    """

    label: str
    budget: float
    answers: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """Label and budget."""
        return self.label if self.label == FULL else f"{self.label}, {budget_text(self.budget)}"


def evaluate(
    subject: LanguageSubject,
    entries: Sequence[PolicyEntry],
    budgets: Sequence[float],
    settings: LanguageSettings,
    out: Path,
    progress: Progress = lambda _what, _done, _total: None,
) -> list[Measured]:
    """Ask every context under every policy and budget, the uncompressed cache first.

    Args:
        subject: the model.
        entries: the policies.
        budgets: for policies without a budget of their own.
        settings: what is asked.
        out: folder of the results; those of the same settings are read from it.
        progress: called with what is at work, the number done and all.

    Raises:
        DcacheError: the folder holds results of other settings, or cannot be written to.
    """
    facts = model_facts(subject.name, subject.model)
    about = {"format": FORMAT, "version": VERSION, **facts, **vars(settings)}
    folder = open_results(out, about, "answers")
    contexts = subject.contexts(settings.contexts, settings.questions, settings.tokens, settings.seed)
    jobs = list(_jobs(entries, budgets))
    total, done = len(jobs) * len(contexts), 0
    measured = []
    for label, name, policy in jobs:
        answers = []
        for index, context in enumerate(contexts):
            progress(label, done, total)
            path = folder / f"{name}.{index}.json"
            answers.append(made_once(path, ("exact", "bytes_full"), _asking(subject, policy, context)))
            done += 1
        budget = policy.budget
        measured.append(Measured(label, 1.0 if budget is None else budget, answers))
    progress("done", total, total)
    return measured


def _jobs(
    entries: Sequence[PolicyEntry], budgets: Sequence[float]
) -> Iterator[tuple[str, str, lm_kv.Policy]]:
    """Label, name of a file and policy of all that is measured."""
    # Without a window nothing is special about the newest tokens; all are kept.
    yield FULL, FULL, lm_kv.keydiff(budget=1.0)
    for entry in entries:
        for budget, policy in entry.over(budgets):
            yield entry.label, f"{entry.file_name}.{budget}.{digest_of(policy)}", policy


def _asking(subject: LanguageSubject, policy: lm_kv.Policy, context: Context) -> Callable[[], dict[str, Any]]:
    return lambda: ask(subject.model, policy, context).plain()
