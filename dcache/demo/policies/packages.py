"""The simulators' packages, which are in the extra `policy`."""

from __future__ import annotations

from dcache.errors import DcacheError
from dcache.eval.packages import missing
from dcache.util.distribution import install_line

# Module -> package.
PACKAGES = {
    "gym_pusht": "gym-pusht",
    "pymunk": "pymunk<7",
    "metaworld": "metaworld",
    "mujoco": "mujoco==3.3.0",
}


def require_simulator(*modules: str) -> None:
    """Check that a simulator's packages are installed.

    Args:
        *modules: modules in `PACKAGES`.

    Raises:
        DcacheError: some are missing; the message has the line that installs them.
    """
    absent = missing({module: PACKAGES[module] for module in modules})
    if absent:
        raise DcacheError(
            f"the simulator needs {', '.join(absent)}: {install_line('policy')}. `dcache policy demo` "
            "runs without a simulator"
        )
