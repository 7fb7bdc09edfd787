"""The name of dcache on package indexes, and the command that installs it."""

from __future__ import annotations

# The package and the command are `dcache`; on package indexes that name belongs to another project.
DISTRIBUTION = "dcache-torch"


def install_line(*extras: str) -> str:
    """The pip command that installs dcache with these extras.

    >>> install_line("demo", "eval")
    "pip install 'dcache-torch[demo,eval]'"
    """
    return f"pip install '{DISTRIBUTION}[{','.join(extras)}]'" if extras else f"pip install {DISTRIBUTION}"
