"""Checks dcache on lerobot's own classes, with small random weights: no hub, no GPU.

    pip install --no-deps --target LIB lerobot==0.4.4 draccus mergedeep pyyaml-include typing-inspect \
        jsonlines einops datasets pyarrow multiprocess dill xxhash pandas pytz six termcolor imageio av \
        pyserial torchdiffeq num2words docopt deepdiff orderly-set gymnasium farama-notifications \
        cloudpickle opencv-python-headless
    python examples/diffusion_policy/check_lerobot.py --lerobot LIB

For each class it prints its sites, and whether the all-computed chunk is the uncached one bit by bit, an
interval of 3 computes a third of the evaluations, and no chunk depends on the one before it.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import dcache
from dcache import DcacheError, methods

STEPS = 10


@dataclass
class Case:
    """One class.

    Attributes:
        name: the class.
        target: what caching is enabled on.
        chunk: makes a chunk; the same number, the same noise and observation.
        sites: sites beside "model" that it must have.
    """

    name: str
    target: nn.Module
    chunk: Callable[[int], torch.Tensor]
    sites: tuple[str, ...]


def import_lerobot(folder: Path | None = None) -> None:
    """Make lerobot's policies importable one by one.

    Its package of policies imports all of them, and GR00T's configuration fails under newer transformers.
    """
    if folder is not None:
        # At the end: what is installed comes first.
        sys.path.append(str(folder))
    lerobot = importlib.import_module("lerobot")
    root = Path(lerobot.__file__ or "").parent
    for name in ("policies", "policies.groot"):
        package = types.ModuleType(f"lerobot.{name}")
        package.__path__ = [str(root.joinpath(*name.split(".")))]
        sys.modules.setdefault(f"lerobot.{name}", package)


def seeded(seed: int, *shape: int) -> torch.Tensor:
    """Noise of a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def diffusion_policy(sampler: str) -> Case:
    """The 1-D UNet behind `select_action`."""
    types_ = importlib.import_module("lerobot.configs.types")
    config = importlib.import_module("lerobot.policies.diffusion.configuration_diffusion")
    modeling = importlib.import_module("lerobot.policies.diffusion.modeling_diffusion")
    feature, kinds = types_.PolicyFeature, types_.FeatureType
    policy = modeling.DiffusionPolicy(
        config.DiffusionConfig(
            input_features={
                "observation.state": feature(type=kinds.STATE, shape=(4,)),
                "observation.environment_state": feature(type=kinds.ENV, shape=(3,)),
            },
            output_features={"action": feature(type=kinds.ACTION, shape=(2,))},
            down_dims=(16, 32, 64),
            diffusion_step_embed_dim=16,
            n_groups=4,
            noise_scheduler_type=sampler,
            num_inference_steps=STEPS,
            device="cpu",
        )
    ).eval()

    def chunk(i: int) -> torch.Tensor:
        policy.reset()
        torch.manual_seed(i)
        seen = {
            "observation.state": seeded(i, 1, 4),
            "observation.environment_state": seeded(i + 100, 1, 3),
        }
        return torch.stack([policy.select_action(dict(seen)) for _ in range(policy.config.n_action_steps)])

    return Case(f"DiffusionPolicy, {sampler}", policy, chunk, ("bracket:0", "bracket:1"))


@torch.no_grad()
def flow(
    denoise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], seed: int, *shape: int
) -> torch.Tensor:
    """An Euler loop from 1 to 0."""
    x = seeded(seed, *shape)
    for i in range(STEPS, 0, -1):
        x = x - denoise(x, torch.full((len(x),), i / STEPS)) / STEPS
    return x


def xvla() -> Case:
    """X-VLA's transformer, in a loop like its own."""
    modeling = importlib.import_module("lerobot.policies.xvla.soft_transformer")
    net = modeling.SoftPromptedTransformer(
        hidden_size=32,
        multi_modal_input_size=16,
        depth=4,
        num_heads=2,
        num_domains=2,
        dim_action=4,
        dim_propio=3,
        len_soft_prompts=2,
        max_len_seq=64,
    ).eval()

    def chunk(i: int) -> torch.Tensor:
        seen = {
            "domain_id": torch.zeros(1, dtype=torch.long),
            "vlm_features": seeded(i, 1, 5, 16),
            "aux_visual_inputs": seeded(i + 1, 1, 3, 16),
            "proprio": seeded(i + 2, 1, 3),
        }
        return flow(lambda x, t: net(action_with_noise=x, t=t, **seen), i, 1, 8, 4)

    return Case("X-VLA SoftPromptedTransformer", net, chunk, ("trunk", "attn", "mlp"))


def groot() -> Case:
    """GR00T's DiT: attention on the observation and on itself in turns."""
    modeling = importlib.import_module("lerobot.policies.groot.action_head.cross_attention_dit")
    net = modeling.DiT(
        num_attention_heads=2,
        attention_head_dim=8,
        output_dim=16,
        num_layers=4,
        dropout=0.0,
        interleave_self_attention=True,
        cross_attention_dim=16,
    ).eval()

    def chunk(i: int) -> torch.Tensor:
        seen = seeded(i, 1, 6, 16)
        return flow(
            lambda x, t: net(hidden_states=x, encoder_hidden_states=seen, timestep=(1000 * t).long()),
            i,
            1,
            8,
            16,
        )

    return Case("GR00T DiT", net, chunk, ("trunk", "attn", "cross_attn", "mlp"))


def cases() -> Iterator[Case]:
    """All classes that can be made without a hub."""
    yield diffusion_policy("DDPM")
    yield diffusion_policy("DDIM")
    yield xvla()
    yield groot()


def check(case: Case) -> list[str]:
    """What is wrong with a class; empty where all is right."""
    wrong = []
    torch.manual_seed(0)
    plain = [case.chunk(i) for i in range(2)]
    for site in (*case.sites, "model"):
        dcache.enable(case.target, methods.interval(interval=1, sites=site))
        if not all(torch.equal(case.chunk(i), plain[i]) for i in range(2)):
            wrong.append(f"{site}: the all-computed chunk is not the uncached one")
        dcache.enable(case.target, "interval", interval=3, sites=site)
        first = case.chunk(0)
        stats = dcache.stats(case.target)
        if stats.steps != STEPS or stats.predicted == 0 or 3 * stats.computed != 2 * stats.predicted:
            wrong.append(f"{site}: {stats.computed} computed, {stats.predicted} predicted of {stats.steps}")
        case.chunk(1)
        if not torch.equal(case.chunk(0), first):
            wrong.append(f"{site}: a chunk depends on the one before it")
    dcache.disable(case.target)
    if not torch.equal(case.chunk(0), plain[0]):
        wrong.append("after disable the chunk is not the uncached one")
    return wrong


def refusals() -> Iterator[str]:
    """What is said of classes whose denoiser is a method: pi0's and SmolVLA's, without their weights."""
    for path, name in (("pi0.modeling_pi0", "PI0Pytorch"), ("smolvla.modeling_smolvla", "VLAFlowMatching")):
        kind = getattr(importlib.import_module(f"lerobot.policies.{path}"), name)
        module = kind.__new__(kind)
        nn.Module.__init__(module)
        try:
            dcache.enable(module, "interval", sites="model")
        except DcacheError as error:
            yield f"{name}: {error}"


def main() -> int:
    """Print one line for each class; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lerobot", type=Path, help="folder that lerobot is installed in")
    import_lerobot(parser.parse_args().lerobot)
    failed = 0
    for case in cases():
        wrong = check(case)
        failed += bool(wrong)
        print(f"{case.name}: {', '.join(case.sites)}, model: {'; '.join(wrong) or 'ok'}")
    for text in refusals():
        print(text)
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
