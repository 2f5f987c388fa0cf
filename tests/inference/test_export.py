"""Exported files run elsewhere and agree; wrong files are refused."""

import json
import os
import subprocess
import sys

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tests.inference.conftest import block_sparse, set_block_sparse
from tf_seqattn.inference import flatbuffer, layer_plan, litert, tflite
from tf_seqattn.inference.agreement import disagreement, rows_and_outputs
from tf_seqattn.inference.precision import set_precision
from tf_seqattn.inference.tflite import METADATA, TOLERANCES
from tf_seqattn.keras_api import computing_in_float32

layers = keras.layers
# Every test runs on Keras 2 and on Keras 3.
pytestmark = pytest.mark.usefixtures("keras")
RNG = np.random.default_rng(0)


def relative(outputs, expected) -> float:
    return float(np.abs(outputs - expected).max() / np.abs(expected).max())


# TFLite.


@pytest.mark.exhaustive
@pytest.mark.parametrize("quantization", TOLERANCES)
@pytest.mark.parametrize("layout", ["packed", "dense"])
def test_tflite(mlp, tmp_path, layout, quantization):
    x = RNG.normal(size=(40, 96)).astype("float32")
    path = tmp_path / "model.tflite"
    report = sa.export_tflite(
        mlp, path, layout, quantization,
        representative_dataset=[x] if quantization == "int8" else None,
        choose="always",
    )  # fmt: skip
    file = path.read_bytes()
    assert report.num_bytes == len(file) and not flatbuffer.custom_operators(file)
    packed = "BATCH_MATMUL" if quantization == "dynamic" else "CONV_2D"
    product = packed if layout == "packed" else "FULLY_CONNECTED"
    assert flatbuffer.operator_names(file).count(product) >= 2
    expected = mlp(x).numpy()
    for resolver in litert.RESOLVERS.values():
        for batch in (1, 40):
            (outputs,) = litert.run(file, [x[:batch]], resolver)
            assert relative(outputs, expected[:batch]) <= TOLERANCES[quantization]
    assert max(report.differences.values()) <= (
        TOLERANCES[quantization] * report.largest_output
    )
    stored = json.loads(flatbuffer.read_metadata(file, METADATA))
    assert [p["layout"] for p in stored] == [p.layout for p in report.plans]
    interpreter = litert.interpreter(file, [x])
    assert list(interpreter.get_signature_list()) == ["serving_default"]


@pytest.mark.exhaustive
@pytest.mark.parametrize("quantization", TOLERANCES)
def test_separable_convolutions(separable, tmp_path, quantization):
    x = RNG.normal(size=(20, 8, 8, 16)).astype("float32")
    path = tmp_path / "model.tflite"
    sa.export_tflite(
        separable, path, "packed", quantization,
        representative_dataset=[x] if quantization == "int8" else None,
        choose="always",
    )  # fmt: skip
    names = flatbuffer.operator_names(path.read_bytes())
    assert names.count("DEPTHWISE_CONV_2D") == 2
    product = "BATCH_MATMUL" if quantization == "dynamic" else "CONV_2D"
    assert names.count(product) >= 2
    expected = separable(x).numpy()
    for resolver in litert.RESOLVERS.values():
        for batch in (1, 20):
            (outputs,) = litert.run(path.read_bytes(), [x[:batch]], resolver)
            assert relative(outputs, expected[:batch]) <= TOLERANCES[quantization]


def test_int8_products_are_centred():
    constant = RNG.uniform(1, 2, size=(2, 8, 4)).astype("float32")
    spec = tf.TensorSpec((2, 3, 8), tf.float32)
    function = tf.function(lambda x: tf.matmul(x, constant), input_signature=[spec])
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], tf.Module()
    )
    x = RNG.normal(size=(2, 3, 8)).astype("float32")
    set_precision(converter, "int8", lambda: [[x]])
    file = flatbuffer.center_constant_operands(converter.convert())
    (outputs,) = litert.run(file, [x])
    assert relative(outputs, x @ constant) < 0.02
    model = flatbuffer.read(file)
    graph = model.subgraphs[0]
    names = flatbuffer.operator_names(file)
    constants = [
        graph.tensors[operator.inputs[1]]
        for operator, name in zip(graph.operators, names, strict=True)
        if name == "BATCH_MATMUL"
    ]
    assert constants
    for tensor in constants:
        assert tensor.quantization.zeroPoint.tolist() == [0]


def test_a_packed_file_holds_the_kept_weights_only(tmp_path):
    model = keras.Sequential([keras.Input((1024,)), layers.Dense(1024, use_bias=False)])
    kernel = block_sparse((1024, 1024), (32, 32), 0.1, RNG)
    model.set_weights([kernel])
    report = sa.export_tflite(model, tmp_path / "m.tflite")
    assert report.num_bytes <= 1.10 * 4 * np.count_nonzero(kernel)


def test_a_convolutional_model_in_a_subclass(tmp_path):
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv = layers.Conv2D(32, 3, padding="same", activation="relu")
            self.dense = layers.Dense(10)

        def call(self, inputs):
            return self.dense(tf.reduce_mean(self.conv(inputs), axis=(1, 2)))

    model = Net()
    x = RNG.normal(size=(4, 8, 8, 16)).astype("float32")
    model(x)
    set_block_sparse(model)
    expected = model(x).numpy()
    path = tmp_path / "m.tflite"
    sa.export_tflite(model, path, choose="always", representative_dataset=[x])
    (outputs,) = litert.run(path.read_bytes(), [x])
    assert relative(outputs, expected) < 1e-5


PRECISIONS = ["mixed_bfloat16", "mixed_float16"]


def mixed_model(precision, in_subclass: bool):
    """Attention and a convolution in mixed precision, with such an output."""
    keras.mixed_precision.set_global_policy(precision)
    x = keras.Input((8, 16), name="x")
    y = layers.Conv1D(32, 3, padding="same", use_bias=False)(x)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    y = layers.MultiHeadAttention(2, 16)(y, y)
    net = keras.Model(x, layers.Dense(32)(layers.LayerNormalization()(y)))
    if in_subclass:

        class Net(keras.Model):
            def __init__(self):
                super().__init__()
                self.net = net

            def call(self, inputs):
                return self.net(inputs) * 2.0

        net = Net()
        net(RNG.normal(size=(4, 8, 16)).astype("float32"))
    return set_block_sparse(net)


@pytest.mark.exhaustive
@pytest.mark.parametrize("in_subclass", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_mixed_precision_is_written_in_float32(precision, in_subclass, tmp_path):
    model = mixed_model(precision, in_subclass)
    x = RNG.normal(size=(4, 8, 16)).astype("float32")
    with computing_in_float32(model):
        expected = model(x).numpy()
    assert expected.dtype == np.float32
    rounding = np.std(np.float32(model(x)) - expected)
    report = sa.export_tflite(model, tmp_path / "m.tflite", choose="always")
    assert any(plan.layout == "packed" for plan in report.plans)
    (outputs,) = litert.run((tmp_path / "m.tflite").read_bytes(), [x])
    assert relative(outputs, expected) < 1e-4
    # The model itself still mixes precisions, except for layers packed in place.
    half = precision.removeprefix("mixed_")
    assert keras.mixed_precision.global_policy().name == precision
    assert model.compute_dtype == half and (in_subclass or model(x).dtype == half)
    assert np.std(np.float32(model(x)) - expected) <= 2 * rounding


def test_several_inputs_and_outputs(tmp_path):
    a, b = keras.Input((32,), name="a"), keras.Input((5, 32), name="b")
    pooled = layers.GlobalAveragePooling1D()(layers.Dense(32)(b))
    outputs = [layers.Dense(16)(a + pooled), layers.Dense(8)(a)]
    model = set_block_sparse(keras.Model([a, b], outputs))
    report = sa.export_tflite(model, tmp_path / "m.tflite", choose="always")
    assert report.differences["no delegate"] < 1e-5 * report.largest_output


def test_tflite_sparse_encoding(tmp_path):
    model = keras.Sequential([keras.Input((256,)), layers.Dense(64)])
    model.set_weights([block_sparse((256, 64), (16, 16), 0.2, RNG), np.ones(64)])
    sizes = {}
    for layout in ("sparse", "dense"):
        report = sa.export_tflite(model, tmp_path / layout, layout)
        sizes[layout] = report.num_bytes
    assert sizes["sparse"] < 0.5 * sizes["dense"]


@pytest.mark.parametrize("quantization", ["float16", "dynamic", "int8"])
def test_sparse_encoding_is_refused_where_runtimes_misread_it(
    mlp, tmp_path, quantization
):
    with pytest.raises(ValueError, match='sparse.*wrong results.*layout="packed"'):
        sa.export_tflite(
            mlp, tmp_path / "m", "sparse", quantization, representative_dataset=[]
        )
    assert not list(tmp_path.iterdir())


def test_sparse_encoding_is_refused_where_it_drops_inputs(tmp_path):
    model = keras.Sequential([keras.Input((30,)), layers.Dense(32, name="odd")])
    model.set_weights([block_sparse((30, 32), (10, 8), 0.3, RNG), np.ones(32)])
    with pytest.raises(ValueError, match="'odd'.*30 inputs are not a multiple of 4"):
        sa.export_tflite(model, tmp_path / "m", "sparse")


# Files that must not be written.


def test_a_file_that_disagrees_is_not_written(mlp, tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(b"before")
    with pytest.raises(RuntimeError, match="disagrees.*largest difference .* output 0"):
        sa.export_tflite(mlp, path, quantization="dynamic", tolerance=1e-9)
    assert path.read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


def test_a_path_that_cannot_be_written(mlp, tmp_path):
    for export in (sa.export_tflite, sa.export_saved_model):
        with pytest.raises(ValueError, match="missing.*Make it first"):
            export(mlp, tmp_path / "missing" / "model")
    with pytest.raises(ValueError, match="is a folder"):
        sa.export_tflite(mlp, tmp_path)
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ValueError, match="is a file"):
        sa.export_saved_model(mlp, tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(mlp, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="not a writable folder"):
        sa.export_tflite(mlp, tmp_path / "m.tflite")


def test_operators_that_tflite_lacks_name_the_layer(tmp_path):
    class Igamma(layers.Layer):
        def call(self, inputs):
            return tf.math.igamma(inputs, inputs)

    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8), Igamma(name="odd_op")]
    )
    with pytest.raises(
        ValueError, match="layer odd_op.*no built-in operator for Igamma"
    ):
        sa.export_tflite(model, tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())


def two_outputs(first=1.0, second=1.0):
    """Two dense layers side by side; the kernels times the given factors."""
    x = keras.Input((16,), name="x")
    outputs = [layers.Dense(8, name=name)(x) for name in ("first", "second")]
    model = keras.Model(x, outputs)
    weights = model.get_weights()
    weights[0], weights[2] = weights[0] * first, weights[2] * second
    model.set_weights(weights)
    return model


EXPORTS = [sa.export_tflite, sa.export_saved_model, sa.export_stablehlo]


@pytest.mark.parametrize("export", EXPORTS)
def test_nan_in_the_second_output_is_refused(export, tmp_path):
    with pytest.raises(ValueError, match=r"NaN in output 1.*second/kernel"):
        export(two_outputs(second=np.nan), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_every_output_has_its_own_scale(tmp_path):
    model = two_outputs(first=1e6)
    expected = [np.asarray(v) for v in model(np.ones((2, 16), "float32"))]
    off = [expected[0], expected[1] * 1.01]
    assert not disagreement(expected, [expected[0] * 1.00001, expected[1]], 1e-4)
    assert "output 1" in disagreement(expected, off, 1e-4)
    nan = [expected[0], expected[1] * np.nan]
    assert "nan of output 1" in disagreement(expected, nan, 1e-4)
    other = two_outputs()
    other.set_weights([*model.get_weights()[:2], *two_outputs().get_weights()[2:]])
    with pytest.MonkeyPatch.context() as patch:
        # This acts as if the converter had changed the second output.
        patch.setattr(
            tflite, "rows_and_outputs", lambda _, *rest: rows_and_outputs(other, *rest)
        )
        with pytest.raises(RuntimeError, match="disagrees.*output 1"):
            sa.export_tflite(model, tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("export", EXPORTS)
def test_a_model_of_positive_inputs(export, tmp_path):
    class Log(layers.Layer):
        def call(self, inputs):
            return tf.math.log(inputs)

    model = keras.Sequential([keras.Input((4,)), Log(), layers.Dense(3)])
    export(model, tmp_path / "model")


def test_truth_values_and_integers(tmp_path):
    class Best(layers.Layer):
        def call(self, inputs):
            return tf.argmax(inputs, axis=-1, output_type=tf.int32), inputs > 0.0

    x = keras.Input((16,), name="x")
    y = layers.Dense(8)(x)
    model = keras.Model(x, [y, *Best()(y)])
    report = sa.export_tflite(model, tmp_path / "m.tflite")
    assert report.differences["no delegate"] < 1e-4


def nested_inputs(kind):
    """A subclassed model whose call takes a list or a dictionary, and its inputs."""

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.two = layers.Dense(24), layers.Dense(24)

        def call(self, inputs):
            a, b = inputs if kind == "list" else (inputs["b"], inputs["a"])
            return {"sum": self.one(a) + self.two(b), "first": self.one(a)}

    a, b = (RNG.normal(size=(8, size)).astype("float32") for size in (16, 32))
    inputs = [a, b] if kind == "list" else {"b": a, "a": b}
    model = Net()
    model(inputs)
    return set_block_sparse(model), inputs


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_subclassed_models_of_several_inputs(kind, tmp_path):
    model, inputs = nested_inputs(kind)
    expected = {key: np.asarray(value) for key, value in model(inputs).items()}
    sa.export_saved_model(model, tmp_path / "served", choose="always")
    served = tf.saved_model.load(str(tmp_path / "served"))
    serve = served.signatures["serving_default"]
    names = serve.structured_input_signature[1]
    by_width = {a.shape[1]: a for a in tf.nest.flatten(inputs)}
    found = serve(**{n: tf.constant(by_width[s.shape[1]]) for n, s in names.items()})
    if kind == "dict":
        assert {*names} == {"a", "b"}
    # Dictionaries of outputs are sorted by their keys.
    assert relative(found["output_0"], expected["first"]) < 1e-5
    assert relative(found["output_1"], expected["sum"]) < 1e-5


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_subclassed_models_of_several_inputs_in_other_formats(kind, tmp_path):
    sa.export_stablehlo(nested_inputs(kind)[0], tmp_path / "m.mlir")
    for quantization in (None, "int8"):
        model, inputs = nested_inputs(kind)
        report = sa.export_tflite(
            model, tmp_path / "m", "packed", quantization, [inputs], choose="always"
        )
        tolerance = TOLERANCES[quantization]
        assert report.differences["no delegate"] < tolerance * report.largest_output


def test_custom_gradients_are_no_obstacle(tmp_path):
    @tf.custom_gradient
    def twice(x):
        scale = tf.reduce_mean(x)
        return x * 2.0, lambda gradient: gradient * scale

    class Twice(layers.Layer):
        def call(self, inputs):
            return twice(inputs)

    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8, activation="swish"), Twice()]
    )
    report = sa.export_tflite(model, tmp_path / "m.tflite")
    assert report.largest_output > 0


@pytest.mark.parametrize("keras", ["keras"], indirect=True)
def test_a_quantized_model_names_operator_layer_and_reason(keras, tmp_path):
    model = keras.Sequential([keras.Input((8,)), layers.Dense(8, name="eight_bits")])
    model.get_layer("eight_bits").quantize("int8")
    with pytest.raises(
        ValueError, match=r"layer eight_bits.*fully_connected \(operand #0 must be"
    ):
        sa.export_tflite(model, tmp_path / "m.tflite")


@pytest.mark.parametrize("choose", ["model", "measure"])
def test_it_decides_for_the_precision_and_threads_of_the_file(mlp, tmp_path, choose):
    x = RNG.normal(size=(40, 96)).astype("float32")
    report = sa.export_tflite(
        mlp, tmp_path / "m.tflite", "packed", "int8", [x], choose=choose, num_threads=2
    )
    assert {(p.precision, p.num_threads) for p in report.plans} == {("int8", 2)}
    assert all((p.measured is None) == (choose == "model") for p in report.plans)
    stored = flatbuffer.read_metadata((tmp_path / "m.tflite").read_bytes(), METADATA)
    assert {plan["precision"] for plan in json.loads(stored)} == {"int8"}


RAW = {
    "sums": lambda o, x, y: o.relu(x + y) * 2.0 - y,
    "slices": lambda o, x, y: x[:, 1:] - y[:, ::-1][:, :-1],
    "shapes": lambda o, x, y: o.concat([o.reshape(x, (-1, 8)), y], 1),
}


class Operations2:
    relu, reshape, concat = tf.nn.relu, tf.reshape, tf.concat


class Operations3:
    relu = keras3.ops.relu
    reshape, concat = keras3.ops.reshape, keras3.ops.concatenate


@pytest.mark.parametrize("name", RAW)
def test_functional_models_with_raw_operations(keras, name, tmp_path):
    x, y = keras.Input((8,), name="x"), keras.Input((8,), name="y")
    operations = Operations2 if keras.__name__ == "tf_keras" else Operations3
    raw = RAW[name](operations, layers.Dense(8)(x), y)
    model = set_block_sparse(keras.Model([x, y], layers.Dense(16)(raw)))
    report = sa.export_tflite(model, tmp_path / "m.tflite", choose="always")
    assert report.differences["no delegate"] < 1e-5 * report.largest_output


def test_a_full_disk_is_named(mlp, tmp_path):
    """Runs in its own process, with a limit on file sizes below that of the model."""
    code = f"""
import resource
import tf_keras as keras
import tf_seqattn as sa
model = keras.Sequential([keras.Input((96,)), keras.layers.Dense(96)])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for export in (sa.export_tflite, sa.export_saved_model, sa.export_stablehlo):
    try:
        export(model, {str(tmp_path / "model")!r})
    except OSError as error:
        print(str(error).replace(chr(10), " "))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    assert all("File too large" in line for line in lines)
    assert "TMPDIR" in lines[0] and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ([np.zeros((4, 95))], r"Batch 0.*\(4, 95\).*\(None, 96\)"),
        ([np.zeros(96)], r"Batch 0.*\(96,\)"),
        ([[np.zeros((4, 96))] * 2], "Batch 0"),
        ([], "is empty"),
        (None, "needs `representative_dataset`"),
    ],
)
def test_representative_dataset_that_does_not_fit(mlp, tmp_path, dataset, message):
    with pytest.raises(ValueError, match=message):
        sa.export_tflite(
            mlp,
            tmp_path / "m",
            quantization="int8",
            representative_dataset=dataset,
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "csr"}, "'packed', 'sparse', 'dense'.*'csr'"),
        ({"quantization": "int4"}, "'dynamic', 'int8'.*'int4'"),
    ],
)
def test_bad_arguments(mlp, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        sa.export_tflite(mlp, tmp_path / "m", **arguments)


# SavedModel.


def test_saved_model_is_compiled_and_takes_any_batch(mlp, tmp_path):
    path = tmp_path / "served"
    for _ in range(2):  # The second replaces the first.
        sa.export_saved_model(mlp, path, choose="always")
    assert [p.name for p in tmp_path.iterdir()] == ["served"]
    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]
    for batch in (1, 7):
        x = RNG.normal(size=(batch, 96)).astype("float32")
        outputs = serve(x=tf.constant(x))["output_0"]
        assert relative(outputs, mlp(x).numpy()) < 1e-5
    library = serve.graph.as_graph_def().library.function
    compiled = [f for f in library if f.attr["_XlaMustCompile"].b]
    assert compiled, "the signature is compiled by XLA"


@pytest.mark.exhaustive
@pytest.mark.parametrize("precision", PRECISIONS)
def test_saved_model_keeps_mixed_precision(precision, tmp_path):
    model = mixed_model(precision, in_subclass=False)
    x = RNG.normal(size=(64, 8, 16)).astype("float32")
    with computing_in_float32(model):
        expected = model(x).numpy()
    rounding = np.std(np.float32(model(x)) - expected)
    sa.export_saved_model(model, tmp_path / "served", choose="always")
    serve = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"]
    outputs = serve(tf.constant(x))["output_0"]
    half = precision.removeprefix("mixed_")
    assert outputs.dtype == half
    assert 0 < np.std(np.float32(outputs) - expected) <= 2 * rounding


def test_saved_model_of_separable_convolutions(separable, tmp_path):
    sa.export_saved_model(separable, tmp_path / "served", choose="always")
    serve = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"]
    for batch in (1, 5):
        x = RNG.normal(size=(batch, 8, 8, 16)).astype("float32")
        outputs = serve(x=tf.constant(x))["output_0"]
        assert relative(outputs, separable(x).numpy()) < 1e-5


def test_saved_model_of_a_class_that_makes_its_own_graph(keras, tmp_path):
    if keras.__name__ == "tf_keras":
        pytest.skip("Keras 2 cannot rebuild such a model, nor change its graph")

    class Own(keras.Model):
        def __init__(self):
            x = keras.Input((32,))
            super().__init__(inputs=x, outputs=layers.Dense(16)(layers.Dense(32)(x)))

    model = set_block_sparse(Own())
    x = RNG.normal(size=(4, 32)).astype("float32")
    expected = model(x).numpy()
    sa.export_saved_model(model, tmp_path / "served", choose="always")
    serve = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"]
    (outputs,) = serve(tf.constant(x)).values()
    assert relative(outputs, expected) < 1e-5


def test_saved_model_that_disagrees_is_not_written(mlp, tmp_path):
    with pytest.raises(RuntimeError, match="disagrees"):
        sa.export_saved_model(mlp, tmp_path / "served", choose="always", tolerance=0.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keras", ["keras"], indirect=True)
def test_saved_model_leaves_a_folder_of_the_user_alone(mlp, tmp_path):
    path = tmp_path / "mine"
    (path / ".git").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds '.git'"):
        sa.export_saved_model(mlp, path)
    assert [p.name for p in path.iterdir()] == [".git"]
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


# StableHLO.


def test_stablehlo_is_a_module_without_paths(mlp, tmp_path):
    path = tmp_path / "model.mlir"
    sa.export_stablehlo(mlp, path, batch_size=4, choose="always")
    text = path.read_text()
    assert "func.func @main(%arg0: tensor<4x96xf32>)" in text
    assert "stablehlo.dot_general" in text and "stablehlo.gather" in text
    assert "loc(" not in text and ".py" not in text


def test_stablehlo_runs_in_jax(mlp, tmp_path):
    """It is skipped without JAX, which is as large as TensorFlow."""
    jax = pytest.importorskip("jax")
    from jax.extend import backend
    from jaxlib import _jax, xla_client

    path = tmp_path / "model.mlir"
    sa.export_stablehlo(mlp, path, batch_size=4, choose="always")
    devices = jax.devices("cpu")[:1]
    program = backend.get_backend("cpu").compile_and_load(
        path.read_text(), _jax.DeviceList(tuple(devices)), xla_client.CompileOptions()
    )
    x = RNG.normal(size=(4, 96)).astype("float32")
    results = program.execute_sharded([jax.device_put(x, devices[0])])
    ((outputs,),) = results.disassemble_into_single_device_arrays()
    assert relative(np.asarray(outputs), mlp(x).numpy()) < 1e-5


def test_stablehlo_needs_known_sizes(tmp_path):
    x = keras.Input((None, 16))
    model = keras.Model(x, layers.Dense(8)(x))
    with pytest.raises(ValueError, match=r"\(64, None, 16\).*known sizes"):
        sa.export_stablehlo(model, tmp_path / "m.mlir")


def test_the_same_model_gives_the_same_bytes_however_much_was_done_before(
    tmp_path, keras
):
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)])
    set_block_sparse(model)
    sa.export_tflite(model, tmp_path / "first.tflite", choose="always")
    keras.layers.Dense(3)(np.ones((1, 2), "float32"))
    sa.export_tflite(model, tmp_path / "second.tflite", choose="always")
    first, second = (
        (tmp_path / f"{name}.tflite").read_bytes() for name in ("first", "second")
    )
    assert first == second


@pytest.mark.parametrize("quantization", [None, "float16", "int8"])
def test_groups_with_empty_columns_and_a_chain(tmp_path, quantization, monkeypatch):
    rng = np.random.default_rng(0)
    kernel = block_sparse((128, 132), (16, 16), 0.4, rng)
    kernel[:, 16:48] = 0
    kernel[64:, 96:112] = 0
    model = keras.Sequential([keras.Input((128,)), layers.Dense(132, "relu")])
    model.set_weights([kernel, rng.normal(size=132)])
    x = rng.normal(size=(64, 128)).astype("float32")
    monkeypatch.setattr(layer_plan, "_CHAINED_BYTES", 1)
    monkeypatch.setattr(layer_plan, "_CACHE_BYTES", 2**12)
    files, errors = {}, {}
    for layout in ("packed", "dense"):
        report = sa.export_tflite(
            model, tmp_path / "m.tflite", layout, quantization, [x],
            block_size=(16, 16), choose="always",
        )  # fmt: skip
        files[layout] = (tmp_path / "m.tflite").read_bytes()
        (outputs,) = litert.run(files[layout], [x])
        errors[layout] = np.sqrt(np.mean((outputs - model(x).numpy()) ** 2))
        if layout == "packed":
            assert report.plans[0].pattern.chained
    names = flatbuffer.operator_names(files["packed"])
    products = [i for i, name in enumerate(names) if name == "CONV_2D"]
    assert len(products) > 2
    # Each slice is read after the product before it.
    for before, after in zip(products, products[1:], strict=False):
        assert "GATHER" in names[before:after] and "LESS" in names[before:after]
    # Bias and activation are inside.
    assert "RELU" not in names
    if quantization == "int8":
        assert errors["packed"] <= 1.1 * errors["dense"]


def test_a_dynamic_file_gives_a_sample_the_same_beside_others(mlp, tmp_path):
    x = RNG.normal(size=(2, 96)).astype("float32")
    x[1] *= 1000
    path = tmp_path / "m.tflite"
    sa.export_tflite(mlp, path, "packed", "dynamic", choose="always")
    (alone,) = litert.run(path.read_bytes(), [x[:1]])
    (beside,) = litert.run(path.read_bytes(), [x])
    np.testing.assert_allclose(beside[0], alone[0], atol=1e-5 * np.abs(alone).max())


def test_small_columns_keep_their_weights_in_8_bits(keras, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    kernel = block_sparse((128, 132), (16, 16), 0.4, rng)
    kernel[:, 16:48] = 0
    kernel *= np.logspace(-3, 0, 132)[rng.permutation(132)]
    model = keras.Sequential([keras.Input((128,)), keras.layers.Dense(132)])
    model.set_weights([kernel, np.zeros(132)])
    monkeypatch.setattr(layer_plan, "_CACHE_BYTES", 2**12)
    packed = sa.pack(model, block_size=(16, 16), choose="always")
    assert len(packed.layers[-1].pattern.slices) > 1
    before = [weight.copy() for weight in packed.get_weights()]
    x = rng.normal(size=(64, 128)).astype("float32")
    error = {}
    for layout, exported in {"packed": packed, "dense": model}.items():
        sa.export_tflite(exported, tmp_path / "m.tflite", layout, "dynamic")
        file = (tmp_path / "m.tflite").read_bytes()
        assert ("BATCH_MATMUL" in flatbuffer.operator_names(file)) == (
            layout == "packed"
        )
        (outputs,) = litert.run(file, [x])
        largest = np.maximum(np.abs(kernel).max(axis=0), 1e-9)
        error[layout] = np.sqrt(np.mean(((outputs - x @ kernel) / largest) ** 2))
    assert error["packed"] <= 1.1 * error["dense"]
    # The weights of the user's model are as they were.
    for weight, value in zip(packed.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)
