"""A LongRangeMACE as one TorchScript module, with the interface of a MACE model. `plugin.py` calls `compile_model`.

MACE's part is scripted by e3nn, as MACE does it; the long-range part is traced on its static grid, for its heads,
solver and response come through hooks and may be anybody's. No annotation here is postponed: TorchScript reads them.
"""

import copy
import importlib.metadata
import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ase.geometry
import numpy as np
import torch
from ase import Atoms
from torch import Tensor, nn

from les_plugins.adapters.mace.by_receiver import edge_by_edge
from les_plugins.adapters.mace.graphs import batch_of
from les_plugins.adapters.mace.model import LongRangeMACE, layer_irreps, node_features
from les_plugins.adapters.mace.summed import strained, with_long_range
from les_plugins.config import LongRangeConfig
from les_plugins.errors import HostError, LesPluginsWarning
from les_plugins.model.carriers import carriers_of, latent_total_charge
from les_plugins.model.long_range import LongRange
from les_plugins.model.outputs import carried_outputs, every_latent_output

#: What a file says of itself, in the archive beside the code.
ABOUT = "les_plugins.json"
#: Largest deviation from the eager model that a compiled one may have, relative: sums in another order.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def compile_model(
    model: nn.Module,
    output: Path,
    static_cell: tuple[float, float, float] | None,
    device: str,
    metadata: Mapping[str, Any],
    target: str = "torchscript",
) -> Path:
    """Compile a model and write it; see `les_plugins.hosting.types.Host.compile`.

    Raises:
        HostError: no LongRangeMACE, or compiled code that does not give the model's numbers; for metatomic also
            several heads, or no metatomic.
        ConfigError: no static_cell, here or in the model.
    """
    if not isinstance(model, LongRangeMACE):
        raise HostError("this model has no long-range part: compile it with MACE's own mace_create_lammps_model")
    if target == "metatomic":
        from les_plugins.adapters.mace import metatomic  # where it is not installed this says so, before all work

        if len(model.base.heads) > 1:
            raise HostError(f"target metatomic: this model has several heads ({', '.join(model.base.heads)})")
    eager: Any = copy.deepcopy(edge_by_edge(model)).to(device)
    if static_cell is not None:
        eager.long_range.set_static_cell(static_cell)
    lengths = eager.long_range.electrostatics.static_lengths()
    # no warning of the random atoms that it is compared on; and the direct sum, as traced code takes it
    eager.long_range.electrostatics.change_settings(net_charge_warning=None, method="direct")
    for parameter in eager.parameters():
        parameter.requires_grad_(False)
    compiled = script(eager)
    config = eager.long_range.config
    about = {
        "format": "les-plugins TorchScript of MACE",
        "static_cell": list(lengths),
        "dl": config.dl,
        "epsilon_infinity": config.epsilon_infinity,
        "device": device,
        "versions": {name: importlib.metadata.version(name) for name in ("les-plugins", "mace-torch", "torch")},
        **metadata,
    }
    check_same_numbers(eager, compiled, lengths)
    check_same_results(eager, compiled, about)
    if target == "metatomic":
        metatomic.write(compiled, output, charge_scale(config, metadata.get("susceptibility")), device, about)
    else:
        torch.jit.save(compiled, str(output), _extra_files={ABOUT: json.dumps(about)})
    return output


def charge_scale(config: LongRangeConfig, susceptibility: float | None) -> float | None:
    """Physical over latent charges, sqrt(ε_e) (theory 8.3); None where it depends on the structure."""
    if susceptibility is None:
        if config.response.dipole != "none" and config.epsilon_infinity > 1.0:
            return None
        susceptibility = 0.0
    return math.sqrt(config.epsilon_infinity / (1.0 + susceptibility))


def script(model: LongRangeMACE) -> torch.jit.ScriptModule:
    """The TorchScript module of a model with a static cell; the model itself stays as it is."""
    from e3nn.util import jit  # not at the top: e3nn 0.4.4 can only be imported after mace

    lengths = model.long_range.electrostatics.static_lengths()
    given = _batch(model, [structure(model, 3, lengths, 1), structure(model, 2, lengths, 2)]).to_dict()
    output = model.base(given, compute_force=False)
    graph = {name: given[name].detach() for name in ("positions", "node_attrs", "edge_index", "shifts", "batch")}
    graph["node_feats"] = output["node_feats"].detach()
    graph["cell"], graph["pbc"] = given["cell"].view(-1, 3, 3), given["pbc"].view(-1, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as such
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # `check_same_numbers` looks at what it warns of
        warnings.filterwarnings("ignore", message="The TorchScript type system doesn't support instance-level")
        traced = torch.jit.trace(_LongRangeTensors(model), (graph,), check_trace=False)
        compiled: torch.jit.ScriptModule = torch.jit.script(
            ScriptableMACE(jit.compile(copy.deepcopy(model.base)), traced, list(model.base.heads), lengths)
        )
    return compiled


class _LongRangeTensors(nn.Module):
    """The long-range part with tensors in and tensors out; zeros where a model has no such moment."""

    def __init__(self, model: LongRangeMACE) -> None:
        super().__init__()
        self.irreps = layer_irreps(model.base)
        self.long_range: LongRange = model.long_range

    def forward(self, graph: dict[str, Tensor]) -> tuple[Tensor, ...]:
        geometry = graph["positions"], graph["cell"], graph["pbc"], graph["batch"]
        result = self.long_range(node_features(self.irreps, graph, graph["node_feats"]), *geometry)
        n_structures = graph["cell"].shape[0]
        total = latent_total_charge(self.long_range, result, graph["batch"], n_structures)
        carriers = carriers_of(result, graph["batch"], n_structures, total)
        modes = list(carriers.modes(*geometry))
        one = torch.ones_like(result.charge)
        return (
            result.atomic_energy,
            *every_latent_output(result).values(),
            *carried_outputs(carriers).values(),
            torch.stack([mode.terms for mode in modes]),
            torch.stack([one if mode.phase is None else mode.phase for mode in modes]),
            torch.stack([mode.direction for mode in modes]),
        )


class ScriptableMACE(nn.Module):
    """What is scripted: the forward of `LongRangeMACE` in the language of TorchScript.

    Args:
        base: MACE, scripted.
        long_range: `_LongRangeTensors`, traced.
        heads: names of MACE's heads.
        static_cell: longest lattice vectors that the traced grid covers, Å.
    """

    def __init__(
        self, base: nn.Module, long_range: nn.Module, heads: list[str], static_cell: tuple[float, float, float]
    ) -> None:
        super().__init__()
        self.base = base
        self.long_range = long_range
        self.atomic_energies_fn = base.atomic_energies_fn
        self.heads = heads
        self.refusal = (
            "the compiled long-range part cannot evaluate this structure; allowed: finite positions, periodic "
            f"structures with a volume and lattice vectors no longer than static_cell = {list(static_cell)} Å"
        )
        for name in ("atomic_numbers", "r_max", "num_interactions"):
            self.register_buffer(name, getattr(base, name).clone())

    def forward(
        self,
        data: dict[str, Tensor],
        training: bool = False,
        compute_force: bool = True,
        compute_virials: bool = False,
        compute_stress: bool = False,
        compute_displacement: bool = False,
        compute_hessian: bool = False,
        compute_edge_forces: bool = False,
        compute_atomic_stresses: bool = False,
        lammps_mliap: bool = False,
        compute_born_charges: bool = False,
    ) -> dict[str, Tensor | None]:
        """As `LongRangeMACE`; with `compute_born_charges` latent_born_charges (N, 3, 3) too.

        Without `pbc` in the data, structures are periodic.

        Raises:
            ValueError: edge forces, atomic stresses, hessian; a structure that the grid does not cover.
        """
        if lammps_mliap or compute_edge_forces or compute_atomic_stresses or compute_hessian:
            raise ValueError("compiled: energy, forces, virials, stress and Born charges are what there is")
        # the base strains data["positions"]; these stay the leaf and the cell as given
        positions, cell = data["positions"], data["cell"].view(-1, 3, 3)
        moved = compute_virials or compute_stress or compute_displacement
        output = self.base(data, training=training, compute_force=False, compute_displacement=moved)
        node_feats = output["node_feats"]
        assert node_feats is not None
        graph = {"node_feats": node_feats, "cell": strained(cell, output["displacement"])}
        for name in ["positions", "node_attrs", "edge_index", "shifts", "batch"]:
            graph[name] = data[name]
        periodic = torch.ones_like(cell[:, 0], dtype=torch.bool)
        graph["pbc"] = data["pbc"].view(-1, 3).expand_as(periodic) if "pbc" in data else periodic
        found = self.long_range(graph)
        atomic, energy, charge, dipole, quadrupole, polarizability = found[:6]
        carried, moment, terms, phase, direction = found[6:]
        if bool(energy.isnan().any()):
            raise ValueError(self.refusal)
        output["latent_born_charges"] = None
        if compute_born_charges:
            output["latent_born_charges"] = born_charges(terms, phase, direction, positions)
        output = with_long_range(
            output, energy, atomic, positions, cell, training, compute_force, compute_virials, compute_stress, False
        )
        output["long_range_energy"] = energy
        output["latent_charges"], output["latent_dipoles"] = charge, dipole
        output["latent_quadrupoles"], output["latent_polarizability"] = quadrupole, polarizability
        output["latent_polarization_charges"], output["latent_polarization_moments"] = carried, moment
        return output


def born_charges(terms: Tensor, phase: Tensor, direction: Tensor, positions: Tensor) -> Tensor:
    """(N, 3, 3) Z* of the modes of `Carriers`, not scaled; TorchScript of `born_of_carriers`."""
    born = torch.zeros_like(direction[0])[:, :, None] * torch.zeros_like(direction[0])[:, None, :]
    for mode in range(terms.shape[0]):
        row = torch.autograd.grad([terms[mode].sum()], [positions], retain_graph=True, allow_unused=True)[0]
        if row is not None:
            born = born + direction[mode][:, :, None] * (phase[mode][:, None] * row)[:, None, :]
    return born.detach()


def check_same_numbers(eager: LongRangeMACE, compiled: nn.Module, lengths: tuple[float, float, float]) -> None:
    """Refuse compiled code that gives other numbers than the model, on structures other than those of the trace.

    Raises:
        HostError: says which output deviates, and by how much.
    """
    for frames in ([structure(eager, 5, lengths, 3)], [structure(eager, count, lengths, count) for count in (1, 4, 2)]):
        batch = _batch(eager, frames)
        expected = eager(batch.clone().to_dict(), compute_stress=True)
        found = compiled(batch.clone().to_dict(), compute_stress=True)
        for name in ("energy", "node_energy", "forces", "stress", "latent_charges"):
            _compare(eager, name, found[name].detach(), expected[name].detach())


def check_same_results(eager: LongRangeMACE, compiled: nn.Module, about: Mapping[str, Any]) -> None:
    """Refuse compiled code whose calculator gives other physical results than the model's own calculator.

    Args:
        eager: the model.
        compiled: what was made of it.
        about: what its file says of itself.

    Raises:
        HostError: says which property deviates, and by how much.
    """
    from les_plugins.adapters.mace.calculator import LesMACECalculator  # not at the top: compiled.py imports this file
    from les_plugins.adapters.mace.compiled import LesCompiledCalculator

    own = {name: about[name] for name in ("dl", "static_cell", "epsilon_infinity")}
    settings: dict[str, Any] = {"device": about["device"], "head": eager.base.heads[0]}
    theirs, ours = LesCompiledCalculator(compiled, about=own, **settings), LesMACECalculator(eager, **settings)
    atoms, properties = structure(eager, 4, tuple(about["static_cell"]), 5), ["born_effective_charges"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LesPluginsWarning)  # of the random atoms
        theirs.calculate(atoms, properties)
        ours.calculate(atoms, properties)
    for name in ("charges", "dipole", "polarizability", "born_effective_charges"):
        if name in ours.results:
            _compare(eager, name, torch.as_tensor(theirs.results[name]), torch.as_tensor(ours.results[name]))


def _compare(eager: LongRangeMACE, name: str, found: Tensor, expected: Tensor) -> None:
    allowed = TOLERANCE[eager.base.r_max.dtype]
    deviation = float((found - expected).abs().max()) / max(1.0, float(expected.abs().max()))
    if not deviation < allowed:
        raise HostError(
            f"the compiled model's {name} deviates from the model's by {deviation:.1e} relative; allowed: "
            f"{allowed:.0e}. Some part of it, such as heads of a plugin, cannot be traced"
        )


def structure(model: LongRangeMACE, count: int, lengths: tuple[float, float, float], seed: int) -> Atoms:
    """Some atoms of elements of the model in a skew cell that a static cell covers."""
    generator = np.random.default_rng(seed)
    numbers = generator.choice(model.base.atomic_numbers.cpu().numpy(), count)
    edges = [min(length, 3.0 * count) * (1.0 - 0.02 * seed) for length in lengths]
    cell = ase.geometry.cellpar_to_cell([*edges, 85.0, 95.0, 80.0 + seed])
    return Atoms(numbers, generator.random((count, 3)) @ cell, cell=cell, pbc=True)


def _batch(model: LongRangeMACE, frames: list[Atoms]) -> Any:
    """MACE's batch of some structures, on the device of a model."""
    base: Any = model.base
    return batch_of(frames, base.atomic_numbers, base.r_max, base.r_max.dtype, base.heads, base.heads[0]).to(
        base.r_max.device
    )
