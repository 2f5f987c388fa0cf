"""Runs the notebooks as Colab does: each in a new virtual environment, from the wheel.

    python -m tools.run_notebooks
    python -m tools.run_notebooks colabs/1_quick_start.ipynb --python python3.12
    python -m tools.run_notebooks --save

The wheel is built from the sdist, as for a release, and lies beside each notebook,
where Colab puts an uploaded file. An environment holds a kernel and nothing else, so
the notebook's own first cell must install this project with all that the other cells
need.
Colab has many packages already: a notebook that passes here lacks nothing there, but
versions that Colab holds may still disagree with ours.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from tf_seqattn.experiments.command_line import make_parser, positive_int

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))


def build_wheel(folder: pathlib.Path) -> pathlib.Path:
    """Builds an sdist, and from it the wheel, in `folder`; returns the wheel."""
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", folder, ROOT],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    [wheel] = folder.glob("*.whl")
    return wheel


def make_environment(folder: pathlib.Path, python: str) -> str:
    """Makes a virtual environment with a kernel, and returns the name of the kernel."""
    name = "new_environment"
    own = folder / "bin" / "python"
    for command in (
        [python, "-m", "venv", folder],
        [own, "-m", "pip", "install", "--quiet", "ipykernel"],
        [own, "-m", "ipykernel", "install", "--sys-prefix", "--name", name],
    ):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    # Where the client below looks for kernels.
    os.environ["JUPYTER_PATH"] = str(folder / "share" / "jupyter")
    return name


def save(notebook: nbformat.NotebookNode, path: pathlib.Path) -> None:
    """Writes a notebook with its outputs, without warnings and what changes each time.

    The metadata of the file, which name Colab's kernel, stay.
    """
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            if "%pip" in cell.source:
                # What pip says is about this machine.
                cell.outputs = []
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            for output in cell.outputs:
                if output.output_type == "stream":
                    lines = output.text.splitlines(keepends=True)
                    kept = [line for line in lines if "Assets written" not in line]
                    output.text = "".join(kept)
            cell.outputs = [o for o in cell.outputs if o.get("text") != ""]
    notebook.metadata = nbformat.read(path, as_version=4).metadata
    nbformat.write(notebook, path)


def run_notebook(
    path: pathlib.Path,
    folder: pathlib.Path,
    kernel: str,
    timeout: int,
    saves: bool = False,
) -> str | None:
    """Runs a notebook from top to bottom.

    Args:
      path: of the notebook.
      folder: in which it works.
      kernel: name of a Jupyter kernel.
      timeout: seconds for a cell.
      saves: whether to write the outputs into the file; else it is not changed.

    Returns:
      None, or what failed. Then the file is not changed.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name=kernel,
        resources={"metadata": {"path": str(folder)}},
    )
    # This project must come from the wheel, not from the folder of this process.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        return f"{error.ename}: {error.evalue}"
    except (CellTimeoutError, DeadKernelError) as error:
        return str(error)
    if saves:
        save(notebook, path)
    return None


def run_in_new_environment(
    path: pathlib.Path, wheel: pathlib.Path, python: str, timeout: int, saves: bool
) -> str | None:
    """Runs a notebook in an environment of its own, which is deleted afterwards."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        work = folder / "work"
        work.mkdir()
        shutil.copy(wheel, work)
        kernel = make_environment(folder / "environment", python)
        return run_notebook(path, work, kernel, timeout, saves)


def main(arguments: list[str] | None = None) -> int:
    """Runs the notebooks, prints a line for each, and returns how many failed."""
    parser = make_parser("tools.run_notebooks", __doc__)
    parser.formatter_class = argparse.HelpFormatter
    add = parser.add_argument
    add("notebooks", nargs="*", type=pathlib.Path, help="files; all, if none is given")
    add("--python", default=sys.executable, help="interpreter of the environments")
    add("--timeout", type=positive_int, default=1800, help="seconds for a cell (1800)")
    add("--save", action="store_true", help="write the outputs into the notebooks")
    options = parser.parse_args(arguments)
    paths = options.notebooks or NOTEBOOKS
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel(pathlib.Path(folder))
        print(f"Built {wheel.name}.", flush=True)
        for number, path in enumerate(paths, 1):
            print(f"{number}/{len(paths)} {path.stem}", flush=True)
            started = time.monotonic()
            error = run_in_new_environment(
                path, wheel, options.python, options.timeout, options.save
            )
            seconds = f"{time.monotonic() - started:.0f} s"
            end = f"failed after {seconds}: {error}" if error else f"passed, {seconds}"
            print(f"{path.stem} {end}", flush=True)
            failures += error is not None
    return failures


if __name__ == "__main__":
    sys.exit(main())
