"""The notebooks: they run from top to bottom, and keep what they showed."""

import re

import nbformat
import pytest

from tools.run_notebooks import NOTEBOOKS, run_notebook


def names(paths):
    return [path.stem for path in paths]


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
    assert re.search(r'%pip install -q "tf-seqattn\[[\w,]+\] @ \{', code[0].source)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    kinds = {output.output_type for output in outputs}
    assert "error" not in kinds and "stream" in kinds
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert pictures, "a notebook shows something"


def test_all_install_in_the_same_way():
    first = [nbformat.read(path, as_version=4).cells[:4] for path in NOTEBOOKS]
    codes = [next(c.source for c in cells if c.cell_type == "code") for cells in first]
    assert len({re.sub(r"\[[\w,]+\]", "", code) for code in codes}) == 1


@pytest.mark.parametrize(
    ("last_cell", "found"),
    [("x = 1", None), ("1 / 0", "ZeroDivisionError: division by zero")],
)
def test_a_run_tells_what_failed(tmp_path, monkeypatch, last_cell, found):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    sources = ["import os", "assert 'PYTHONPATH' not in os.environ", last_cell]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    path = tmp_path / "small.ipynb"
    nbformat.write(notebook, path)
    assert run_notebook(path, tmp_path, "python3", timeout=60) == found


def test_outputs_are_saved_without_what_changes_each_time(tmp_path):
    source = "import sys; print('Assets written to: x', flush=True)\n"
    source += "display(4); print(3)\n"
    source += "print('a warning', file=sys.stderr)"
    sources = ["%pip --version", source]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["colab"] = {"name": "small"}
    path = tmp_path / "small.ipynb"
    nbformat.write(notebook, path)
    assert run_notebook(path, tmp_path, "python3", timeout=60, saves=True) is None
    saved = nbformat.read(path, as_version=4)
    installs, cell = saved.cells
    assert installs.outputs == []
    number, text = cell.outputs
    assert number.data["text/plain"] == "4" and text.text == "3\n"
    assert cell.execution_count == 2 and "execution" not in cell.metadata
    assert saved.metadata == notebook.metadata


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=names(NOTEBOOKS))
def test_a_notebook_runs(path, tmp_path):
    assert run_notebook(path, tmp_path, "python3", timeout=900) is None
