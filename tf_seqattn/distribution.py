"""The strategies of `tf.distribute` by the names that command lines take."""

import tensorflow as tf

STRATEGIES = ("none", "mirrored", "multiworker", "tpu")


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Returns a strategy for synchronous training.

    Args:
      name: "none" for one device, "mirrored" for all GPUs of this machine (or all its
        logical CPUs), "multiworker" for several machines as `TF_CONFIG` names them,
        "tpu" for the TPU of this virtual machine.

    Raises:
      ValueError: for another name.

    Example:

    >>> make_strategy("none").num_replicas_in_sync
    1
    """
    if name == "none":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU")
        devices = devices or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    if name == "multiworker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "tpu":
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu="local")
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    raise ValueError(
        f"`name` must be one of {', '.join(STRATEGIES)}. Received: name={name!r}"
    )
