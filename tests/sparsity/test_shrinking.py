"""A smaller model must compute what the full one does."""

import numpy as np
import pytest

import tf_seqattn as sa
from tests import channel_models

layers = None  # Of the Keras under test, by the fixture `keras`.


@pytest.mark.parametrize("name", channel_models.MODELS)
def test_what_nothing_reads_is_removed(keras, name):
    model = channel_models.build(keras, name)
    batch = channel_models.inputs(model)
    left = channel_models.silence(model)
    smaller = sa.shrink(model)
    assert channel_models.difference(model, smaller, batch) < 2e-5
    found = sorted((g.name, g.units) for g in sa.channel_groups(smaller))
    assert found == left
    assert smaller.count_params() < model.count_params()
    assert type(smaller) is type(model)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["residual", "unet", "operations", "tagger"])
def test_a_wrong_removal_shows(keras, name, monkeypatch):
    """The test above can fail: the channels beside the dead ones are removed."""
    model = channel_models.build(keras, name)
    batch = channel_models.inputs(model)
    channel_models.silence(model, share=0.25)
    channel_models.remove_neighbours(monkeypatch)
    assert channel_models.difference(model, sa.shrink(model), batch) > 1e-3


def test_the_result_trains_and_is_saved(keras, tmp_path):
    model = channel_models.build(keras, "residual")
    batch = channel_models.inputs(model)
    channel_models.silence(model)
    smaller = sa.shrink(model)
    smaller.compile("sgd", "mse")
    smaller.fit(batch, np.zeros((4, 3)), epochs=1, verbose=0)
    smaller.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert channel_models.difference(smaller, loaded, batch) < 1e-6


def test_a_sequential_model_stays_one(keras):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3, activation="sigmoid"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    channel_models.randomize(model)
    channel_models.silence(model)
    smaller = sa.shrink(model)
    assert isinstance(smaller, keras.Sequential)
    batch = channel_models.inputs(model)
    assert channel_models.difference(model, smaller, batch) < 1e-5


def test_models_inside_a_sequential_model_become_smaller(keras):
    block = keras.Sequential([layers.ReLU(), layers.Conv2D(6, 3)])
    inputs = keras.Input((4, 4, 6))
    graph = keras.Model(inputs, layers.Conv2D(5, 3)(inputs))
    model = keras.Sequential([layers.Conv2D(8, 3), block, graph, layers.Flatten()])
    model.add(layers.Dense(3))
    batch = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    model(batch)
    channel_models.randomize(model)
    assert [group.units for group in sa.channel_groups(model)] == [8, 6, 5]
    channel_models.silence(model)
    smaller = sa.shrink(model)
    assert channel_models.difference(model, smaller, batch) < 1e-5
    assert [group.units for group in sa.channel_groups(smaller)] == [4, 3, 3]


def _with_constant(keras, padding, use_bias):
    """Two convolutions; channel 0 between them is a constant other than 0."""
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(4, 3, use_bias=False)(x)
    y = layers.BatchNormalization()(y)
    y = layers.Activation("sigmoid")(y)
    y = layers.Conv2D(5, 3, padding=padding, use_bias=use_bias)(y)
    model = keras.Model(x, y)
    channel_models.randomize(model)
    (kernel,) = model.layers[1].get_weights()
    kernel[..., 0] = 0
    model.layers[1].set_weights([kernel])
    return model


@pytest.mark.parametrize("use_bias", [True, False])
def test_a_constant_goes_into_the_bias(keras, use_bias):
    model = _with_constant(keras, "valid", use_bias)
    smaller = sa.shrink(model)
    assert smaller.layers[1].filters == 3
    batch = channel_models.inputs(model)
    assert channel_models.difference(model, smaller, batch) < 1e-5


def test_a_constant_that_padding_cuts_stays(keras):
    model = _with_constant(keras, "same", True)
    assert sa.shrink(model).layers[1].filters == 4


@pytest.mark.parametrize("activation, left", [("relu", 3), ("sigmoid", 4)])
def test_a_zero_behind_padding_goes(keras, activation, left):
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(4, 3, activation=activation)(x)
    y = layers.Conv2D(5, 3, padding="same")(y)
    model = keras.Model(x, y)
    kernel, bias = model.layers[1].get_weights()
    kernel[..., 2] = 0
    model.layers[1].set_weights([kernel, bias])
    smaller = sa.shrink(model)
    assert smaller.layers[1].filters == left
    batch = channel_models.inputs(model)
    assert channel_models.difference(model, smaller, batch) < 1e-5


def test_a_zero_gamma_silences_a_channel(keras):
    x = keras.Input((8, 8, 3))
    y = layers.BatchNormalization()(layers.Conv2D(4, 3)(x))
    y = layers.Conv2D(5, 3, padding="same")(layers.ReLU()(y))
    model = keras.Model(x, y)
    channel_models.randomize(model)
    gamma, beta, mean, variance = model.layers[2].get_weights()
    gamma[1], beta[1] = 0, -1  # Behind ReLU that is 0.
    model.layers[2].set_weights([gamma, beta, mean, variance])
    assert sa.shrink(model).layers[1].filters == 3


def test_a_channel_for_dead_channels_only_is_dead(keras):
    """Nothing reads unit 0 of the last hidden layer, and it alone reads unit 1."""
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(4), layers.Dense(3), layers.Dense(2)]
    )
    first, second, last = (layer.get_weights() for layer in model.layers)
    second[0][1, 1:] = 0
    last[0][0] = 0
    model.layers[1].set_weights(second)
    model.layers[2].set_weights(last)
    smaller = sa.shrink(model)
    assert [w.shape for w in smaller.get_weights()[::2]] == [(6, 3), (3, 2), (2, 2)]


def test_a_group_never_vanishes(keras):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4), layers.Dense(2)])
    model.layers[1].set_weights([np.zeros((4, 2)), np.ones(2)])
    assert sa.shrink(model).layers[0].units == 1


def test_a_dense_model_is_copied(keras):
    model = channel_models.build(keras, "residual")
    copy = sa.shrink(model)
    batch = channel_models.inputs(model)
    assert copy.count_params() == model.count_params()
    assert channel_models.difference(model, copy, batch) < 1e-6


def test_a_subclassed_model_that_was_never_called(keras):
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="Call it once on a batch"):
        sa.shrink(Subclassed())


_LIGHT_FAMILIES = ("MobileNetV2", "MobileNetV3Small", "EfficientNetB0")
_MORE_FAMILIES = (
    "ConvNeXtTiny DenseNet121 EfficientNetV2B0 InceptionResNetV2 InceptionV3 MobileNet "
    "NASNetMobile RegNetX002 RegNetY002 ResNet50 ResNet50V2 ResNetRS50 VGG11 VGG16 "
    "Xception"
).split()


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", _LIGHT_FAMILIES)
def test_light_families_of_applications(keras, name):
    _check_family(keras, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", _MORE_FAMILIES)
def test_other_families_of_applications(keras, name):
    if not hasattr(keras.applications, name):
        pytest.skip(f"this Keras has no {name}")
    _check_family(keras, name)


@pytest.mark.parametrize(
    "name",
    [
        name if name == "MobileNetV2" else pytest.param(name, marks=pytest.mark.slow)
        for name in (*_LIGHT_FAMILIES, *_MORE_FAMILIES)
    ],
)
def test_a_wrong_removal_from_a_family_shows(keras, name, monkeypatch):
    """The checks of the families can fail."""
    if not hasattr(keras.applications, name):
        pytest.skip(f"this Keras has no {name}")
    channel_models.remove_neighbours(monkeypatch)
    with pytest.raises(AssertionError, match="differ"):
        _check_family(keras, name)


def _check_family(keras, name):
    size = 224 if name == "NASNetMobile" else 96
    model = getattr(keras.applications, name)(
        weights=None,
        input_shape=(size, size, 3),
        classes=10,
        classifier_activation=None,
    )
    for layer in model.layers:
        if type(layer).__name__ == "LayerScale":
            # A new ConvNeXt multiplies its blocks by 1e-6, which hides them.
            layer.set_weights([np.ones_like(w) for w in layer.get_weights()])
    batch = channel_models.inputs(model)
    channel_models.calibrate(model, batch)
    channel_models.silence(model)
    found = channel_models.difference(model, sa.shrink(model), batch)
    assert found < 1e-3, f"outputs differ by {found:.1e}"
