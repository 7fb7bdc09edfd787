"""Where the files of the shipped models lie: in dcache-demo, which is installed beside dcache."""

from __future__ import annotations

from pathlib import Path

import dcache
from dcache.errors import DcacheError
from dcache.util.distribution import DEMO_DISTRIBUTION


def folder(name: str) -> Path:
    """A folder of dcache-demo.

    Args:
        name: "image", "video", "judges", "schedules", "recall", "texts" or "policies".

    Raises:
        DcacheError: dcache-demo is not installed, or is of another version than dcache.
    """
    try:
        import dcache_demo
    except ModuleNotFoundError as error:
        raise DcacheError(
            f"the shipped models are in a package of their own, which is not installed: pip install "
            f"{DEMO_DISTRIBUTION}"
        ) from error
    # Profiles, schedules and weights are read by code that may have changed since.
    if dcache_demo.__version__ != dcache.__version__:
        raise DcacheError(
            f"dcache {dcache.__version__} needs {DEMO_DISTRIBUTION} of the same version, got "
            f"{dcache_demo.__version__}: pip install {DEMO_DISTRIBUTION}=={dcache.__version__}"
        )
    return dcache_demo.folder(name)
