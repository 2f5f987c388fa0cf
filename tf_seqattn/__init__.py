"""Block-sparse models in Keras and TensorFlow: SequentialAttention++ and peers.

```python
import tf_seqattn as sa

schedule = sa.SequentialAttentionSchedule(target_sparsity=0.9, end_step=10_000)
pruned = sa.prune(model, pruning_schedule=schedule, block_size=(16, 16))
pruned.compile("adam", "mse")
pruned.fit(data, callbacks=[sa.UpdatePruningStep(), sa.PruningSummaries("logs")])
sparse = sa.strip_pruning(pruned)
sa.export_tflite(sparse, "model.tflite")
```
"""

import importlib
from typing import Any

from tf_seqattn.experiments.quiet_start import start_quietly

# Before anything imports TensorFlow.
start_quietly()

from tf_seqattn import inference, renamed_modules, sparsity, training  # noqa: E402
from tf_seqattn.comparison import Frontier, frontier, share_for_latency  # noqa: E402
from tf_seqattn.inference import *  # noqa: E402, F403
from tf_seqattn.reporting import report  # noqa: E402
from tf_seqattn.sparsity import *  # noqa: E402, F403
from tf_seqattn.training import *  # noqa: E402, F403

del start_quietly
renamed_modules.install()

__version__ = "0.1.0"
__all__ = [
    "Frontier",
    "frontier",
    "inference",
    "report",
    "share_for_latency",
    "sparsity",
    "training",
    *inference.__all__,
    *sparsity.__all__,
    *training.__all__,
]


def __getattr__(name: str) -> Any:
    """Imports `sa.linear` when it is first used: it needs scikit-learn."""
    if name == "linear":
        return importlib.import_module("tf_seqattn.linear")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
