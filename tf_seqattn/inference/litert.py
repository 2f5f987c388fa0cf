"""Runs TFLite files with LiteRT."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

# A file is run with both before it is trusted: some are wrong with only one of them.
RESOLVERS = {
    "default delegate": OpResolverType.AUTO,
    "no delegate": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
}

# What LiteRT says of a tensor: its index, dtype and shape among others.
_Details = dict[str, Any]


def _in_order(
    details: list[_Details], named: dict[str, _Details], names: Sequence[str] | None
) -> list[_Details]:
    """Details in the order of `names`, since a file lists its tensors in its own order.

    Args:
      details: details of all tensors, in the order of the file.
      named: the same details by their names in the signature.
      names: names of the tensors of the model; ignored if there is only one tensor.
    """
    if len(details) == 1 or names is None:
        return details
    missing = set(names) - set(named)
    if missing:
        raise ValueError(
            f"The TFLite file's signature has {sorted(named)}, not {sorted(missing)}."
        )
    return [named[name] for name in names]


def interpreter(
    file: bytes,
    inputs: Sequence[np.ndarray],
    resolver: OpResolverType = OpResolverType.AUTO,
    num_threads: int = 1,
    input_names: Sequence[str] | None = None,
) -> Interpreter:
    """An interpreter of a TFLite file that holds its inputs, ready to `invoke`.

    Args:
      file: the file's bytes.
      inputs: one array for each input.
      resolver: which kernels LiteRT may use.
      num_threads: number of threads of the kernels.
      input_names: names of the inputs in the file's signature. By default the inputs
        are in the order of the file.
    """
    made = Interpreter(
        model_content=file,
        num_threads=num_threads,
        experimental_op_resolver_type=resolver,
    )
    named = {}
    if input_names is not None:
        named = made.get_signature_runner().get_input_details()
    details = _in_order(made.get_input_details(), named, input_names)
    for detail, value in zip(details, inputs, strict=True):
        made.resize_tensor_input(detail["index"], value.shape)
    made.allocate_tensors()
    for detail, value in zip(details, inputs, strict=True):
        made.set_tensor(detail["index"], value.astype(detail["dtype"]))
    return made


def run(
    file: bytes,
    inputs: Sequence[np.ndarray],
    resolver: OpResolverType = OpResolverType.AUTO,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> list[np.ndarray]:
    """Runs a TFLite file once, on one thread.

    Args:
      file: the file's bytes.
      inputs: one array for each input.
      resolver: which kernels LiteRT may use.
      input_names: names of the inputs in the file's signature.
      output_names: names of the outputs in the file's signature.

    Returns:
      Its outputs, in the order of `output_names`, or by default of the file.
    """
    made = interpreter(file, inputs, resolver, input_names=input_names)
    made.invoke()
    named = {}
    if output_names is not None:
        named = made.get_signature_runner().get_output_details()
    details = _in_order(made.get_output_details(), named, output_names)
    return [made.get_tensor(detail["index"]) for detail in details]
