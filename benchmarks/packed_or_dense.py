"""Whether an exported file is ever slower than the dense file of its precision.

Each case is one layer: shape, block, sparsity, batch, precision and number of threads.
It is exported dense, packed always, and as `sa.export_tflite` chooses by its cost
model. All files run in turns in one process. If the choice is dense, the file is the
dense one, and the ratio is 1.

    python benchmarks/packed_or_dense.py
    python benchmarks/packed_or_dense.py --fit    # constants for inference/cost.py
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import platform
import tempfile

import numpy as np
import tf_keras as keras
from scipy.optimize import least_squares

import tf_seqattn as sa
from benchmarks.quartiles import quartiles
from tf_seqattn.inference import cost, litert
from tf_seqattn.inference.block_format import Pattern
from tf_seqattn.inference.latency import time_in_turns
from tf_seqattn.inference.layer_plan import LayerPlan

RESULTS = pathlib.Path(__file__).parent / "results"
# (inputs, outputs, block rows, block columns, sparsity).
LAYERS = (
    (2048, 2048, 32, 32, 0.90),
    (2048, 2048, 16, 16, 0.90),
    (1000, 3000, 64, 64, 0.90),
    (768, 3072, 32, 32, 0.80),
    (1024, 1024, 16, 16, 0.70),
    (1024, 1024, 16, 64, 0.90),
    (1024, 1024, 64, 16, 0.90),
    (512, 512, 8, 8, 0.90),
    (390, 400, 20, 20, 0.80),
    (390, 400, 32, 32, 0.95),
)
BATCHES = (1, 16, 64, 256)
PRECISIONS = ("float32", "float16", "dynamic", "int8")
THREADS = (1, 2)
# A file that is slower than the dense one by more than that counts as slower.
ALLOWED = 0.97
PROCESSOR = "AVX2"


def block_mask(shape, block, density: float, rng) -> np.ndarray:
    """A 0/1 matrix that keeps `density` of its blocks (rows, columns), at random."""
    rows, columns = (-(-size // side) for size, side in zip(shape, block, strict=True))
    kept = max(1, round(density * rows * columns))
    support = rng.permutation(rows * columns).reshape(rows, columns) < kept
    return np.kron(support, np.ones(block))[: shape[0], : shape[1]]


def dense_layer(shape, block, sparsity: float) -> keras.Sequential:
    """A model of one Dense layer with zeros in blocks."""
    rng = np.random.default_rng(0)
    mask = block_mask(shape, block, 1 - sparsity, rng)
    model = keras.Sequential([keras.layers.Dense(shape[1], input_shape=shape[:1])])
    kernel = mask * rng.normal(size=shape) / np.sqrt(shape[0])
    model.set_weights([kernel, rng.normal(size=shape[1])])
    return model


def exported(model, x, layout: str, precision: str) -> tuple[bytes, list[LayerPlan]]:
    """The TFLite file of a model, and the plans of its layers."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.tflite"
        report = sa.export_tflite(
            model,
            path,
            layout,
            None if precision == "float32" else precision,
            representative_dataset=[x[:8]] if precision == "int8" else None,
            batch_size=len(x),
            choose="always",
        )
        return path.read_bytes(), report.plans


def relative_error(interpreter, expected) -> float:
    """Root mean square of the differences, relative to that of the outputs."""
    detail = interpreter.get_output_details()[0]
    wrong = interpreter.get_tensor(detail["index"]) - expected
    return float(np.sqrt(np.mean(wrong**2) / np.mean(expected**2)))


def measure_layer(layer, seconds: float):
    """Times one layer in all precisions, batches and numbers of threads."""
    inputs, outputs, height, width, sparsity = layer
    model = dense_layer((inputs, outputs), (height, width), sparsity)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(max(BATCHES), inputs)).astype("float32")
    expected = model(x).numpy()
    for precision in PRECISIONS:
        dense, _ = exported(model, x, "dense", precision)
        for batch in BATCHES:
            packed, (made,) = exported(model, x[:batch], "packed", precision)
            for threads in THREADS:
                files = {"dense": dense, "packed": packed}
                runs = {
                    name: litert.interpreter(file, [x[:batch]], num_threads=threads)
                    for name, file in files.items()
                }
                times = time_in_turns({n: r.invoke for n, r in runs.items()}, seconds)
                errors = {
                    n: relative_error(r, expected[:batch]) for n, r in runs.items()
                }
                yield {
                    "layer": list(layer),
                    "batch": batch,
                    "precision": precision,
                    "threads": threads,
                    "microseconds": {
                        n: 1e6 * float(np.median(t)) for n, t in times.items()
                    },
                    "speedup": quartiles(times["dense"] / times["packed"]),
                    "errors": errors,
                    "pattern": made.pattern.get_config(),
                }


def chosen(result: dict) -> tuple[str, float]:
    """The layout that the cost model chooses, and the speed-up it predicts."""
    pattern = Pattern.from_config(result["pattern"])
    predicted = cost.Cost(
        result["batch"], result["precision"], result["threads"]
    ).speedup(pattern)
    return "packed" if predicted > 1 else "dense", predicted


def exported_ratio(result: dict) -> float:
    """Time of the dense file over that of the file that is exported."""
    return result["speedup"][0] if chosen(result)[0] == "packed" else 1.0


def row(result: dict) -> str:
    """One Markdown row."""
    inputs, outputs, height, width, sparsity = result["layer"]
    layout, predicted = chosen(result)
    median, low, high = result["speedup"]
    errors = result["errors"]["packed"] / result["errors"]["dense"]
    return (
        f"| {inputs} x {outputs}, {sparsity:.0%}, {height} x {width} | "
        f"{result['batch']} | {result['precision']} | {result['threads']} | "
        f"{result['microseconds']['dense']:.0f} | "
        f"{result['microseconds']['packed']:.0f} | "
        f"{median:.2f} ({low:.2f} to {high:.2f}) | {predicted:.2f} | {layout} | "
        f"{exported_ratio(result):.2f} | {errors:.2f} |"
    )


def summary(results: list[dict]) -> list[str]:
    """Markdown: how often the exported file is slower, and what the choice leaves."""
    groups: dict = collections.defaultdict(list)
    for result in results:
        groups[result["precision"], result["threads"]].append(result)
    lines = [
        "| precision | threads | cases | packed chosen | slower than dense by over 3 % "
        "| slowest | geometric mean | of the best choice | error of packed over "
        "dense, largest |",
        "|---" * 9 + "|",
    ]
    for (precision, threads), some in sorted(groups.items()):
        ratios = np.array([exported_ratio(r) for r in some])
        best = np.array([max(1.0, r["speedup"][0]) for r in some])
        errors = [r["errors"]["packed"] / r["errors"]["dense"] for r in some]
        packed = sum(chosen(r)[0] == "packed" for r in some)
        lines.append(
            f"| {precision} | {threads} | {len(some)} | {packed} | "
            f"{(ratios < ALLOWED).sum()} | {ratios.min():.2f} | "
            f"{np.exp(np.log(ratios).mean()):.2f} | "
            f"{np.exp(np.log(best).mean()):.2f} | {max(errors):.2f} |"
        )
    return lines


def fit(results: list[dict]) -> None:
    """Prints constants of this processor for which predicted times fit best."""
    names = ("multiply", "weight", "gathered", "run", "operation")
    for precision in PRECISIONS:
        some = [r for r in results if r["precision"] == precision and r["threads"] == 1]
        patterns = [Pattern.from_config(r["pattern"]) for r in some]
        measured = np.log(
            [[r["microseconds"][n] * 1e-6 for n in ("dense", "packed")] for r in some]
        )
        start = cost.PROCESSORS[PROCESSOR][precision]

        def constants(logs, start=start):
            values = dict(zip(names, np.exp(logs).tolist(), strict=True))
            return dataclasses.replace(start, **values)

        def wrong(logs, precision=precision, some=some, patterns=patterns,
                  measured=measured, constants=constants):  # fmt: skip
            cost.PROCESSORS[PROCESSOR][precision] = constants(logs)
            times = []
            for result, pattern in zip(some, patterns, strict=True):
                model = cost.Cost(result["batch"], precision, 1, PROCESSOR)
                times.append(
                    [model.dense(*pattern.matrix_shape), model.packed(pattern)]
                )
            wrong = np.log(times) - measured
            ratio = wrong[:, 0] - wrong[:, 1]
            return np.concatenate([0.3 * wrong.ravel(), ratio])

        first = np.log([getattr(start, name) for name in names])
        best = least_squares(wrong, first, loss="soft_l1")
        ratio = wrong(best.x)[-len(some) :]
        print(f'"{precision}": {constants(best.x)},')
        print(f"  ratios are right within {np.sqrt(np.mean(ratio**2)):.0%}")


def main():
    """Measures, or fits what was measured, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=0.4, help="for each case")
    parser.add_argument("--fit", action="store_true", help="print constants only")
    parser.add_argument("--table", action="store_true", help="with measured times")
    arguments = parser.parse_args()
    file = RESULTS / "packed_or_dense.json"
    if arguments.fit:
        fit(json.loads(file.read_text()))
        return
    if arguments.table:
        results = json.loads(file.read_text())
    else:
        results = []
        for layer in LAYERS:
            for result in measure_layer(layer, arguments.seconds):
                results.append(result)
                print(row(result), flush=True)
            keras.backend.clear_session()
            file.write_text(json.dumps(results))
    lines = [
        "# The exported file and the dense file of the same precision",
        "",
        f"`python benchmarks/packed_or_dense.py` on {platform.machine()} with "
        f"{PROCESSOR}. Ratios are the time of the dense file over that of another: "
        "median (quartiles) of rounds in turns. Times in microseconds.",
        "",
        *summary(results),
        "",
        "| layer | batch | precision | threads | dense | packed | packed, always | "
        "predicted | chosen | exported file | error, packed over dense |",
        "|---" * 11 + "|",
        *map(row, results),
    ]
    (RESULTS / "packed_or_dense.md").write_text("\n".join(lines) + "\n")
    print("\n".join(summary(results)))


if __name__ == "__main__":
    main()
