"""The frontier of a small perceptron: complete, resumable, and drawn."""

import json

import numpy as np
import pytest

import tf_seqattn as sa
from tf_seqattn.comparison.files import Latency
from tf_seqattn.comparison.result import Frontier, Point

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
    resumed, lines, names = Training(), [], []

    def one_shot(model):
        return sa.prune(model, sa.OneShotSchedule(0.5, prune_step=20), (2, 4))

    def callbacks_for(name):
        names.append(name)
        return [keras.callbacks.TensorBoard(str(tmp_path / "logs" / name))]

    found = sa.frontier(
        build_model,
        resumed,
        evaluate,
        output=tmp_path,
        print_fn=lines.append,
        recipes={"one shot": (one_shot, sa.strip_pruning)},
        callbacks_for=callbacks_for,
        **OPTIONS,
    )
    # Dense, gradual and blocks; channels, the narrow one, and the recipe.
    assert len(resumed.models) == 4
    assert "one shot" in names and "dense, width 0.5" in names
    assert all(any((tmp_path / "logs" / name).rglob("events*")) for name in names)
    kernel = keras.models.load_model(tmp_path / "one_shot.keras").weights[0]
    assert np.mean(np.asarray(kernel) == 0) == pytest.approx(0.5, abs=0.02)
    assert found.left_out == {}
    assert {(p.family, p.amount, p.precision) for p in found.points} == {
        (family, amount, precision)
        for family, amount in [
            ("dense", 1.0),
            ("dense", 0.5),
            ("gradual magnitude, blocks", 0.5),
            ("SequentialAttention++, blocks", 0.5),
            ("SequentialAttention++, channels", 0.5),
            ("one shot", None),
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


def point(family, quality, micros, size):
    amount = None if family == "own" else 0.5
    return Point(family, amount, "float32", quality, 0.0, Latency(micros, 1, 1), size)


@pytest.mark.parametrize(
    ("others", "said"),
    [
        (
            [("SequentialAttention++, blocks", 1.0, 25.0, 100)],
            "blocks, 50%, float32 is 4.0 times faster and 4.0 times smaller than the "
            "best alternative, dense",
        ),
        (
            [("SequentialAttention++, blocks", 1.0, 25.0, 100), ("own", 1.01, 10, 200)],
            "own, float32 is 2.5 times faster and 2.0 times larger than the best of "
            "ours, SequentialAttention++, blocks",
        ),
        (
            [("SequentialAttention++, blocks", 1.0, 95.0, 100)],
            "SequentialAttention++, blocks, 50%, float32 is as fast as the best "
            "alternative, dense, width 0.5, float32: 95 and 100 us.",
        ),
        (
            [("SequentialAttention++, blocks", 1.02, 25.0, 100)],
            "No network of SequentialAttention++ is as good",
        ),
        ([("own", 1.0, 10, 200)], "The fastest at equal quality is own, float32."),
    ],
)
def test_the_first_line_says_which_is_better(others, said):
    points = [point("dense", 1.0, 100.0, 400), *(point(*other) for other in others)]
    assert said in Frontier(points, {}, allowed=0.01).headline()


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
