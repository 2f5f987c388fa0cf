"""Reads and changes TFLite files: operators, metadata, quantization."""

from typing import Any

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

_IDENTIFIER = b"TFL3"
_OPERATORS = {
    value: name
    for name, value in vars(schema.BuiltinOperator).items()
    if not name.startswith("_")
}


def read(file: bytes) -> schema.ModelT:
    """The file as a tree of objects."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(file, 0))


def write(model: schema.ModelT) -> bytes:
    """Inverse of `read`."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


def operator_names(file: bytes) -> list[str]:
    """Names of the operators of a file, in order; a custom one has its own name."""
    model = read(file)
    names = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            number = max(code.builtinCode, code.deprecatedBuiltinCode)
            name = _OPERATORS[number]
            names.append(code.customCode.decode() if name == "CUSTOM" else name)
    return names


def custom_operators(file: bytes) -> list[str]:
    """Names of the operators that stock runtimes lack."""
    builtin = set(_OPERATORS.values())
    return sorted({name for name in operator_names(file) if name not in builtin})


def add_metadata(file: bytes, name: str, content: bytes) -> bytes:
    """The file with one more named piece of metadata."""
    model = read(file)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(content, np.uint8)
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = name, len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    return write(model)


def read_metadata(file: bytes, name: str) -> bytes:
    """The content that `add_metadata` stored under `name`.

    Raises:
      ValueError: if there is none.
    """
    model = read(file)
    for entry in model.metadata or []:
        if entry.name.decode() == name:
            return bytes(bytearray(model.buffers[entry.buffer].data))
    raise ValueError(f"The TFLite file has no metadata named {name!r}.")


def name_constants(file: bytes) -> bytes:
    """Gives constants without a name of their own one that depends on the file alone.

    TensorFlow names them by a counter of the process, so that the same model would give
    another file in another process.
    """
    model = read(file)
    for graph in model.subgraphs:
        unnamed = [t for t in graph.tensors if t.name is not None and t.name.isdigit()]
        for number, tensor in enumerate(unnamed):
            tensor.name = f"constant_{number}"
    return write(model)


def center_constant_operands(file: bytes) -> bytes:
    """Gives the constant int8 operands of matrix products the zero point 0.

    The converter may choose another zero point. XNNPACK does not take such a product,
    and a kernel that is ten times as slow would run it.

    Args:
      file: a TFLite file quantized to int8.

    Returns:
      The same file with these operands quantized again. They change by at most half a
      step.
    """
    model = read(file)
    products = {
        index
        for index, code in enumerate(model.operatorCodes)
        if code.builtinCode == schema.BuiltinOperator.BATCH_MATMUL
    }
    done: dict[int, float] = {}
    for graph in model.subgraphs:
        for operator in graph.operators:
            if operator.opcodeIndex in products:
                for index in operator.inputs:
                    _center(model, graph.tensors[index], done)
    return write(model)


def _center(model: Any, tensor: Any, done: dict[int, float]) -> None:
    data = model.buffers[tensor.buffer].data
    is_constant = data is not None and len(data)
    if not is_constant or tensor.type != schema.TensorType.INT8:
        return
    quantization = tensor.quantization
    # Tensors that share a buffer have the same quantization.
    if tensor.buffer not in done:
        steps = np.asarray(data, np.uint8).view(np.int8).astype(np.float32)
        values = (steps - quantization.zeroPoint[0]) * quantization.scale[0]
        done[tensor.buffer] = np.abs(values).max() / 127 or 1.0
        centred = np.round(values / done[tensor.buffer]).astype(np.int8)
        model.buffers[tensor.buffer].data = centred.view(np.uint8)
    quantization.scale = np.array([done[tensor.buffer]], np.float32)
    quantization.zeroPoint = np.array([0], np.int64)
