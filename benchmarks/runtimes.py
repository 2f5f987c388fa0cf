"""Runs one network in LiteRT, ONNX Runtime and OpenVINO, each ready to be timed."""

import importlib.util
import os
from collections.abc import Callable

import numpy as np

from tf_seqattn.inference import litert

# Runs the network once, and gives its outputs.
Program = tuple[Callable[[], object], Callable[[], np.ndarray]]
_PACKAGES = ("onnxruntime", "openvino", "tf2onnx")


def peers_installed() -> bool:
    """Whether the runtimes beside LiteRT are there: the extra `peers`."""
    return all(importlib.util.find_spec(name) for name in _PACKAGES)


def peer_versions() -> str:
    """Their names and versions."""
    import onnxruntime
    import openvino

    return ", ".join(f"{m.__name__} {m.__version__}" for m in (onnxruntime, openvino))


def onnx_of(path: str | os.PathLike[str]) -> bytes:
    """A TFLite file in float32 as an ONNX model."""
    import onnx
    import tf2onnx

    # The newest operators that both runtimes read.
    model, _ = tf2onnx.convert.from_tflite(os.fspath(path), opset=17)
    # tf2onnx leaves an exact GELU as it is. Both runtimes know it by another name.
    for node in model.graph.node:
        if node.op_type == "TFL_GELU":
            node.op_type, node.domain = "Gelu", "com.microsoft"
            del node.attribute[:]
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return model.SerializeToString()


def in_litert(file: bytes, x: np.ndarray, num_threads: int) -> Program:
    """A TFLite file in LiteRT."""
    made = litert.interpreter(file, [x], num_threads=num_threads)
    index = made.get_output_details()[0]["index"]
    return made.invoke, lambda: made.get_tensor(index)


def in_onnx_runtime(model: bytes, x: np.ndarray, num_threads: int) -> Program:
    """An ONNX model of one input in ONNX Runtime, with inputs and outputs bound."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    binding.bind_cpu_input(session.get_inputs()[0].name, x)
    binding.bind_output(session.get_outputs()[0].name)
    return (
        lambda: session.run_with_iobinding(binding),
        lambda: binding.copy_outputs_to_cpu()[0],
    )


def in_openvino(model: bytes, x: np.ndarray, num_threads: int) -> Program:
    """An ONNX model of one input in OpenVINO, in float32 and for latency."""
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(model),
        "CPU",
        {
            "INFERENCE_NUM_THREADS": num_threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        },
    )
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(x))
    return request.infer, lambda: request.get_output_tensor().data
