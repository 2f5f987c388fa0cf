"""Modules that the guides showed under another name import under it for one release."""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Sequence

_CRITEO = "tf_seqattn.criteo"
NEW_NAMES = {
    f"{_CRITEO}.data": f"{_CRITEO}.log.in_memory",
    f"{_CRITEO}.encoding": f"{_CRITEO}.log.encoding",
    f"{_CRITEO}.experiment": f"{_CRITEO}.models.experiment",
    f"{_CRITEO}.model": f"{_CRITEO}.models.click_model",
    f"{_CRITEO}.ranking": f"{_CRITEO}.models.ranking",
    f"{_CRITEO}.recipes": f"{_CRITEO}.models.recipes",
    f"{_CRITEO}.serving": f"{_CRITEO}.models.serving",
    f"{_CRITEO}.streaming": f"{_CRITEO}.log.streaming",
    f"{_CRITEO}.synthetic": f"{_CRITEO}.log.synthetic",
    f"{_CRITEO}.training": f"{_CRITEO}.models.training",
    "tf_seqattn.distribution": "tf_seqattn.experiments.strategies",
    "tf_seqattn.inference.measure": "tf_seqattn.inference.latency",
    "tf_seqattn.sparsity.blocks": "tf_seqattn.kernels.blocks",
    "tf_seqattn.sparsity.kernels": "tf_seqattn.kernels.layer_kernels",
}


class _Importer(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the module of the new name where the old one is imported."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if fullname not in NEW_NAMES:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        new_name = NEW_NAMES[spec.name]
        warnings.warn(
            f"Module {spec.name} is now {new_name}. The old name goes with the next "
            "release.",
            DeprecationWarning,
            stacklevel=2,
        )
        module = importlib.import_module(new_name)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        # The module ran under its new name, whose specification is put back.
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def install() -> None:
    """Lets the old names be imported."""
    if not any(isinstance(finder, _Importer) for finder in sys.meta_path):
        sys.meta_path.append(_Importer())
