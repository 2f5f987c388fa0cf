"""The strategies of `tf.distribute` by the names that command lines take."""

import tensorflow as tf

STRATEGIES = ("none", "mirrored", "multiworker", "parameter_server", "tpu")


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Returns a strategy for training.

    Args:
      name: "none" for one device, "mirrored" for all GPUs of this machine (or all its
        logical CPUs), "multiworker" for several machines as `TF_CONFIG` names them,
        "parameter_server" for the chief of workers and parameter servers that
        `TF_CONFIG` names (see `serve_cluster`), "tpu" for the TPU of this virtual
        machine.

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
    if name == "parameter_server":
        return tf.distribute.ParameterServerStrategy(_cluster())
    if name == "tpu":
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu="local")
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    raise ValueError(
        f"`name` must be one of {', '.join(STRATEGIES)}. Received: name={name!r}"
    )


def _cluster() -> tf.distribute.cluster_resolver.TFConfigClusterResolver:
    return tf.distribute.cluster_resolver.TFConfigClusterResolver(rpc_layer="grpc")


def serve_cluster() -> None:
    """Serves the chief, if this process is a worker or a parameter server of one.

    `TF_CONFIG` says what it is. A server never returns; the chief and processes
    outside of a cluster go on at once.
    """
    resolver = _cluster()
    if resolver.task_type in ("worker", "ps"):
        tf.distribute.Server(
            resolver.cluster_spec(),
            job_name=resolver.task_type,
            task_index=resolver.task_id,
            protocol="grpc",
        ).join()
