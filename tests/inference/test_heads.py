"""A packed model loses the heads that add nothing, and no others."""

import numpy as np
import pytest
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.inference import litert

layers = keras.layers
# Every test runs on Keras 2 and on Keras 3.
pytestmark = pytest.mark.usefixtures("keras")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 7, 32)).astype("float32")


def attention_model(cross=False, **options):
    """6 heads of size 8 with values of size 5 and random weights."""
    x = keras.Input((7, 32), name="x")
    keys = layers.Dense(16)(x) if cross else x
    options = {"num_heads": 6, "key_dim": 8, "value_dim": 5, **options}
    y = layers.MultiHeadAttention(**options, name="attention")(x, keys)
    model = keras.Model(x, layers.Dense(3)(y))
    model.set_weights([RNG.normal(size=w.shape) for w in model.get_weights()])
    return model


def change(model, name, function):
    """Sets weights of a projection to `function(kernel, bias)`."""
    dense = getattr(model.get_layer("attention"), f"_{name}_dense")
    weights = dense.get_weights()
    function(*weights)
    dense.set_weights(weights)


def silence_two(kernel, bias=None):
    kernel[[1, 4]] = 0


def heads_of(model) -> int:
    (layer,) = (v for v in model.layers if isinstance(v, layers.MultiHeadAttention))
    return layer.get_config()["num_heads"]


def assert_same(packed, model):
    np.testing.assert_allclose(packed(X), model(X), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("runtime", ["tflite", "xla"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_bias": False},
        {"cross": True},
        {"output_shape": 12},
        {"output_shape": (3, 4)},
    ],
)
@pytest.mark.exhaustive
def test_heads_that_nothing_reads(options, runtime):
    model = attention_model(**options)
    change(model, "output", silence_two)
    lines = []
    packed = sa.pack(model, runtime=runtime, print_fn=lines.append)
    assert heads_of(packed) == 4
    assert_same(packed, model)
    assert sum("was 6 heads" in line for line in lines) == 4
    assert packed.count_params() < model.count_params()


@pytest.mark.parametrize("use_bias", [False, True])
def test_heads_of_values_that_are_zero(use_bias):
    model = attention_model(use_bias=use_bias)

    def silence(kernel, bias=None):
        kernel[:, [0, 3, 5]] = 0
        if use_bias:
            # A bias that is not zero is a constant, which a mask may hide.
            bias[[0, 3]] = 0

    change(model, "value", silence)
    packed = sa.pack(model)
    assert heads_of(packed) == (4 if use_bias else 3)
    assert_same(packed, model)


def test_one_head_stays():
    model = attention_model()

    def silence(kernel, bias):
        kernel[:] = 0

    change(model, "output", silence)
    packed = sa.pack(model)
    assert heads_of(packed) == 1
    assert_same(packed, model)


def test_heads_stay_where_their_scores_are_asked_for():
    x = keras.Input((7, 32))
    attention = layers.MultiHeadAttention(6, 8, name="attention")
    model = keras.Model(x, attention(x, x, return_attention_scores=True))
    change(model, "output", silence_two)
    packed = sa.pack(model)
    assert heads_of(packed) == 6
    for found, expected in zip(packed(X), model(X), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_heads_stay_in_a_custom_layer():
    class Block(keras.Model):
        def __init__(self):
            super().__init__()
            self.attention = layers.MultiHeadAttention(6, 8, name="attention")

        def call(self, inputs):
            outputs, scores = self.attention(
                inputs, inputs, return_attention_scores=True
            )
            return outputs, scores

        def get_layer(self, name=None, index=None):
            return self.attention

    model = Block()
    model(X)
    change(model, "output", silence_two)
    expected = model(X)
    packed = sa.pack(model)
    for found, value in zip(packed(X), expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-4)


def test_trained_pruned_saved_and_exported(tmp_path):
    model = attention_model()
    schedule = sa.SequentialAttentionSchedule(0.5, end_step=20, cycles=2)
    pruned = sa.prune(model, schedule, block_size="heads")
    pruned.compile("adam", "mse")
    x = RNG.normal(size=(80, 7, 32)).astype("float32")
    pruned.fit(
        x, x[..., :3], batch_size=4, verbose=0, callbacks=[sa.UpdatePruningStep()]
    )
    sparse = sa.strip_pruning(pruned)
    packed = sa.pack(sparse)
    assert heads_of(packed) == 3
    packed.save(tmp_path / "packed.keras")
    loaded = keras.models.load_model(tmp_path / "packed.keras")
    assert_same(loaded, sparse)
    small = sa.export_tflite(sparse, tmp_path / "m.tflite")
    dense = sa.export_tflite(sparse, tmp_path / "dense.tflite", layout="dense")
    assert small.num_bytes < dense.num_bytes
    (outputs,) = litert.run((tmp_path / "m.tflite").read_bytes(), [X])
    np.testing.assert_allclose(outputs, sparse(X), rtol=1e-3, atol=1e-3)
