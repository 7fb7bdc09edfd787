"""What an evaluation is of: settings, prompts, methods, machine; kept in the folder's `run.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dcache.errors import DcacheError
from dcache.eval import digest
from dcache.eval.entries import UNCACHED, BenchEntry
from dcache.eval.machine import machine, versions
from dcache.eval.settings import differences
from dcache.util.files import write_json

FORMAT, VERSION, FILE = "dcache.eval", 2, "run.json"
# Of the first version, entries had no `digest_version`.
READABLE = (1, VERSION)
# What seconds and the last bits of pictures depend on, of machine and versions.
DECISIVE = ("processor", "gpus", "threads", "torch", "diffusers", "transformers", "dcache")


@dataclass(frozen=True)
class Item:
    """One picture or clip of every method: its place, prompt and seed."""

    index: int
    prompt_index: int
    prompt: str
    seed: int

    @property
    def file(self) -> str:
        """Name of the file: prompt and seed."""
        return f"{hashlib.sha256(self.prompt.encode()).hexdigest()[:8]}-{self.seed}.png"


@dataclass(frozen=True)
class Entry:
    """One method; `dcache.eval.entries.BenchEntry` has the meaning of the other fields.

    Attributes:
        folder: its name among the pictures: label and digest.
        digest_version: `dcache.eval.digest.VERSION` of the digest.
    """

    folder: str
    label: str
    spec: str
    digest: str
    call: str
    note: str
    digest_version: int = 1

    @property
    def name(self) -> str:
        """The folder's name without the digest: `BenchEntry.file_name`."""
        return self.folder.rpartition("-")[0] or self.folder


@dataclass
class Manifest:
    """What the pictures of a folder are.

    Attributes:
        settings: what they are made with: name of the pipeline, digest of the prompts, `Settings.content`.
        pipeline: name, class, kind ("image" or "video"), digest of its components, and the steps and guidance
            that it runs with.
        prompts: in order.
        methods: the uncached pipeline, then the methods in the order in which they were asked for.
        machine, versions: where and with what the folder was begun.
        notes: what a reader has to know.
    """

    settings: dict[str, Any]
    pipeline: dict[str, Any]
    prompts: list[str]
    methods: list[Entry] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=machine)
    versions: dict[str, str] = field(default_factory=versions)
    notes: list[str] = field(default_factory=list)

    @staticmethod
    def read(folder: Path) -> Manifest:
        """Read a folder's manifest.

        Raises:
            DcacheError: there is none, or another release wrote it.
        """
        path = folder / FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DcacheError(
                f"{folder} holds no evaluation: cannot read {FILE} ({error.strerror}). The generate stage "
                "writes it."
            ) from None
        except ValueError as error:
            raise DcacheError(f"{path} is damaged ({error}): begin anew in another folder (--out)") from None
        content = content if isinstance(content, dict) else {}
        written = content.pop("format", ""), content.pop("version", 0)
        if written not in [(FORMAT, version) for version in READABLE]:
            raise DcacheError(
                f"{path} was not written by this release of dcache: expected {FORMAT} of version "
                f"{' or '.join(map(str, READABLE))}, got {written}"
            )
        return Manifest(**content | {"methods": [Entry(**entry) for entry in content["methods"]]})

    @staticmethod
    def of(
        folder: Path, asked: Mapping[str, Any], pipeline: Mapping[str, Any], prompts: Sequence[str]
    ) -> Manifest:
        """The manifest that is in the folder, or a new one, not written yet.

        Args:
            folder: of the evaluation.
            asked: settings, with name of the pipeline and digest of the prompts.
            pipeline: what is known of it.
            prompts: in order.

        Raises:
            DcacheError: the folder was made with other settings.
        """
        if not (folder / FILE).exists():
            return Manifest(dict(asked), dict(pipeline), list(prompts))
        found = Manifest.read(folder)
        found.refuse_other(asked, folder)
        here, given = (one.get("digest") for one in (found.pipeline, pipeline))
        if here != given:
            raise DcacheError(
                f"{folder} holds pictures of another {pipeline.get('class')}: the digest of its components "
                f"is {here}, of those asked for {given} (other weights, a LoRA, another sampler). Ask for "
                "the same, or give another folder (--out)."
            )
        now, then = machine() | versions(), found.machine | found.versions
        other = {name: now.get(name) for name in DECISIVE if now.get(name) != then.get(name)}
        if other:
            what = ", ".join(f"{name} {value}" for name, value in other.items())
            note = f"continued with {what}: pictures and seconds are not all of one kind"
            found.notes += [note] if note not in found.notes else []
        return found

    def write(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        write_json(folder / FILE, {"format": FORMAT, "version": VERSION, **asdict(self)})

    def add(self, contestants: Iterable[BenchEntry]) -> None:
        """Add the uncached pipeline and these methods where they are not there yet."""
        for one in (UNCACHED, *contestants):
            if self.find(one) is None:
                taken = one.label in (entry.label for entry in self.methods)
                # A schedule file that was changed is another method with the same label.
                label = f"{one.label} {one.digest[:4]}" if taken else one.label
                name = one.file_name
                folder = name if one == UNCACHED else f"{name}-{one.digest[:8]}"
                entry = Entry(folder, label, one.spec, one.digest, one.call, one.note, digest.VERSION)
                self.methods.append(entry)

    def find(self, contestant: BenchEntry) -> Entry | None:
        """The entry of a contestant, None where it has none yet."""
        for entry in self.methods:
            alike = contestant == UNCACHED or entry.digest == contestant.digest
            if alike and entry.name == contestant.file_name:
                return entry
        return None

    def refuse_other(self, asked: Mapping[str, Any], folder: Path) -> None:
        """Refuse settings that differ from these.

        Args:
            asked: some or all settings.
            folder: where these are from.

        Raises:
            DcacheError: with a line for each that differs.
        """
        if found := differences(self.settings, asked):
            raise DcacheError(
                "\n  ".join([f"{folder} holds an evaluation with other settings:", *found])
                + "\nAsk for the same, or give another folder (--out)."
            )

    def items(self) -> list[Item]:
        """All pictures of one method, one prompt after the other."""
        each, seed = self.settings["images_per_prompt"], self.settings["seed"]
        return [
            Item(i, i // each, self.prompts[i // each], seed + i) for i in range(len(self.prompts) * each)
        ]
