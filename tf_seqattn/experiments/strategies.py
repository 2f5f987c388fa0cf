"""The strategies of `tf.distribute` by the names that command lines take."""

from collections.abc import Callable

import tensorflow as tf

STRATEGIES = ("none", "mirrored", "multiworker", "parameter_server", "tpu")
# A variable of two axes with so many rows is a table.
TABLE_ROWS = 2**17


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Returns a strategy for training.

    Args:
      name: "none" for one device, "mirrored" for all GPUs of this machine (or all its
        logical CPUs), "multiworker" for several machines as `TF_CONFIG` names them,
        "parameter_server" for the chief of workers and parameter servers that
        `TF_CONFIG` names (see `serve_cluster`), which share out the rows of tables of
        131,072 rows or more, "tpu" for the TPU of this virtual
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
        resolver = _cluster()
        servers = resolver.cluster_spec().num_tasks("ps")
        return tf.distribute.ParameterServerStrategy(
            resolver, variable_partitioner=_partitioner(servers)
        )
    if name == "tpu":
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu="local")
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    raise ValueError(
        f"`name` must be one of {', '.join(STRATEGIES)}. Received: name={name!r}"
    )


def _partitioner(servers: int) -> Callable[..., list[int]] | None:
    """What shares out the rows of large tables among the parameter servers.

    Kernels stay whole, since masks are made for whole kernels.
    """
    if servers < 2:
        return None

    def parts(shape: tf.TensorShape, dtype: tf.DType, **_: object) -> list[int]:
        del dtype
        found = [1] * shape.rank
        if shape.rank == 2 and shape[0] >= TABLE_ROWS:
            found[0] = servers
        return found

    return parts


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
