"""The guide for users of tfmot: its code runs, and prunes as far."""

import pathlib
import re

import numpy as np
import pytest

GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "from_tfmot.md"
CODE = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)


def run(code, keras):
    x = np.random.default_rng(0).normal(size=(32, 64)).astype("float32")
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)])
    names = {"model": model, "x": x, "y": x}
    exec(code, names)
    return names["sparse"].layers[-1].kernel.numpy()


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "code", CODE, ids=["tfmot", "three lines", "drop-in", "gradual", "ours"]
)
def test_the_guide(keras, code):
    if "tfmot.prune_low_magnitude" in code and keras.__name__ == "keras":
        pytest.skip("tfmot needs Keras 2")
    kernel = run(code, keras)
    blocks = np.abs(kernel.reshape(16, 4, 16, 4)).sum(axis=(1, 3))
    assert np.mean(blocks == 0) == np.mean(kernel == 0) == 0.75


def test_three_lines_change():
    before, after = (code.splitlines() for code in CODE[:2])
    changed = set(after) - set(before) - {"import tf_seqattn as sa"}
    assert len(changed) == 3 and all("sa." in line for line in changed)
