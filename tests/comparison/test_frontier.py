"""The frontier of a small perceptron: complete, resumable, and drawn."""

import json

import numpy as np
import pytest

import tf_seqattn as sa

keras = None  # set by the fixture `keras`
RNG = np.random.default_rng(0)
X = RNG.normal(size=(512, 32)).astype("float32")
Y = np.tanh(X @ RNG.normal(size=(32, 4)).astype("float32") / 3)
OPTIONS = {
    "inputs": X[:64],
    "steps": 48,
    "widths": (1.0, 0.5),
    "sparsities": (0.5,),
    "block_size": (2, 4),
    "precisions": ("float32", "int8"),
    "seconds": 0.1,
}


def build_model(width):
    hidden = keras.layers.Dense(round(32 * width), activation="relu")
    wide = keras.layers.Dense(round(32 * width), activation="relu")
    inputs = keras.Input((32,))
    return keras.Model(inputs, keras.layers.Dense(4)(wide(hidden(inputs))))


class Training:
    """Trains, and counts how often."""

    def __init__(self, fail_after=100):
        self.models = []
        self.fail_after = fail_after

    def __call__(self, model, callbacks):
        if len(self.models) == self.fail_after:
            raise KeyboardInterrupt
        self.models.append(model)
        model.compile(keras.optimizers.Adam(0.01), "mse")
        model.fit(X, Y, 32, epochs=3, verbose=0, callbacks=callbacks)


def evaluate(predict):
    return float(np.mean((predict(X) - Y) ** 2))


@pytest.mark.exhaustive
def test_an_interrupted_comparison_goes_on_to_the_frontier(keras, tmp_path):
    interrupted = Training(fail_after=2)
    with pytest.raises(KeyboardInterrupt):
        sa.frontier(build_model, interrupted, evaluate, output=tmp_path, **OPTIONS)
    resumed, lines = Training(), []
    found = sa.frontier(
        build_model,
        resumed,
        evaluate,
        output=tmp_path,
        print_fn=lines.append,
        **OPTIONS,
    )
    # Dense, gradual and blocks; channels, and the narrow one.
    assert len(resumed.models) == 3
    assert found.left_out == {}
    assert {(p.family, p.amount, p.precision) for p in found.points} == {
        (family, amount, precision)
        for family, amount in [
            ("dense", 1.0),
            ("dense", 0.5),
            ("gradual magnitude, blocks", 0.5),
            ("SequentialAttention++, blocks", 0.5),
            ("SequentialAttention++, channels", 0.5),
        ]
        for precision in ("float32", "int8")
    }
    variance = float(np.var(Y))
    for point in found.points:
        assert 0 < point.quality < variance
        assert point.latency.median > 0
        assert point.bytes > 1000
    sizes = {(p.family, p.amount, p.precision): p.bytes for p in found.points}
    assert sizes["dense", 0.5, "float32"] < sizes["dense", 1.0, "float32"]
    assert sizes["dense", 1.0, "int8"] < sizes["dense", 1.0, "float32"]

    # By hand: a point is on the frontier if nothing is better in both.
    for point in found.points:
        (row,) = [r for r in found.table().splitlines() if f"| {point.name} |" in r]
        is_best = not any(
            other.bytes <= point.bytes
            and other.quality <= point.quality
            and other is not point
            for other in found.points
        )
        assert ("bytes" in row.split("|")[-2]) == is_best
    assert "Fastest at the quality of dense, width 1, float32" in lines[-1]
    assert (tmp_path / "frontier.png").stat().st_size > 10_000
    written = json.loads((tmp_path / "frontier.json").read_text())
    assert len(written["points"]) == len(found.points)
    assert found.table() in (tmp_path / "frontier.md").read_text()

    with pytest.raises(ValueError, match="holds a comparison with other arguments"):
        sa.frontier(
            build_model, resumed, evaluate, output=tmp_path, **{**OPTIONS, "steps": 49}
        )


def test_what_cannot_be_pruned_is_named(tmp_path, monkeypatch):
    import keras as keras3

    monkeypatch.setitem(globals(), "keras", keras3)
    options = {**OPTIONS, "channels": (), "widths": (1.0,), "block_size": (32, 32)}
    lines = []
    found = sa.frontier(
        build_model,
        Training(),
        evaluate,
        output=tmp_path,
        seeds=2,
        print_fn=lines.append,
        **{**options, "precisions": ("float32",)},
    )
    assert set(found.left_out) == {
        "gradual magnitude, blocks, 50%",
        "SequentialAttention++, blocks, 50%",
    }
    assert "Left out: gradual magnitude, blocks, 50%: no kernel has" in lines[0]
    (point,) = found.points
    assert point.spread > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"widths": (0.5,)}, "`widths` must begin with 1.0"),
        ({"sparsities": (90,)}, "`sparsities` must hold shares above 0"),
        ({"precisions": ("int4",)}, "`precisions` must hold some of"),
        ({"steps": 0}, "`steps` must be at least 1. Received: steps=0"),
    ],
)
def test_wrong_arguments_are_named_before_any_work(wrong, message, tmp_path):
    folder = tmp_path / "out"
    with pytest.raises(ValueError, match=message):
        sa.frontier(None, None, evaluate, output=folder, **{**OPTIONS, **wrong})
    assert not folder.exists()
