"""Policies by name, for commands: the shipped ones, and objects of Python files."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dcache.demo.policies.open_loop import OBSERVATIONS
from dcache.demo.policies.policy import TASKS, ChunkPolicy, load_policy, shipped_folder
from dcache.demo.policies.sampling import Sampler
from dcache.errors import DcacheError
from dcache.policy.chunks import chunk_method

EXPECTED = f"expected {', '.join(TASKS)}, or FILE.py:NAME of a policy or of a function that makes one"


class ShippedPolicy:
    """A shipped policy with DDPM's 100 evaluations, whose noise is drawn from torch's generator.

    Args:
        policy: the policy.

    Attributes:
        denoiser: its network.
    """

    def __init__(self, policy: ChunkPolicy) -> None:
        self.policy, self.denoiser = policy, policy.network

    def predict_action_chunk(self, observation: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """A normalised chunk, (B, horizon, numbers of an action).

        Args:
            observation: "states", (B, 2, numbers of a state).
        """
        states = observation["states"]
        seeds = [int(torch.randint(1 << 31, ())) for _ in range(len(states))]
        return self.policy.chunks(states, seeds, Sampler())


def policy_named(text: str) -> Any:
    """A policy by what was typed.

    Args:
        text: a shipped task, or FILE.py:NAME.

    Raises:
        DcacheError: there is no such file or name, its code fails, or it is no policy.
    """
    if text in TASKS:
        return ShippedPolicy(load_policy(text))
    file, colon, name = text.rpartition(":")
    if not colon or not file.endswith(".py") or not name:
        raise DcacheError(f"{EXPECTED}, got {text!r}")
    if not Path(file).is_file():
        raise DcacheError(f"there is no file {file}: {EXPECTED}")
    policy = vars(_module(Path(file))).get(name)
    if policy is None:
        raise DcacheError(f"{file} defines no {name!r}: {EXPECTED}")
    policy = _called(text, policy) if _makes_one(policy) else policy
    chunk_method(policy)
    return policy


def shipped_observations(text: str) -> Path | None:
    """The file of observations that is shipped with a task; None for other policies."""
    return shipped_folder(text) / OBSERVATIONS if text in TASKS else None


def _module(path: Path) -> Any:
    """The module of a file, which may import its neighbours."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise DcacheError(f"{path} is no file of Python: {EXPECTED}")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.absolute()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise DcacheError(f"{path} cannot be imported ({type(error).__name__}: {error})") from error
    finally:
        sys.path.remove(str(path.parent.absolute()))
    return module


def _makes_one(value: Any) -> bool:
    """Whether this is a class or function that needs no arguments."""
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return False
    every = inspect.signature(value).parameters.values()
    return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in every)


def _called(text: str, make: Any) -> Any:
    try:
        return make()
    except Exception as error:
        raise DcacheError(f"{text} made no policy ({type(error).__name__}: {error})") from error
