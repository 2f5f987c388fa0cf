"""Encodings by hand, for arrays and for tensors, and the vocabulary."""

import math

import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tf_seqattn.criteo.log.encoding import NUMERIC_ENCODINGS, Encoding
from tf_seqattn.criteo.log.fields import CATEGORICAL_NAMES, NUMERIC_NAMES
from tf_seqattn.criteo.log.vocabulary import Vocabulary, build_vocabulary, look_up


def frame(counts, categories):
    """Rows with the same value in all 13 and in all 26 columns."""
    return pl.DataFrame(
        {
            **{n: pl.Series(counts, dtype=pl.Int64) for n in NUMERIC_NAMES},
            **{n: pl.Series(categories, dtype=pl.UInt32) for n in CATEGORICAL_NAMES},
        }
    )


def raw(counts, categories):
    """The same rows as a served model gets them."""
    numbers = tf.constant([np.nan if c is None else c for c in counts], tf.float64)
    words = tf.constant(["" if c is None else f"{c:x}" for c in categories])
    return {
        **dict.fromkeys(NUMERIC_NAMES, numbers),
        **dict.fromkeys(CATEGORICAL_NAMES, words),
    }


COUNTS = [None, -5, -2, 0, 1, 2, 3, 100, 2**31 - 1]
BY_HAND = {
    "log1p": [math.log(1 + max(x or 0, 0)) for x in COUNTS],
    "log3": [math.log(3 + max(x or 0, -2)) for x in COUNTS],
    "raw": [x or 0 for x in COUNTS],
}


@pytest.mark.parametrize("numeric", BY_HAND)
def test_counts_are_encoded_as_named(numeric):
    encoding = Encoding(numeric)
    encoded, _ = encoding.encode(frame(COUNTS, [1] * len(COUNTS)))
    assert encoded.shape == (len(COUNTS), 13) and encoded.dtype == np.float32
    np.testing.assert_allclose(encoded[:, 7], BY_HAND[numeric], rtol=1e-6)


def test_buckets_become_categories():
    encoding = Encoding("bucket", table_size=10)
    numeric, ids = encoding.encode(frame(COUNTS, [1] * len(COUNTS)))
    assert numeric.shape == (len(COUNTS), 0)
    assert ids.shape == (len(COUNTS), 39)
    buckets = [x if x <= 2 else int(math.log(x) ** 2) for x in COUNTS[1:]]
    expected = [0, *(1 + 3 + max(b, -3) for b in buckets)]
    np.testing.assert_array_equal(ids[:, 0], expected)
    assert max(expected) == encoding.table_sizes[0]
    np.testing.assert_array_equal(ids[:, 13:], 2)


def test_categories_are_taken_modulo_the_size_of_their_table():
    sizes = list(range(5, 31))
    _, ids = Encoding(table_size=sizes).encode(frame([0, 0], [None, 2**32 - 1]))
    np.testing.assert_array_equal(ids[0], 0)
    np.testing.assert_array_equal(ids[1], [1 + (2**32 - 1) % s for s in sizes])


@pytest.mark.parametrize("numeric", NUMERIC_ENCODINGS)
@settings(max_examples=20)
@given(
    st.lists(
        st.tuples(
            st.none() | st.integers(-10, 2**31),
            st.none() | st.integers(0, 2**32 - 1),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_tensors_are_encoded_like_arrays(numeric, rows):
    encoding = Encoding(numeric, table_size=range(1, 27))
    counts, categories = zip(*rows, strict=True)
    expected = encoding.encode(frame(counts, categories))
    encoded = encoding.encode_tensors(raw(counts, categories))
    np.testing.assert_allclose(encoded[0], expected[0], rtol=1e-6)
    np.testing.assert_array_equal(encoded[1], expected[1])
    assert encoded[2].numpy().all()


def test_capital_digits_are_read_and_other_letters_refused():
    encoding = Encoding(table_size=10_000)
    good = raw([1], [0xABC])
    good["C1"] = tf.constant(["ABC"])
    assert encoding.encode_tensors(good)[1][0, 0] == 1 + 0xABC
    for wrong in ("xyz", "123456789", " 1"):
        *_, valid = encoding.encode_tensors({**good, "C1": tf.constant([wrong])})
        assert not valid[0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"numeric": "log2"}, "numeric='log2'"),
        ({"table_size": 0}, "table_size=0"),
        ({"table_size": 2**31}, "table_size=2147483648"),
        ({"table_size": [1, 2]}, r"table_size=\(1, 2\)"),
        ({"min_count": -1}, "min_count=-1"),
    ],
)
def test_bad_options_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Encoding(**arguments)


def test_options_survive_json():
    encoding = Encoding("raw", range(1, 27), 3)
    assert Encoding(**encoding.to_json()) == encoding


def test_rare_values_share_a_row(tmp_path):
    counts = [np.array([9, 3, 2, 0, 5]), np.array([0, 2])]
    vocabulary = build_vocabulary(counts, min_count=3)
    assert vocabulary.table_sizes == (3, 1)
    ids = np.array([[0, 0], [1, 1], [2, 1], [3, 0], [4, 1]])
    expected = [[0, 0], [2, 1], [1, 1], [1, 0], [3, 1]]
    np.testing.assert_array_equal(vocabulary.apply(ids), expected)
    np.testing.assert_array_equal(
        look_up(vocabulary.rows, vocabulary.first, ids), expected
    )
    vocabulary.save(tmp_path / "v.npz")
    loaded = Vocabulary.load(tmp_path / "v.npz", [4, 1])
    np.testing.assert_array_equal(loaded.apply(ids), expected)
