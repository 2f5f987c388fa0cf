"""The notebooks: they run from top to bottom, and keep what they showed."""

import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((pathlib.Path(__file__).parents[2] / "colabs").glob("*.ipynb"))


def names(paths):
    return [path.stem for path in paths]


def run(path, folder):
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources=resources
    ).execute()


def test_they_are_numbered():
    numbers = [int(path.stem.partition("_")[0]) for path in NOTEBOOKS]
    assert numbers == list(range(1, len(NOTEBOOKS) + 1))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names(NOTEBOOKS))
def test_a_notebook_installs_the_package_and_keeps_its_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    title, *_ = notebook.cells[0].source.splitlines()
    assert title.startswith("# ")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "%pip install" in code[0].source and "tf-seqattn" in code[0].source
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    kinds = {output.output_type for output in outputs}
    assert "error" not in kinds and "stream" in kinds
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert pictures, "a notebook shows something"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=names(NOTEBOOKS))
def test_a_notebook_runs(path, tmp_path):
    run(path, tmp_path)
