"""Whatever needs a package of an extra names the extra where the package is missing, before the work."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# Package, as pip names it -> its module, where the names differ.
MODULES = {
    "faiss-cpu": "faiss",
    "gym-pusht": "gym_pusht",
    "open-clip-torch": "open_clip",
    "pillow": "PIL",
    "torch-fidelity": "torch_fidelity",
}
EVAL = "eval demo --prompts demo:2 --device cpu --metrics"
SEARCH = "search demo --prompts demo:4 --profile x.safetensors"
# One setting that is not planned from a profile.
POLICY = "policy bench --episodes 1 --at-once 1 --settings ddpm:100 --task"
# Extra -> package -> what needs it: a line of the command, or Python after `>>> `.
NEEDS = {
    "demo": {
        "accelerate": "demo --video",
        "transformers": "demo",
        "matplotlib": "demo",
        "pillow": "demo",
        "torchmetrics": "demo",
    },
    "eval": {
        "filelock": f"{EVAL} psnr",
        "jinja2": f"{EVAL} psnr",
        "matplotlib": f"{EVAL} psnr",
        "open-clip-torch": f"{EVAL} clip",
        "pillow": f"{EVAL} psnr",
        "torch-fidelity": f"{EVAL} fid",
        "torchmetrics": f"{EVAL} ssim",
        "torchvision": f"{EVAL} lpips",
    },
    "search": {
        "deap": f"{SEARCH} --strategy nsga2",
        "filelock": SEARCH,
        "jinja2": SEARCH,
        "matplotlib": SEARCH,
    },
    "kernels": {
        "triton": ">>> from dcache.kernels import launch; launch.mode = 'on'; "
        "launch.possible(torch.device('cpu'))"
    },
    "ann": {"faiss-cpu": ">>> from dcache.lm_kv.scoring import nearest_keys; nearest_keys.library()"},
    "cachegen": {
        "constriction": ">>> from dcache.lm_kv.codecs import range_coding; "
        "range_coding.encode([torch.zeros(2, dtype=torch.long)], 2)"
    },
    "lm_kv": {"transformers": "lm bench random"},
    "lm_eval": {"jinja2": "lm eval recall", "matplotlib": "dlm demo"},
    "bench": {
        "accelerate": ">>> from dcache.eval.processes import join; os.environ['WORLD_SIZE'] = '2'; "
        "join('cpu')",
        "matplotlib": "bench demo",
        "torchmetrics": "bench demo",
    },
    "studio": {
        "pillow": "studio",
        "starlette": "studio",
        "torchmetrics": "studio",
        "uvicorn": "studio",
    },
    "policy": {
        "gym-pusht": f"{POLICY} pusht",
        "metaworld": f"{POLICY} drawer-open",
        "mujoco": f"{POLICY} drawer-open",
        "pillow": f"{POLICY} pusht --gif x.gif",
        "pymunk": f"{POLICY} pusht",
    },
}
# Python that needs an extra, beside the commands.
ALSO = {
    "lm_kv": {
        "transformers": [
            ">>> from dcache.lm_kv import KVCache",
            ">>> dcache.lm_kv.head_pattern",
        ]
    },
    "bench": {
        "matplotlib": [
            "show good.json --png x.png",
            ">>> from dcache.lm_kv import CacheReport; CacheReport.__new__(CacheReport).plot('x.png')",
        ]
    },
}
CASES = [
    (extra, package, line)
    for extra, packages in NEEDS.items()
    for package, line in packages.items()
    for line in [line, *ALSO.get(extra, {}).get(package, [])]
]

# Runs each case with one module hidden from the finders, as if it were not installed; prints the last line
# that the user sees. A module that was imported before is forgotten with those below it.
DRIVER = """
import contextlib, io, json, os, sys
import torch
import dcache
from dcache.cli import main
from dcache.schedule import Schedule

class Finders:
    hidden = ()
    def __init__(self, finders):
        self.finders = finders
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.hidden:
            return None
        specs = (finder.find_spec(name, path, target) for finder in self.finders)
        return next((spec for spec in specs if spec is not None), None)
    def find_distributions(self, *context):
        for finder in self.finders:
            yield from getattr(finder, "find_distributions", lambda *_: ())(*context)

finders = Finders(list(sys.meta_path))
sys.meta_path[:] = [finders]
Schedule.of_steps([0, 1, 4], 6).save("good.json")

def message(line):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            if line.startswith(">>> "):
                exec(line[4:])
            else:
                main(line.split())
        except SystemExit:
            pass
        except dcache.DcacheError as error:
            errors.write(str(error))
    return errors.getvalue().strip().splitlines()[-1:]

result = []
for module, line in json.loads(sys.stdin.read()):
    gone = {n: m for n, m in sys.modules.items() if n.partition(".")[0] == module}
    # Parts that import transformers at their top would keep what they imported.
    parts = ("dcache.lm_kv.cache", "dcache.lm_kv.model", "dcache.lm_kv.calibrating")
    gone |= {n: m for n, m in sys.modules.items() if n.startswith(parts) and module == "transformers"}
    for name in gone:
        del sys.modules[name]
    Finders.hidden = (module,)
    result.append(message(line))
    Finders.hidden = ()
    sys.modules.update(gone)
    os.environ.pop("WORLD_SIZE", None)
    sys.modules["dcache.kernels.launch"].mode = "auto"
print(json.dumps(result))
"""


def packages_of(extra: str) -> set[str]:
    """What an extra installs, without further extras of dcache."""
    names = {re.split(r"[<>=;\[ ]", text)[0] for text in PROJECT["optional-dependencies"][extra]}
    return names - {PROJECT["name"]}


def test_every_package_of_every_extra_is_here() -> None:
    # What builds and tests dcache is no part of it.
    extras = set(PROJECT["optional-dependencies"]) - {"dev", "docs"}
    assert {extra: set(packages) for extra, packages in NEEDS.items()} == {
        extra: packages_of(extra) for extra in extras
    }


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], list[str]]:
    """Case -> the last line that the user sees; all cases in one interpreter."""
    cases = [(MODULES.get(package, package), line) for _, package, line in CASES]
    run = subprocess.run(
        [sys.executable, "-P", "-c", DRIVER],
        cwd=tmp_path_factory.mktemp("here"),
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return dict(zip(CASES, json.loads(run.stdout.splitlines()[-1]), strict=True))


@pytest.mark.slow
@pytest.mark.timeout(600)  # all cases are run for the first of them
@pytest.mark.parametrize(
    ("extra", "package", "line"),
    CASES,
    ids=[f"{extra}-{package}-{i}" for i, (extra, package, _) in enumerate(CASES)],
)
def test_a_missing_package_is_named_with_its_extra(
    extra: str, package: str, line: str, messages: dict[tuple[str, str, str], list[str]]
) -> None:
    (message,) = messages[extra, package, line]
    assert f"pip install 'dcache-torch[{extra}]'" in message
    assert package in message.lower()
