"""Old names of modules import, with a warning, and are the same module."""

import importlib
import importlib.util
import sys

import pytest

from tf_seqattn.renamed_modules import NEW_NAMES


@pytest.mark.parametrize("old", NEW_NAMES)
def test_an_old_name_warns_and_is_the_module_of_the_new_one(old):
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=NEW_NAMES[old]):
        module = importlib.import_module(old)
    new = importlib.import_module(NEW_NAMES[old])
    assert module is new and new.__spec__.name == new.__name__ == NEW_NAMES[old]


def test_no_old_name_hides_a_module_that_exists():
    for old in NEW_NAMES:
        package, _, name = old.rpartition(".")
        parent = importlib.import_module(package)
        found = importlib.machinery.PathFinder.find_spec(old, parent.__path__)
        assert found is None, f"{name} exists in {package} again"
