"""Runs one ONNX model in DeepSparse, in turns that another process asks for.

DeepSparse ended in 2025, and cannot be installed beside a TensorFlow of today. So it
has an environment of its own, whose Python runs this file: see `beside_deepsparse.py`.
It prints the path of the outputs, and then, for each line that it reads, the mean
seconds of a call in a turn.

    python deepsparse_worker.py MODEL INPUTS OUTPUTS THREADS CALLS
"""

import os
import sys
import time

import numpy as np


def main() -> None:
    """Loads the model, writes its outputs, and serves turns until the input ends."""
    model, inputs, outputs, num_threads, calls = sys.argv[1:]
    # Without it, the engine reports to its makers.
    os.environ["NM_DISABLE_ANALYTICS"] = "1"
    import deepsparse

    x = np.load(inputs)
    engine = deepsparse.Engine(model, batch_size=len(x), num_cores=int(num_threads))
    np.save(outputs, engine.run([x])[0])
    print(outputs, flush=True)
    for _ in sys.stdin:
        engine.run([x])
        started = time.perf_counter()
        for _ in range(int(calls)):
            engine.run([x])
        print((time.perf_counter() - started) / int(calls), flush=True)


if __name__ == "__main__":
    main()
