"""ResNet50 of `tf_keras.applications`, with weight decay on its kernels."""

import tf_keras as keras


def build_model(
    num_classes: int, size: int = 224, weight_decay: float = 1e-4
) -> keras.Model:
    """Returns a ResNet50 that gives logits.

    Args:
      num_classes: length of the output.
      size: pixels of a side of the images.
      weight_decay: half of it times the squares of all kernels is added to the loss.

    Returns:
      A functional model from float32 `(batch, size, size, 3)` to float32
      `(batch, num_classes)`.
    """
    model = keras.applications.ResNet50(
        weights=None,
        classes=num_classes,
        input_shape=(size, size, 3),
        # A float32 output under mixed precision, for the loss.
        classifier_activation=None,
    )

    def with_decay(layer):
        config = layer.get_config()
        if "kernel_regularizer" in config:
            config["kernel_regularizer"] = keras.regularizers.L2(weight_decay / 2)
        if layer is model.layers[-1]:
            config["dtype"] = "float32"
        return type(layer).from_config(config)

    return keras.models.clone_model(model, clone_function=with_decay)
