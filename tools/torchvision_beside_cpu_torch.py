"""Let `import torchvision` work in *this* environment when its wheel does not fit a CPU build of torch.

torchvision's registry wheel carries C++ operators built for the CUDA torch. Beside a CPU torch they do
not load, and `import torchvision` (so also transformers and diffusers, which look for it) raises
`operator torchvision::nms does not exist`. Declaring the schemas of the missing operators is enough for
everything that does not call them.

Run by `make setup` with the environment's own python. Where the plain import works nothing is written.
Otherwise a start-up hook goes into this environment's site-packages; it acts only when torchvision is
about to be imported. dcache itself never does this: a user's environment is the user's.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import sysconfig

HOOK = '''\
"""Written by dcache's `make setup`: declares torchvision's operators just before its import."""

import sys


class _DeclareOperators:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            self.library = torch.library.Library("torchvision", "DEF")
            for schema in (
                "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
                "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            ):
                self.library.define(schema)
            # The declarations live as long as this object does.
            sys.modules[__name__]._keep_alive = self
        return None


sys.meta_path.insert(0, _DeclareOperators())
'''


def import_failure() -> str:
    """Import torchvision in a fresh interpreter of this environment; return its error, or nothing."""
    run = subprocess.run(
        [sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False
    )
    return "" if run.returncode == 0 else run.stderr


def main() -> int:
    """Install the hook if the plain import fails; return 0 when torchvision can be imported afterwards."""
    if sys.prefix == sys.base_prefix:
        print("refused: run this with the python of a virtual environment, never with the machine's own")
        return 1
    if not import_failure():
        print("torchvision imports as it is: nothing to do")
        return 0
    site = pathlib.Path(sysconfig.get_paths()["purelib"])
    (site / "_dcache_torchvision_schemas.py").write_text(HOOK)
    (site / "_dcache_torchvision_schemas.pth").write_text("import _dcache_torchvision_schemas\n")
    failure = import_failure()
    if failure:
        print(f"torchvision still cannot be imported:\n{failure}")
        return 1
    print("torchvision: operator schemas declared for this environment")
    return 0


if __name__ == "__main__":
    sys.exit(main())
