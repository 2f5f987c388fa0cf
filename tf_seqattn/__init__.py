"""Block-sparse models in Keras and TensorFlow: SequentialAttention++ and peers.

```python
import tf_seqattn as sa

schedule = sa.SequentialAttentionSchedule(target_sparsity=0.9, end_step=10_000)
pruned = sa.prune(model, pruning_schedule=schedule, block_size=(16, 16))
pruned.compile("adam", "mse")
pruned.fit(data, callbacks=[sa.UpdatePruningStep(), sa.PruningSummaries("logs")])
sparse = sa.strip_pruning(pruned)
```
"""

from tf_seqattn import sparsity
from tf_seqattn.sparsity import *  # noqa: F403

__version__ = "0.1.0"
__all__ = ["sparsity", *sparsity.__all__]
