import pytest

import tf_seqattn.criteo  # noqa: F401 (before anything touches tf.keras)
from tf_seqattn.criteo.data import parse_criteo
from tf_seqattn.criteo.synthetic import ClickSource

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
def clicks(clicks_file):
    return parse_criteo(clicks_file, TABLE_SIZE, progress=False)
