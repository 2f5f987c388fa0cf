"""The dense layers inside `keras_rs.layers.FeatureCross`, the cross layer of DCN-v2."""

import sys

from tf_seqattn.keras_api import Layer, keras3


def is_feature_cross(layer: Layer) -> bool:
    """Whether a layer is a `FeatureCross` of keras-rs, or of a subclass.

    Example:

    >>> is_feature_cross(keras.layers.Dense(8))
    False
    """
    # Whoever has such a layer has imported keras_rs. We need not install it.
    library = sys.modules.get("keras_rs")
    return library is not None and isinstance(layer, library.layers.FeatureCross)


def dense_layers(layer: Layer) -> dict[str, Layer]:
    """The dense layers of a built `FeatureCross`, by attribute, as they are called.

    `FeatureCross.build` makes them, but leaves their kernels to the first call. They
    are built here if that is yet to come.

    Args:
      layer: built.

    Returns:
      `down_proj_dense` where there is a `projection_dim`, then `dense`.
    """
    names = ("dense",) if layer.projection_dim is None else ("down_proj_dense", "dense")
    found = {name: getattr(layer, name) for name in names}
    # The cross has as many outputs as inputs.
    inputs = layer.dense.units
    for dense in found.values():
        if not dense.built:
            with keras3.name_scope(layer.name, caller=layer):
                dense.build((None, inputs))
        inputs = dense.units
    return found
