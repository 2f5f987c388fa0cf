"""Markdown tables."""

import pytest

from tf_seqattn.experiments.markdown_table import markdown_table


def test_a_row_of_another_width_is_an_error():
    with pytest.raises(ValueError, match="2 cells"):
        markdown_table(["a", "b"], [["1"]])
