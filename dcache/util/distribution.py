"""The names of dcache and of its demo models on package indexes, and the commands that install them."""

from __future__ import annotations

from dcache.errors import DcacheError

# The package and the command are `dcache`; on package indexes that name belongs to another project.
DISTRIBUTION = "dcache-torch"
DEMO_DISTRIBUTION = "dcache-demo"


def needs_transformers(error: ImportError) -> DcacheError:
    """The error of whoever imports a part of lm_kv without transformers, or with one that is too old."""
    return DcacheError(f"lm_kv needs a newer transformers ({error}): {install_line('lm_kv')}")


def install_line(*extras: str) -> str:
    """The pip command that installs dcache with these extras.

    >>> install_line("demo", "eval")
    "pip install 'dcache-torch[demo,eval]'"
    """
    return f"pip install '{DISTRIBUTION}[{','.join(extras)}]'" if extras else f"pip install {DISTRIBUTION}"
