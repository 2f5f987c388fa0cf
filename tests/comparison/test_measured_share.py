"""The share of the channels for a latency, with a time that is a known function."""

import numpy as np
import pytest

import tf_seqattn as sa
from tf_seqattn.comparison import files, measured_share

layers = None  # Of the Keras under test, by the fixture `keras`.
BATCH = np.ones((1, 16), "float32")


def _model(keras):
    hidden = [layers.Dense(128) for _ in range(2)]
    return keras.Sequential([keras.Input((16,)), *hidden, layers.Dense(10)])


@pytest.fixture
def measured(monkeypatch):
    """Files of one byte a weight, which take as long; the calls are remembered."""
    calls = []

    def write(model, path, precision, inputs, num_threads, tolerance):
        assert precision == "int8" and num_threads == 2 and tolerance == np.inf
        path.write_bytes(bytes(model.count_params()))
        return ["x"]

    def time_files(contents, num_threads, seconds):
        assert {tuple(names) for _, _, names in contents.values()} == {("x",)}
        ((inputs,),) = {tuple(a.shape for a in i) for _, i, _ in contents.values()}
        calls.append((num_threads, seconds, inputs))
        # Every other turn is slow, for both.
        slow = np.array([1.0, 9.0, 1.0])
        return {name: slow * len(file) for name, (file, *_) in contents.items()}

    monkeypatch.setattr(files, "write", write)
    monkeypatch.setattr(measured_share, "time_files", time_files)
    return calls


def _share(model, latency, **kwargs):
    options = {"precision": "int8", "num_threads": 2, "print_fn": str, **kwargs}
    return sa.share_for_latency(model, latency, BATCH, **options)


@pytest.mark.parametrize("latency", [0.3, 0.7])
def test_no_smaller_share_is_as_fast(keras, measured, latency):
    model, lines = _model(keras), []
    before = model.get_weights()
    share = _share(model, latency, seconds=3.0, print_fn=lines.append)
    # What rounds to the same units is measured once.
    assert len(measured) == len(lines) < 8
    assert set(measured) == {(2, 3.0, (1, 16))}
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    # The share that is found, and the next one that keeps 8 more units.
    left = {}
    for removed in (share, share - 8 / 128):
        schedule = sa.OneShotSchedule(removed, prune_step=0)
        pruned = sa.prune(_model(keras), schedule, "channels", sa.Magnitude())
        left[removed] = sa.shrink(pruned).count_params() / model.count_params()
    assert left[share] <= latency < left[share - 8 / 128]


def test_what_is_wrong_is_said(keras, measured):
    model = _model(keras)
    for latency in (0.0, 1, 2.0):
        with pytest.raises(ValueError, match=f"Received: latency={latency}"):
            _share(model, latency)
    with pytest.raises(ValueError, match="round_to=0"):
        _share(model, 0.5, round_to=0)
    with pytest.raises(ValueError, match="precision='int4'"):
        _share(model, 0.5, precision="int4")
    with pytest.raises(ValueError, match="needs a whole model"):
        _share(layers.Dense(2), 0.5)
    with pytest.raises(ValueError, match="5.0% cannot be reached: removing 99%"):
        _share(model, 0.05, round_to=64)
    head = keras.Sequential([keras.Input((16,)), layers.Dense(10)])
    with pytest.raises(ValueError, match="leaves 100.0%"):
        _share(head, 0.5)
    schedule = sa.OneShotSchedule(0.5, prune_step=0)
    with pytest.raises(ValueError, match="is pruned already"):
        _share(sa.prune(model, schedule, "channels"), 0.5)


def test_a_model_that_would_be_changed_is_refused(keras):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden, self.head = layers.Dense(32), layers.Dense(2)

        def call(self, x):
            return self.head(self.hidden(x))

    model = Own()
    model(BATCH)
    with pytest.raises(ValueError, match="it is subclassed"):
        _share(model, 0.5)

    class Holder(keras.layers.Layer):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def call(self, x):
            return self.inner(x)

        def compute_output_shape(self, shape):
            return (*shape[:-1], 32)

        def get_config(self):
            raise NotImplementedError

    inputs = keras.Input((16,))
    held = Holder(layers.Dense(32))(inputs)
    graph = keras.Model(inputs, layers.Dense(2)(held))
    with pytest.raises(ValueError, match="have no configuration"):
        _share(graph, 0.5)
