"""Runs tfmot's own tests of pruning with this project's names in place of tfmot's.

    git clone https://github.com/tensorflow/model-optimization
    python -m tools.tfmot_suite model-optimization

In each test `prune_low_magnitude` is that of `tf_seqattn.compat`, and the wrapper, the
callbacks, `strip_pruning` and `prune_scope` are those of `tf_seqattn`. tfmot itself is
the installed package; only its tests are read from the checkout. `--theirs` runs the
tests as they are. `docs/from_tfmot.md` says why some fail.
"""

import argparse
import importlib
import importlib.util
import pathlib
import sys
import types
import unittest
from typing import Any

from tf_seqattn.experiments.command_line import make_parser

_CORE = "tensorflow_model_optimization.python.core"
_SPARSITY = f"{_CORE}.sparsity.keras"
# What the tests import and the installed package does not have.
_TEST_UTILITIES = (f"{_CORE}.keras.test_utils", f"{_SPARSITY}.test_utils")


class _IsOurs(type):
    """Instances are our wrappers."""

    def __instancecheck__(cls, instance: Any) -> bool:
        import tf_seqattn as sa

        return isinstance(instance, sa.PrunableLayer)


class _Wrapper(metaclass=_IsOurs):
    """Makes our wrapper from the arguments of tfmot's."""

    def __new__(cls, layer: Any, *args: Any, **kwargs: Any) -> Any:
        from tf_seqattn import compat

        return compat.prune_low_magnitude(layer, *args, **kwargs)


def _show_what_tests_read() -> None:
    """Gives our wrapper the attributes of tfmot's that tests look into."""
    import tf_seqattn as sa

    def create(wrapper: Any) -> None:
        create_variables(wrapper)
        pruned = wrapper.pruned_kernels
        if not hasattr(wrapper.layer, "get_prunable_weights"):
            wrapper.layer.get_prunable_weights = lambda: [
                one.kernel.variable for one in pruned
            ]

    wrapper: Any = sa.PrunableLayer
    create_variables = wrapper._create_pruning_variables
    wrapper._create_pruning_variables = create
    wrapper.pruning_vars = wrapper.pruned_kernels
    wrapper.block_pooling_type = property(lambda self: self.importance.pooling)


def _use_our_names() -> None:
    import tf_seqattn as sa
    from tf_seqattn import compat

    _show_what_tests_read()

    ours = {
        "prune": {
            "prune_low_magnitude": compat.prune_low_magnitude,
            "strip_pruning": sa.strip_pruning,
            "prune_scope": sa.prune_scope,
        },
        "pruning_callbacks": {
            "UpdatePruningStep": sa.UpdatePruningStep,
            "PruningSummaries": sa.PruningSummaries,
        },
        "pruning_wrapper": {
            "PruneLowMagnitude": _Wrapper,
            "collect_prunable_layers": sa.sparsity.pruned_layers,
        },
    }
    for name, objects in ours.items():
        module = importlib.import_module(f"{_SPARSITY}.{name}")
        for attribute, value in objects.items():
            setattr(module, attribute, value)


def _load(name: str, path: pathlib.Path) -> types.ModuleType:
    """Imports the file `path` as the module `name`."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _tests(checkout: pathlib.Path, only: str) -> unittest.TestSuite:
    for name in _TEST_UTILITIES:
        module = _load(name, checkout.joinpath(*name.split(".")).with_suffix(".py"))
        package, _, attribute = name.rpartition(".")
        setattr(importlib.import_module(package), attribute, module)
    suite = unittest.TestSuite()
    folder = checkout.joinpath(*_SPARSITY.split("."))
    for path in sorted(folder.glob("*_test.py")):
        if only not in path.name:
            continue
        module = _load(path.stem, path)
        suite.addTests(unittest.defaultTestLoader.loadTestsFromModule(module))
    return suite


class _Result(unittest.TextTestResult):
    """Counts what passes, too."""

    passed = 0

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self.passed += 1


def main() -> None:
    """Runs the tests and prints what fails."""
    parser: argparse.ArgumentParser = make_parser("tools.tfmot_suite", __doc__ or "")
    parser.add_argument("checkout", type=pathlib.Path, help="folder of tfmot's source")
    parser.add_argument("--theirs", action="store_true", help="with tfmot's own names")
    parser.add_argument("--only", default="", help="part of the name of a test file")
    options = parser.parse_args()
    if not options.checkout.joinpath(*_SPARSITY.split(".")).is_dir():
        parser.error(f"`checkout` has no folder {_SPARSITY.replace('.', '/')}")
    if not options.theirs:
        _use_our_names()
    tests = _tests(options.checkout, options.only)
    result: Any = unittest.TextTestRunner(resultclass=_Result, verbosity=1).run(tests)
    failed = [*result.failures, *result.errors]
    for test, trace in failed:
        print(f"{test.id()}: {trace.strip().splitlines()[-1][:200]}")
    print(f"{result.passed} pass, {len(failed)} fail, {len(result.skipped)} skipped.")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
