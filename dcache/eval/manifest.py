"""The manifest of an evaluation folder, `run.json`: settings, prompts, methods, machine."""

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
# In version 1, entries have no `digest_version`.
READABLE = (1, VERSION)
# Facts of machine and versions that seconds and the last bits of pictures depend on.
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
        """Name of the picture file, from prompt and seed."""
        return f"{hashlib.sha256(self.prompt.encode()).hexdigest()[:8]}-{self.seed}.png"


@dataclass(frozen=True)
class Entry:
    """One method of the folder. Fields that are not listed are those of `dcache.eval.entries.BenchEntry`.

    Attributes:
        folder: name of its subfolders, from label and digest.
        digest_version: the `dcache.eval.digest.VERSION` of its digest.
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
    """Description of the pictures in a folder.

    Attributes:
        settings: name of the pipeline, digest of the prompts, and `Settings.content`.
        pipeline: name, class, kind ("image" or "video") and digest of the pipeline, its steps and guidance.
        prompts: the prompts, in order.
        methods: the uncached pipeline, then the methods in the order they were added.
        machine, versions: machine and package versions of the run that started the folder.
        notes: remarks for readers of the report.
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
            DcacheError: there is none, it is damaged, or another release wrote it.
        """
        path = folder / FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DcacheError(
                f"{folder} holds no evaluation: cannot read {FILE} ({error.strerror}). Run the generate "
                "stage first."
            ) from None
        except ValueError as error:
            raise DcacheError(f"{path} is damaged ({error}): start again in another folder (--out)") from None
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
        folder: Path, settings: Mapping[str, Any], pipeline: Mapping[str, Any], prompts: Sequence[str]
    ) -> Manifest:
        """The manifest of the folder, or a new one, which is not written yet.

        Args:
            folder: folder of the evaluation.
            settings: as the attribute.
            pipeline: as the attribute.
            prompts: as the attribute.

        Raises:
            DcacheError: the folder was made with other settings.
        """
        if not (folder / FILE).exists():
            return Manifest(dict(settings), dict(pipeline), list(prompts))
        manifest = Manifest.read(folder)
        manifest.refuse_other(settings, folder)
        expected, given = manifest.pipeline.get("digest"), pipeline.get("digest")
        if expected != given:
            raise DcacheError(
                f"{folder} holds pictures of another {pipeline.get('class')}: expected components with "
                f"digest {expected}, got {given} (other weights, a LoRA or another sampler). Use the same "
                "pipeline, or choose another folder (--out)."
            )
        now, then = machine() | versions(), manifest.machine | manifest.versions
        other = {name: now.get(name) for name in DECISIVE if now.get(name) != then.get(name)}
        if other:
            what = ", ".join(f"{name} {value}" for name, value in other.items())
            note = f"continued with {what}: pictures and seconds are not all comparable"
            manifest.notes += [note] if note not in manifest.notes else []
        return manifest

    def write(self, folder: Path) -> None:
        """Write the manifest, atomically."""
        write_json(folder / FILE, {"format": FORMAT, "version": VERSION, **asdict(self)})

    def add(self, contestants: Iterable[BenchEntry]) -> None:
        """Add the uncached pipeline and these methods, if they are missing."""
        for contestant in (UNCACHED, *contestants):
            if self.find(contestant) is None:
                taken = contestant.label in (entry.label for entry in self.methods)
                # A schedule file that was changed is another method with the same label.
                label = f"{contestant.label} {contestant.digest[:4]}" if taken else contestant.label
                name = contestant.file_name
                folder = name if contestant == UNCACHED else f"{name}-{contestant.digest[:8]}"
                entry = Entry(
                    folder,
                    label,
                    contestant.spec,
                    contestant.digest,
                    contestant.call,
                    contestant.note,
                    digest.VERSION,
                )
                self.methods.append(entry)

    def find(self, contestant: BenchEntry) -> Entry | None:
        """The entry of a method; None if there is none."""
        for entry in self.methods:
            alike = contestant == UNCACHED or entry.digest == contestant.digest
            if alike and entry.name == contestant.file_name:
                return entry
        return None

    def refuse_other(self, settings: Mapping[str, Any], folder: Path) -> None:
        """Raise an error if settings differ from the manifest's.

        Args:
            settings: some or all settings.
            folder: folder of the manifest, for the message.

        Raises:
            DcacheError: has a line for each setting that differs.
        """
        if lines := differences(self.settings, settings):
            raise DcacheError(
                "\n  ".join([f"{folder} holds an evaluation with other settings:", *lines])
                + "\nUse the same settings, or choose another folder (--out)."
            )

    def items(self) -> list[Item]:
        """All pictures of one method, prompt by prompt."""
        each, seed = self.settings["images_per_prompt"], self.settings["seed"]
        return [
            Item(i, i // each, self.prompts[i // each], seed + i) for i in range(len(self.prompts) * each)
        ]
