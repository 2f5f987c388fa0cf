"""A served model under load: every thread gets its own right answers."""

import concurrent.futures

import numpy as np
import pytest
import tensorflow as tf

from tf_seqattn.criteo.log.encoding import Encoding
from tf_seqattn.criteo.log.fields import CATEGORICAL_NAMES, NUMERIC_NAMES
from tf_seqattn.criteo.models.click_model import build_network
from tf_seqattn.criteo.models.serving import export_serving

ROWS, THREADS, REQUESTS = 200, 8, 12
BATCHES = (1, 2, 7, 100, 1_000, 100_000)


def odd_rows(rng) -> dict[str, np.ndarray]:
    """Raw columns with what logs hold at their edges."""
    counts = [np.nan, 0.0, -1.0, -3.0, 1.0, 7.5, 1e9, 2.0**53]
    words = ["", "0", "f", "00000000", "ffffffff", "80000000", "7fffffff", "1a2b3c"]
    words += [f"{value:08x}" for value in rng.integers(0, 2**32, 50)]
    columns = {name: rng.choice(counts, ROWS) for name in NUMERIC_NAMES}
    columns |= {name: rng.choice(words, ROWS) for name in CATEGORICAL_NAMES}
    return columns


def tensors(columns, rows):
    """The features of some of the rows, as a request has them."""
    return {
        name: tf.constant(
            values[rows], tf.float64 if name in NUMERIC_NAMES else tf.string
        )
        for name, values in columns.items()
    }


@pytest.mark.slow
def test_no_wrong_answer_under_load(tmp_path):
    rng = np.random.default_rng(0)
    path = export_serving(build_network(64), tmp_path / "s", Encoding(table_size=64))
    served = tf.saved_model.load(path).signatures["serving_default"]
    columns = odd_rows(rng)
    alone = [
        served(**tensors(columns, [row]))["probability"].numpy() for row in range(ROWS)
    ]
    expected = np.concatenate(alone)
    # The rows differ, or a mix-up of requests could not be seen.
    assert len(np.unique(expected)) > 0.9 * ROWS and np.isfinite(expected).all()

    def ask(thread: int) -> float:
        own = np.random.default_rng(thread)
        worst = 0.0
        for number in range(REQUESTS):
            rows = own.integers(0, ROWS, BATCHES[(thread + number) % len(BATCHES)])
            found = served(**tensors(columns, rows))["probability"].numpy()
            assert found.shape == rows.shape
            worst = max(worst, float(np.abs(found - expected[rows]).max()))
        return worst

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        assert max(pool.map(ask, range(THREADS))) < 1e-6
