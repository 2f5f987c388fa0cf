import numpy as np
import pytest

import tf_seqattn.criteo  # noqa: F401 (before anything touches tf.keras)
from tf_seqattn.criteo.conversion import convert
from tf_seqattn.criteo.log.encoding import Encoding
from tf_seqattn.criteo.log.in_memory import Clicks, load_clicks
from tf_seqattn.criteo.log.synthetic import ClickSource

TABLE_SIZE = 64


@pytest.fixture(scope="session")
def source():
    """Small tables; everything else as by default."""
    return ClickSource(seed=3, max_categories=60)


@pytest.fixture(scope="session")
def clicks_file(source, tmp_path_factory):
    """A file of 3000 rows, which must not be changed."""
    path = tmp_path_factory.mktemp("criteo") / "clicks.txt"
    source.write_tsv(path, 3000, progress=False)
    return path


@pytest.fixture(scope="session")
def converted(clicks_file, tmp_path_factory):
    """The folder of the converted rows: 2700 for training, 300 for validation."""
    folder = tmp_path_factory.mktemp("criteo") / "converted"
    convert(clicks_file, folder, Encoding(table_size=TABLE_SIZE), progress=False)
    return folder


@pytest.fixture(scope="session")
def clicks(converted):
    """All 3000 rows in memory, in the order of the file."""
    parts = [load_clicks(converted, split) for split in ("train", "validation")]
    return Clicks(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("numeric", "categorical", "labels")
        )
    )
