"""Removes attention heads that add nothing to the output, with all four projections.

If the rows of the output projection for a head are zero, nothing reads the head. If its
values are zero, it adds nothing. The result is a smaller `MultiHeadAttention` with
dense kernels. A head whose values are only a bias stays: it adds a constant, except
where a mask hides all keys.
"""

from typing import Any

import tensorflow as tf

from tf_seqattn.keras_api import (
    build_attention,
    build_like,
    classes,
    projections,
)


def _gives_scores(layer: Any) -> bool:
    """Whether a graph asks for the scores of the heads, or no graph has the layer."""
    calls = layer._inbound_nodes
    return not calls or any(len(tf.nest.flatten(c.outputs)) > 1 for c in calls)


def without_dead_heads(layer: Any) -> Any:
    """A smaller attention layer, without the heads that add nothing.

    Args:
      layer: a built `MultiHeadAttention` of a graph model. The kernels of the query,
        key and value are `(inputs, heads, size)`, the kernel of the output is `(heads,
        size, outputs)`.

    Returns:
      A built layer with the weights of the heads that count, at least one. It is the
      layer itself if all heads count, if the model reads the scores of the heads, if it
      has a gate, or if it is of another class.

    Example:

    >>> x = keras.Input((5, 32))
    >>> layer = keras.layers.MultiHeadAttention(num_heads=4, key_dim=8)
    >>> model = keras.Model(x, layer(x, x))
    >>> weights = layer.get_weights()
    >>> weights[6][1:3] = 0  # The output's kernel: nothing reads two of the heads.
    >>> layer.set_weights(weights)
    >>> [w.shape for w in without_dead_heads(layer).get_weights()][:2]
    [(32, 2, 8), (2, 8)]
    """
    if type(layer) not in classes("MultiHeadAttention") or _gives_scores(layer):
        return layer
    if getattr(layer, "_use_gate", False):
        return layer
    parts = {name: dense.get_weights() for name, dense in projections(layer).items()}
    output = parts["output"][0]
    is_read = output.any(axis=tuple(range(1, output.ndim)))
    values, *bias = parts["value"]
    is_written = values.any(axis=(0, 2))
    if bias:
        is_written |= bias[0].any(axis=1)
    lives = is_read & is_written
    if lives.all():
        return layer
    if not lives.any():
        # Keras has no attention without heads.
        lives[0] = True
    smaller = type(layer).from_config(
        {**layer.get_config(), "num_heads": int(lives.sum())}
    )
    build_like(smaller, layer)
    build_attention(smaller)
    for name, dense in projections(smaller).items():
        kernel, *bias = parts[name]
        if name == "output":
            dense.set_weights([kernel[lives], *bias])
        else:
            dense.set_weights([kernel[:, lives], *(b[lives] for b in bias)])
    return smaller
