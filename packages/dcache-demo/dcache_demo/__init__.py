"""The small trained models of `dcache demo`, with their judges, schedules and observations, as files.

>>> import dcache_demo
>>> dcache_demo.folder("image").name
'image'
"""

from pathlib import Path

__version__ = "0.2.0"

__all__ = ["FOLDERS", "folder"]

# Name -> what is in the folder.
FOLDERS = {
    "image": "a text-to-image pipeline of diffusers, its measured coefficients and its profile",
    "judges": "networks of the demo's metrics: clip-shapes and frechet-shapes",
    "policies": "two diffusion policies, their observations and profiles: drawer-open and pusht",
    "recall": "a language model that recalls associations",
    "schedules": "calibrated schedules of the text-to-image pipeline",
    "texts": "two masked-diffusion language models: acrostic and mirror",
    "video": "a text-to-video pipeline of diffusers",
}


def folder(name: str) -> Path:
    """The folder with the files of one name.

    Args:
        name: one of `FOLDERS`.

    Raises:
        ValueError: there is no such folder.
    """
    if name not in FOLDERS:
        raise ValueError(f"name must be one of {', '.join(FOLDERS)}, got {name!r}")
    return Path(__file__).parent / name
