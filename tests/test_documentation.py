"""The documentation: its code runs, its links lead somewhere, no name is left out."""

import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tools import make_readme

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
QUESTIONS = sorted((DOCS / "questions").glob("*.md"))
# `make docs` copies the results of the benchmarks.
COPIES = DOCS / "benchmarks"
PAGES = [
    ROOT / "README.md",
    *sorted(path for path in DOCS.rglob("*.md") if path.parent != COPIES),
]


def blocks_of(path):
    """The Python code of a page as one program, with the line numbers of the page."""
    lines, inside = [], False
    for line in path.read_text().splitlines():
        if line.startswith("```"):
            inside = line == "```python"
            line = ""
        lines.append(line if inside else "")
    return "\n".join(lines)


@pytest.fixture
def names(tmp_path, monkeypatch):
    """The names that the pages use without defining them, such as a built model."""
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 64)).astype("float32")
    y = x[:, :1] * x[:, 1:2]
    model = keras.Sequential(
        [
            keras.layers.Dense(320, activation="relu", input_shape=(64,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(1),
        ]
    )
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    return {
        "np": np,
        "tf": tf,
        "keras": keras,
        "sa": sa,
        "model": model,
        "x": x,
        "y": y,
        "data": data,
        "__name__": "page",
    }


@pytest.mark.parametrize("path", QUESTIONS, ids=lambda path: path.stem)
def test_the_code_of_a_page_runs(path, names):
    program = blocks_of(path)
    assert program.strip(), f"{path.name} has no example"
    exec(compile(program, str(path), "exec"), names)


def test_the_first_page_runs(names):
    exec(compile(blocks_of(DOCS / "index.md"), "index.md", "exec"), names)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    targets = re.findall(r"\]\(([^)\s#]+)[^)]*\)", path.read_text())
    for target in targets:
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


SECTIONS = {
    "README.md": {"speed"},
    "results.md": {"quality", "break_even", "networks"},
    "which_algorithm.md": {"choices"},
    "block_size.md": {"break_even"},
}


@pytest.mark.parametrize("path", make_readme.PAGES, ids=lambda path: path.name)
def test_the_figures_are_those_of_the_benchmarks(path):
    text = path.read_text()
    assert set(re.findall(r"<!-- begin: (\w+) -->", text)) == SECTIONS[path.name]
    assert make_readme.render(text) == text, "run `make readme`"


def test_the_readme_runs(names):
    exec(compile(blocks_of(ROOT / "README.md"), "README.md", "exec"), names)
    kernel = names["sparse"].layers[0].get_weights()[0].reshape(16, 16, 32, 16)
    assert np.mean(np.abs(kernel).sum(axis=(1, 3)) == 0) == pytest.approx(0.9, abs=0.01)


def test_every_page_is_in_a_table_of_contents():
    listed = re.findall(r"^([a-z_/]+)$", (DOCS / "index.md").read_text(), re.MULTILINE)
    pages = {str(p.relative_to(DOCS).with_suffix("")) for p in PAGES[1:]}
    assert pages - {"index"} == set(listed)


def test_the_reference_has_every_public_name():
    text = "".join(p.read_text() for p in (DOCS / "reference").glob("*.md"))
    documented = set(re.findall(r"^\.\. auto\w+:: tf_seqattn\.(\w+)$", text, re.M))
    assert documented == set(sa.__all__) - {"inference", "sparsity", "training"}
