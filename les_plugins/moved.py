"""Names of 0.1, of modules and in them: they import for one release, with a warning that says the new name."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: Old name of a module, and its new one, both below `les_plugins`.
MOVED = {
    "batch": "data.batch",
    "calculator": "hosting.calculator",
    "cautions": "data.cautions",
    "charge_map": "plots.charge_map",
    "checkpoint": "storage.checkpoint",
    "close_atoms": "data.close_atoms",
    "compiled": "hosting.compiled",
    "documents": "io.documents",
    "dynamics.storage": "data.trajectory_checks",
    "dynamics.trajectory": "data.trajectory",
    "electrostatics.channels": "electrostatics.results",
    "electrostatics.conjugate_gradients": "electrostatics.response.conjugate_gradients",
    "electrostatics.fractional": "electrostatics.periodic.fractional",
    "electrostatics.interaction": "electrostatics.response.interaction",
    "electrostatics.mesh": "electrostatics.periodic.mesh",
    "electrostatics.mesh_size": "electrostatics.periodic.mesh_size",
    "electrostatics.processes": "electrostatics.parallel.processes",
    "electrostatics.reciprocal": "electrostatics.periodic.reciprocal",
    "electrostatics.reduction": "electrostatics.parallel.reduction",
    "electrostatics.self_consistent": "electrostatics.response.self_consistent",
    "electrostatics.splines": "electrostatics.periodic.splines",
    "electrostatics.static": "electrostatics.periodic.static",
    "electrostatics.structure_factor": "electrostatics.periodic.structure_factor",
    "evaluation": "data.evaluation",
    "extended_xyz": "io.extended_xyz",
    "features": "model.features",
    "figures": "plots.figures",
    "files": "io.files",
    "folders": "io.folders",
    "frames": "data.frames",
    "gauge": "model.gauge",
    "given_charge": "data.given_charge",
    "heads": "model.heads",
    "hookspecs": "hosting.hookspecs",
    "index_order": "data.index_order",
    "isotopes": "data.isotopes",
    "labels": "data.labels",
    "long_range": "model.long_range",
    "long_waves": "electrostatics.long_waves",
    "material": "model.material",
    "metrics": "data.metrics",
    "more_terms": "storage.fine_tuning",
    "multipoles": "electrostatics.multipoles",
    "near_origin": "data.near_origin",
    "nvalchemi": "hosting.defaults",
    "observables": "electrostatics.observables",
    "phonon_files": "crystals.phonon_files",
    "phonons": "crystals.phonons",
    "physical": "model.physical",
    "physics": "hosting.defaults",
    "piezoelectric": "crystals.piezoelectric",
    "plotting": "plots.plotting",
    "plugins": "hosting.registry",
    "prediction": "data.prediction",
    "relaxation": "crystals.relaxation",
    "response": "electrostatics.response.one_shot",
    "results": "hosting.results",
    "section_name": "hosting.section_name",
    "sizes": "storage.sizes",
    "spectra.output": "plots.spectra",
    "stability": "dynamics.stability",
    "training_data": "data.training",
    "vacuum": "data.vacuum",
    "zone_center": "crystals.zone_center",
    "zoo": "storage.zoo",
}


#: What was in a module and is now in another one than the rest of it.
MOVED_NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "checkpoint": {"api": ("save", "load", "load_model")},
    "plugins": {"api": ("attach",)},
}


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` that gives what was renamed in it, by old name and new, with a warning.

    Args:
        module: its `__name__`.
        names: old name → new name.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} is {names[name]} now; the old name goes with 0.3", DeprecationWarning, 2)
        return getattr(sys.modules[module], names[name])

    return find


class _Renamed(Loader):
    """Hands over the module under its new name."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the import system has put the old name in its place


class MovedModules(MetaPathFinder):
    """Finds the modules of `MOVED`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec for an old name, None for every other."""
        package, _, name = fullname.partition(".")
        if package != "les_plugins" or name not in MOVED:
            return None
        new = f"les_plugins.{MOVED[name]}"
        warnings.warn(f"{fullname} is {new} now; the old name goes with 0.3", DeprecationWarning, 2)
        module = importlib.import_module(new)
        for other, names in MOVED_NAMES.get(name, {}).items():
            source = importlib.import_module(f"les_plugins.{other}")
            module.__dict__.update({each: getattr(source, each) for each in names})
        return ModuleSpec(fullname, _Renamed(module))


def install() -> None:
    """Let old names be imported; once a process."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
