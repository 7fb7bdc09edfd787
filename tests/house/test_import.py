"""`import dcache` is light and changes nothing."""

import json
import subprocess
import sys
from typing import Any

# Prints the modules that a statement loads once torch is there. Without numpy torch works too.
LOADED = """
import json, sys
sys.modules["numpy"] = None
import torch
before = set(sys.modules)
{statement}
print(json.dumps({{"loaded": sorted(set(sys.modules) - before)}}))
"""

# Prints which settings, functions, classes and class attributes are different objects after the import.
COMPARE = """
import json, logging, os, sys, types, warnings
import torch, torch._dynamo, numpy, transformers
from diffusers import FlowMatchEulerDiscreteScheduler, PixArtAlphaPipeline, UNet2DConditionModel

LIBRARIES = ("torch", "diffusers", "transformers", "numpy")

def plain(namespace):
    # Submodules appear as attributes of their package when anybody imports them: no change of behaviour.
    return {k: v for k, v in vars(namespace).items() if not isinstance(v, types.ModuleType)}

def attributes():
    found = {}
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] not in LIBRARIES or not isinstance(module, types.ModuleType):
            continue
        for key, value in plain(module).items():
            found[f"{name}:{key}"] = value
            if isinstance(value, type) and value.__module__ == name:
                found |= {f"{name}:{key}.{k}": v for k, v in plain(value).items()}
    return found

def settings():
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "gradients": torch.is_grad_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "random state": torch.get_rng_state().tolist(),
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
        "handlers": list(logging.getLogger().handlers),
        "finders": list(sys.meta_path),
        "path": list(sys.path),
        "hooks": (sys.excepthook, sys.displayhook),
        "module hooks": [len(v) for k, v in sorted(vars(torch.nn.modules.module).items())
                         if k.startswith("_global_") and hasattr(v, "__len__")],
    }

before, fixed = attributes(), settings()
import dcache
after = attributes()
seen = {key.partition(":")[0] for key in before}
changed = [key for key, value in before.items() if key not in after or after[key] is not value]
changed += [key for key in after.keys() - before.keys() if key.partition(":")[0] in seen]
changed += [key for key, value in settings().items() if value != fixed[key]]
print(json.dumps({"compared": len(before), "changed": sorted(changed)}))
"""

HEAVY = {"numpy", "accelerate", "deap", "diffusers", "matplotlib", "torchmetrics", "transformers", "triton"}


def fresh(script: str) -> dict[str, Any]:
    """Run a script in a new interpreter and read the one line of JSON that it prints."""
    run = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def loaded_by(statement: str) -> set[str]:
    return set(fresh(LOADED.format(statement=statement))["loaded"])


def test_import_is_light() -> None:
    loaded = loaded_by("import dcache")
    assert "dcache" in loaded
    assert not {name.partition(".")[0] for name in loaded} & HEAVY
    assert {name for name in loaded if name.startswith("dcache.methods.")} == {
        "dcache.methods.language_models",
        "dcache.methods.preset",
        "dcache.methods.registry",
        "dcache.methods.replay",
        "dcache.methods.resolve",
    }
    unused = (
        "profile",
        "schedulers.planners",
        "lm_kv",
        "diffusion_lm",
        "importers",
        "search",
        "eval",
        "demo",
        "cli",
    )
    assert not [name for name in loaded if name.startswith(tuple(f"dcache.{room}" for room in unused))]
    # Every module of dcache and what it needs of the standard library.
    assert len(loaded) < 150


def test_a_preset_loads_no_other() -> None:
    loaded = loaded_by("import dcache; dcache.methods.interval()")
    assert loaded - loaded_by("import dcache") == {"dcache.methods.interval"}


def test_import_changes_nothing() -> None:
    result = fresh(COMPARE)
    assert result["compared"] > 10_000
    assert result["changed"] == []
