"""Run the notebooks in fresh kernels and keep what they print: `python tools/run_notebooks.py [NAME ...]`."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "notebooks"


def run(path: Path, folder: Path) -> Any:
    """The notebook of a file, executed in a folder of its own; a cell that fails raises."""
    import nbformat
    from nbclient import NotebookClient

    content = nbformat.read(path, as_version=4)
    NotebookClient(content, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in content.cells:
        # Times of execution would change the file at every run.
        cell.metadata.pop("execution", None)
        cell.get("outputs", [])[:] = [o for o in cell.get("outputs", []) if o.get("name") != "stderr"]
    return content


def main() -> None:
    """Run those that are named, or all."""
    import nbformat

    for name in sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["DCACHE_HOME"] = folder
            nbformat.write(run(FOLDER / f"{name}.ipynb", Path(folder)), FOLDER / f"{name}.ipynb")
        print(f"ran notebooks/{name}.ipynb")


if __name__ == "__main__":
    main()
