"""`Profile`: statistics of full runs of one denoiser, as tables without the features themselves.

`dcache.search.observe` makes one, `dcache.schedulers.planners` turn it into schedules. The file is
safetensors: float64 tables, and everything else as JSON in its header. Nothing in it is executed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dcache.errors import DcacheError
from dcache.profile import file
from dcache.profile.latencies import Latencies
from dcache.profile.tables import FRAMES, FeatureTables, Floats, check_segments
from dcache.sites.names import SITE_NAME, default_codec, kinds_of
from dcache.util import hub
from dcache.util.checks import is_whole

HUB_FILE = "dcache.profile.safetensors"


@dataclass(frozen=True)
class Profile:
    """Statistics of full runs of one denoiser. All arrays are float64.

    Attributes:
        steps: T, evaluations of a run.
        sites: site -> branch -> frame -> tables. Sites may lie inside one another; branches are named as
            in `Schedule`.
        latencies: measured seconds, None if nothing was timed.
        prompts: number of pictures over which the tables are means.
        sketch: relative standard error of `gram` for vectors of equal length, 0 if features were stored
            completely.
        ratios: (T,), MagCache's ratios: mean over tokens of |d_t| / |d_{t-1}| of the trunk's delta; the first
            is 1.
        input_output_changes: (N, 2), TeaCache's pairs: relative L1 change from one evaluation to the next of
            the first block's attention input, and of the trunk's delta.
        importance: (len(important), T), mean squared error of the final pictures if that site alone is
            predicted (by reuse) in that evaluation alone; NaN if it was not measured.
        important: the sites of the rows of `importance`.
        attention: block -> share of the foreground's tokens that its attention prefers (ProfilingDiT's R).
        removal: block -> mean squared change of the denoiser's output without it in the last evaluation.
        segments: (T, L), `[i, n - 1]`: mean absolute error of the final pictures if the n evaluations after i
            alone are predicted, by reuse of i at `whole_site` (LeMiCa's edges); NaN beyond the run.
        model: class name of the denoiser.
        config: digest of its config.
        component: its name in the pipeline.
        sampler: class name of the sampler.
        resolution: sizes of the pictures.
        guidance: guidance scale, None if unknown.
        sigmas: noise levels of the evaluations, and the final one; () if unknown.
        made: machine, versions and options of the observation, free form.
    """

    steps: int
    sites: Mapping[str, Mapping[str, Mapping[str, FeatureTables]]]
    latencies: Latencies | None = None
    prompts: int = 1
    sketch: float = 0.0
    ratios: Floats | None = None
    input_output_changes: Floats | None = None
    importance: Floats | None = None
    important: tuple[str, ...] = ()
    attention: Mapping[str, float] = field(default_factory=dict)
    removal: Mapping[str, float] = field(default_factory=dict)
    segments: Floats | None = None
    model: str = ""
    config: str = ""
    component: str = ""
    sampler: str = ""
    resolution: tuple[int, ...] = ()
    guidance: float | None = None
    sigmas: tuple[float, ...] = ()
    made: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check names, shapes and numbers.

        Raises:
            DcacheError: a name, shape or number is not valid, or a table has NaN.
        """
        if not is_whole(self.steps) or self.steps < 1:
            raise DcacheError(f"a profile needs a whole number of at least 1 evaluations, got {self.steps!r}")
        if not self.sites:
            raise DcacheError("a profile needs at least one site")
        shares = (*self.attention.values(), *self.removal.values())
        numbers = [*self.sigmas, *shares, self.guidance or 0.0]
        if self.prompts < 1 or not 0 <= self.sketch < 10 or not np.isfinite(numbers).all():
            raise DcacheError(
                "a profile needs a prompt, a sketch's error from 0 to below 10, and finite noise levels, "
                "attention shares, removal errors and guidance"
            )
        for site, branches in self.sites.items():
            if SITE_NAME.fullmatch(site) is None or not branches:
                raise DcacheError(f"the profile's site {site!r} is no site's name, or has no branch")
            for branch, frames in branches.items():
                for frame, tables in frames.items():
                    self._check(f"{frame} of {site!r} on branch {branch!r}", frame, tables)
        for name, table in (("ratios", self.ratios), ("changes", self.input_output_changes)):
            if table is not None and not np.isfinite(table).all():
                raise DcacheError(f"the profile's {name} are not all finite numbers: observe again")
        if self.ratios is not None and self.ratios.shape != (self.steps,):
            raise DcacheError(f"the profile has {self.ratios.shape} ratios, expected ({self.steps},)")
        if self.input_output_changes is not None and (
            self.input_output_changes.ndim != 2 or self.input_output_changes.shape[1] != 2
        ):
            raise DcacheError(
                f"the profile's changes have the shape {self.input_output_changes.shape}, expected (N, 2)"
            )
        expected = (len(self.important), self.steps)
        if self.importance is not None and self.importance.shape != expected:
            raise DcacheError(f"the profile's importance is {self.importance.shape}, expected {expected}")
        check_segments(self.segments, self.steps)

    def tables(self, site: str, frame: str | None = None) -> FeatureTables:
        """The tables of a site, the mean over its branches.

        Args:
            site: the site's name.
            frame: `value` or `delta`; None for the frame of the site's default codec.

        Raises:
            DcacheError: the site or the frame was not observed.
        """
        branches = self.sites.get(site)
        if branches is None:
            raise DcacheError(
                f"the profile has no site {site!r}: it has {', '.join(self.sites)}. Observe it: dcache "
                f"calibrate PIPE --sites {site} --out profile.safetensors"
            )
        frames = next(iter(branches.values()))
        chosen = frame or _default_frame(site, frames)
        observed = [frames_of[chosen] for frames_of in branches.values() if chosen in frames_of]
        if len(observed) < len(branches):
            raise DcacheError(f"the profile has no {chosen!r} of site {site!r}: it has {', '.join(frames)}")
        total = observed[0]
        for tables in observed[1:]:
            total = total + tables
        return total.scaled(1.0 / len(observed))

    def of_kind(self, *kinds: str) -> tuple[str, ...]:
        """The sites of these kinds (`attn`, `mlp`, `block`, `trunk`), in the profile's order."""
        return tuple(site for site in self.sites if site.partition(":")[0].partition(".")[0] in kinds)

    @property
    def whole_site(self) -> str:
        """The largest observed site: the trunk, else a UNet's outermost bracket, else the model.

        Raises:
            DcacheError: none of them was observed.
        """
        for site in ("trunk", "bracket:0", "model"):
            if site in self.sites:
                return site
        raise DcacheError(
            f"the profile has neither trunk, bracket:0 nor model: it has {', '.join(self.sites)}"
        )

    def merged(self, others: Iterable[Profile]) -> Profile:
        """The profile of the runs of several profiles: means weighted by the number of pictures.

        Latencies, importance, attention, removal and segments are those of this profile.

        Raises:
            DcacheError: the profiles differ in model, steps or sites.
        """
        profiles = [self, *others]
        for other in profiles[1:]:
            for name in ("steps", "model", "config", "component", "sampler", "guidance", "resolution"):
                a, b = getattr(self, name), getattr(other, name)
                if a != b:
                    raise DcacheError(f"profiles of different {name} cannot be merged: {a!r} and {b!r}")
        prompts = sum(profile.prompts for profile in profiles)
        shares = [profile.prompts / prompts for profile in profiles]

        def mean(tables: Sequence[FeatureTables]) -> FeatureTables:
            parts = [table.scaled(share) for table, share in zip(tables, shares, strict=True)]
            total = parts[0]
            for part in parts[1:]:
                total = total + part
            return total

        try:
            sites = {
                site: {
                    branch: {
                        frame: mean([profile.sites[site][branch][frame] for profile in profiles])
                        for frame in frames
                    }
                    for branch, frames in branches.items()
                }
                for site, branches in self.sites.items()
            }
        except KeyError as error:
            raise DcacheError(
                f"profiles with different sites or branches cannot be merged: {error}"
            ) from None
        ratios = [p.ratios for p in profiles if p.ratios is not None]
        changes = [p.input_output_changes for p in profiles if p.input_output_changes is not None]
        mean_ratios = np.asarray(sum(r * share for r, share in zip(ratios, shares, strict=False)), np.float64)
        return replace(
            self,
            sites=sites,
            prompts=prompts,
            # The sketch errors of different runs are independent.
            sketch=sum((share * p.sketch) ** 2 for p, share in zip(profiles, shares, strict=True)) ** 0.5,
            ratios=mean_ratios if len(ratios) == len(profiles) else None,
            input_output_changes=np.concatenate(changes) if changes else None,
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the file atomically; returns its path.

        Raises:
            DcacheError: the file cannot be written.
        """
        return file.write(vars(self), path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Profile:
        """Read and check a file.

        Raises:
            DcacheError: the file does not exist, is damaged, or is not a profile.
        """
        return file.read(path, Profile)

    def push_to_hub(self, repository: str, private: bool | None = None, token: str | None = None) -> str:
        """Upload it to "owner/name" of Hugging Face's hub; returns the address.

        Raises:
            DcacheError: the hub cannot be reached, or refuses.
        """
        header = "---\nlibrary_name: dcache\ntags: [dcache, diffusion, profile]\n---\n"
        facts = {"evaluations": self.steps, "pictures": self.prompts, "sites": ", ".join(self.sites)}
        facts |= {"model": self.model, "sampler": self.sampler, "guidance": self.guidance}
        lines = "\n".join(f"| {name} | {value} |" for name, value in facts.items() if value not in ("", None))
        text = f"{header}# {hub.place_of(repository)[0]}\n\n| | |\n|---|---|\n{lines}\n"

        def fill(folder: Path) -> None:
            self.save(folder / HUB_FILE)
            (folder / "README.md").write_text(text, encoding="utf-8")

        return hub.push(repository, fill, message="Profile of dcache", private=private, token=token)

    @staticmethod
    def from_hub(repository: str, token: str | None = None) -> Profile:
        """Download it from "owner/name" or "owner/name@revision", and check it; no code is run.

        Raises:
            DcacheError: the hub cannot be reached, or the repository has no profile.
        """
        path = hub.pull(repository, (HUB_FILE,), token) / HUB_FILE
        if not path.exists():
            raise DcacheError(f"{repository} on the hub has no {HUB_FILE}, so it is no profile of dcache")
        return Profile.load(path)

    def _check(self, name: str, frame: str, tables: FeatureTables) -> None:
        if frame not in FRAMES:
            raise DcacheError(f"the profile's {name}: expected one of {', '.join(FRAMES)}")
        square = (self.steps, self.steps)
        shapes = (tables.gram.shape, tables.distance.shape, tables.size.shape)
        if shapes != (square, square, (self.steps,)):
            raise DcacheError(
                f"the profile's tables of {name} have the shapes {shapes}, expected "
                f"{(square, square, (self.steps,))}"
            )
        for part in (tables.gram, tables.distance, tables.size):
            if not np.isfinite(part).all():
                raise DcacheError(
                    f"the profile's tables of {name} hold NaN or infinity: the observed run was broken. "
                    "Observe again, in float32 if it was in a narrow dtype"
                )


def _default_frame(site: str, observed: Iterable[str]) -> str:
    """The frame of a site's default codec.

    A bracket is either a UNet's, which is observed without `delta`, or a run of blocks, which is observed
    with it.
    """
    may_be_delta = any(default_codec(kind) == "delta" for kind in kinds_of(site))
    return "delta" if may_be_delta and "delta" in observed else "value"
