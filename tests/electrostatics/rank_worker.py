"""What each process of test_processes.py runs: the same step as one process, on its own atoms."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from pair_cases import neighbours, pairs_of
from random_systems import System, join_systems, random_system
from torch import Tensor

from les_plugins import LatentElectrostatics, Multipoles, PairSoftness
from les_plugins.electrostatics.communication import bytes_per_step
from les_plugins.electrostatics.parallel.reduction import AtomsOfRanks, Ranks, reduce_total
from les_plugins.electrostatics.total_charge import check_total_charge, spread_total_charge
from les_plugins.errors import LesPluginsError

#: Rank of each of the 7 + 5 atoms, by the number of ranks; with four, one has no atom and one none of the second.
OWNERS = {1: [0] * 12, 2: [0, 1, 1, 0, 1, 1, 1, 0, 0, 1, 0, 1], 4: [0, 1, 1, 3, 0, 3, 1, 0, 0, 1, 0, 1]}
PER_ATOM = ("positions", "charge", "dipole", "quadrupole", "softness", "polarizability")
SETTINGS = {"dl": 1.6}
SELF_CONSISTENT = {**SETTINGS, "response": "self_consistent", "response_tolerance": 1e-13}
#: Kinds of self-consistent response.
ANSWERS = {
    "free": SELF_CONSISTENT,
    "fixed": {**SELF_CONSISTENT, "total_charge": "fixed"},
    "on the mesh": {**SELF_CONSISTENT, "method": "mesh"},
}

#: Kinds of response with flow over pairs.
PAIRS = {"one shot": SETTINGS, "self-consistent": SELF_CONSISTENT}


def two_structures() -> System:
    """Two triclinic periodic structures, charged, with every moment and both responses."""
    both = join_systems([random_system(7, size=6.0, seed=1), random_system(5, size=5.0, seed=2)])
    return both._replace(charge=both.charge + 0.1)


def long_structures() -> System:
    """The same in cells that are long along the first axis: slabs of many planes, of which waves see a part."""
    both = two_structures()
    return both._replace(cell=both.cell * torch.tensor([8.0, 1.0, 1.0])[:, None])


def atoms_of(rank: int, size: int) -> Tensor:
    return torch.tensor([atom for atom, owner in enumerate(OWNERS[size]) if owner == rank], dtype=torch.long)


def run(layer: LatentElectrostatics, system: System, **changes):
    system = system._replace(**changes)
    moments = Multipoles(system.charge, system.dipole, system.quadrupole)
    return layer(
        system.positions, system.cell, system.pbc, system.batch, moments, system.softness, system.polarizability
    )


def run_pairs(layer: LatentElectrostatics, system: System):
    """The same with softness of pairs, made of that of atoms; other ranks' atoms by a sum that has a graph."""
    rank = 0 if layer.ranks is None else dist.get_rank(layer.ranks.group)
    size = 1 if layer.ranks is None else layer.ranks.size
    order = torch.cat([atoms_of(owner, size) for owner in range(size)])
    centre, neighbor, shift = neighbours(two_structures())
    place = torch.empty(12, dtype=torch.long)
    place[order] = torch.arange(12)
    everywhere = system
    if layer.ranks is not None:
        atoms = AtomsOfRanks.of(layer.ranks, len(system.positions), system.positions.device)
        values = {name: atoms.everywhere(getattr(system, name)) for name in ("positions", "softness", "batch")}
        everywhere = system._replace(**values)
    pairs = pairs_of(everywhere, (place[centre], place[neighbor], shift), 10.0 * everywhere.softness)
    first = sum(len(atoms_of(owner, size)) for owner in range(rank))
    here = (pairs.centre >= first) & (pairs.centre < first + len(system.positions))
    pairs = PairSoftness(pairs.centre[here] - first, pairs.neighbor[here], pairs.vector[here], pairs.value[here])
    moments = Multipoles(system.charge, system.dipole, system.quadrupole)
    field = torch.tensor([0.2, -0.1, 0.3], dtype=torch.float64)
    return layer(
        system.positions, system.cell, system.pbc, system.batch, moments, None, system.polarizability, field, "dipoles",
        pairs,
    )  # fmt: skip


def training_step(system: System, layer: LatentElectrostatics, run=run) -> dict[str, Tensor]:
    """Energy, forces, virial, and the gradients of a loss on all of them in every input: a double backward.

    Losses on what belongs to atoms are this rank's part of a sum; those on energy and virial every rank has in whole.
    """
    inputs = {name: getattr(system, name).clone().requires_grad_() for name in PER_ATOM}
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    deformation = torch.eye(3, dtype=torch.float64) + strain
    strained = inputs | {"positions": inputs["positions"] @ deformation, "cell": system.cell @ deformation}
    result = run(layer.train(), system._replace(**strained))
    layer.eval()
    energy = scale * result.energy
    gradient, virial_part = torch.autograd.grad(energy.sum(), (inputs["positions"], strain), create_graph=True)
    virial = reduce_total(virial_part, layer.ranks)
    loss = (gradient + 0.1).square().sum() + (energy - 0.2).square().sum() + (virial + 0.3).square().sum()
    loss = loss + result.charge.square().sum() + (result.dipole * result.field).sum() + result.potential.pow(3).sum()
    *by_atom, on_strain, on_scale = torch.autograd.grad(loss, (*inputs.values(), strain, scale))
    found = {
        "energy": energy,
        "atomic_energy": result.atomic_energy,
        "potential": result.potential,
        "field": result.field,
        "charge": result.charge,
        "dipole": result.dipole,
        "forces": -gradient,
        "virial": virial,
        "virial_part": virial_part,
        "loss in strain, part": on_strain,
        "loss in scale": on_scale,
        **{f"loss in {name}": value for name, value in zip(PER_ATOM, by_atom, strict=True)},
    }
    return {name: value.detach() for name, value in found.items()}


def forces_of_atomic_energies(system: System, layer: LatentElectrostatics) -> Tensor:
    """Forces by way of the energies of this rank's atoms alone."""
    positions = system.positions.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(run(layer, system, positions=positions).atomic_energy.sum(), positions)
    return -gradient


def given_charge_step(system: System, layer: LatentElectrostatics) -> dict[str, Tensor]:
    """Energy and forces with total charges of 1 and −2 e put on the atoms, and the gradient of a loss on the forces."""
    positions, charge = system.positions.clone().requires_grad_(), system.charge.clone().requires_grad_()
    softness = 0.02 + 0.01 * torch.sin(positions[:, 0]) ** 2
    given = torch.tensor([1.0, -2.0], dtype=torch.float64)
    check_total_charge(given, 2, positions.device, layer.ranks)
    found = spread_total_charge(charge, given, softness, torch.cos(positions[:, 1]), system.batch, layer.ranks)
    result = run(layer, system, positions=positions, charge=found.charge)
    own = torch.zeros(2, dtype=torch.float64).index_add(0, system.batch, found.atomic_energy)
    energy = result.energy + reduce_total(own, layer.ranks)
    (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
    (by_charge,) = torch.autograd.grad(gradient.square().sum(), charge)
    return {"energy": energy.detach(), "charge": found.charge.detach(), "forces": -gradient.detach(), "loss": by_charge}


def given_charge_refusal(ranks: Ranks, second: Tensor) -> str:
    """What is said on this rank when the second one brings another total charge."""
    try:
        check_total_charge(second if dist.get_rank() == 1 else torch.zeros(2), 2, torch.device("cpu"), ranks)
    except LesPluginsError as error:
        return str(error)
    return "nothing is refused"


#: Steps whose bytes are counted: settings, which coefficients of a response there are, and whether forces are wanted.
FEW_ITERATIONS = {"response_tolerance": 1e-3}
ON_MESH = {**SETTINGS, "method": "mesh"}
BOTH = ("softness", "polarizability")
COUNTED = {
    "energy": (SETTINGS, (), False),
    "no response": (SETTINGS, (), True),
    "one shot": (SETTINGS, BOTH, True),
    "mesh": (ON_MESH, (), True),
    "mesh energy": (ON_MESH, BOTH, False),
    "mesh, one shot": (ON_MESH, BOTH, True),
    "mesh, one shot, slopes": (ON_MESH, BOTH, True),
    "self-consistent": ({**ANSWERS["free"], **FEW_ITERATIONS}, BOTH, True),
    "self-consistent energy": ({**ANSWERS["free"], **FEW_ITERATIONS}, ("polarizability",), False),
    "fixed charge": ({**ANSWERS["fixed"], **FEW_ITERATIONS}, BOTH, True),
    "mesh, self-consistent": ({**ANSWERS["on the mesh"], **FEW_ITERATIONS}, BOTH, True),
    "mesh, fixed charge": ({**ANSWERS["fixed"], **ON_MESH, **FEW_ITERATIONS}, ("softness",), True),
}


def bytes_of_steps(system: System, group: dist.ProcessGroup, kind: str) -> list[tuple[int, int]]:
    """Bytes counted by this rank and foretold: in training mode, in evaluation mode, and there once more."""
    settings, given, forces = COUNTED[kind]
    coefficients = {name: name in given for name in ("softness", "polarizability")}
    system = system._replace(**{name: None for name, there in coefficients.items() if not there})
    everyone, rank, size = two_structures(), dist.get_rank(group), dist.get_world_size(group)
    layer, found = LatentElectrostatics(process_group=group, **settings), []
    moments = kind.endswith("slopes")
    for training, warm in ((True, False), (False, False), (False, True)):
        layer.train(training)
        before = layer.ranks.bytes
        positions = (system.positions + 1e-3 * len(found)).requires_grad_(forces)
        charge = system.charge.clone().requires_grad_(moments)
        energy = run(layer, system, positions=positions, charge=charge).energy.sum()
        if moments:
            torch.autograd.grad(energy, (positions, charge))
        elif forces:
            torch.autograd.grad(energy, positions)
        iterations = getattr(layer.response_model, "iterations", 0)
        moved = everyone.positions + 1e-3 * len(found)
        atoms = [(moved[own], everyone.batch[own]) for own in (atoms_of(owner, size) for owner in range(size))]
        foretold = bytes_per_step(
            layer,
            system.cell,
            2,
            **coefficients,
            forces=forces,
            iterations=iterations,
            warm=warm,
            atoms=atoms,
            rank=rank,
            moments=moments,
        )
        found.append((layer.ranks.bytes - before, foretold))
    return found


def warm_iterations(system: System, layer: LatentElectrostatics) -> list[int]:
    """Iterations of three calls; for the second, the first rank has lost its start."""
    layer.eval()
    counts = []
    for call in range(3):
        if call == 1 and layer.ranks is not None and dist.get_rank() == 0:
            layer.response_model.reset()
        run(layer, system)
        counts.append(layer.response_model.iterations)
    return counts


def refusal(layer: LatentElectrostatics, system: System, **changes) -> str:
    try:
        run(layer, system, **changes)
    except LesPluginsError as error:
        return str(error)
    return "nothing is refused"


def refusals(layer: LatentElectrostatics, system: System, rank: int) -> dict[str, str]:
    """What is said on this rank when the second rank differs, or all ask for what there is not."""
    second = rank == 1
    wrong = system.positions.clone()
    wrong[:1] = torch.nan
    longer = system.cell * (1.0 + 1e-15)
    return {
        "NaN on one rank": refusal(layer, system, positions=wrong if second else system.positions),
        "other cell": refusal(layer, system, cell=longer if second else system.cell),
        "no softness": refusal(layer, system, softness=None if second else system.softness),
        "gradient on one": refusal(layer, system, positions=system.positions.clone().requires_grad_(second)),
        "charged": refusal(LatentElectrostatics(process_group=layer.ranks.group, neutralize="refuse"), system),
        "open": refusal(layer, system, pbc=torch.tensor([[True] * 3, [False] * 3])),
    }


def refused_pairs(layer: LatentElectrostatics, system: System, rank: int) -> str:
    """What is said on this rank when the second has an edge to an atom that there is not."""
    edge = torch.zeros(int(rank == 1), dtype=torch.long)
    vector = torch.zeros(len(edge), 3, dtype=torch.float64)
    pairs = PairSoftness(edge, edge + 12, vector, torch.ones(len(edge), dtype=torch.float64))
    try:
        layer(*system[:4], Multipoles(system.charge), pair_softness=pairs)
    except LesPluginsError as error:
        return str(error)
    return "nothing is refused"


def work(rank: int, folder: str) -> None:
    """One of four processes; the first two of them also do it in a group of two."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), 4)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=4, timeout=timedelta(seconds=240))
    pair = dist.new_group([0, 1])
    groups = {4: dist.group.WORLD} | ({2: pair} if rank < 2 else {})
    for size, group in groups.items():
        system = two_structures().select(atoms_of(rank, size))
        layer = LatentElectrostatics(process_group=group, **SETTINGS)
        found = {
            "step": training_step(system, layer),
            "shifted": training_step(system, LatentElectrostatics(process_group=group, neutralize="shift", **SETTINGS)),
            "mesh": training_step(system, LatentElectrostatics(process_group=group, **ON_MESH)),
            "long mesh": training_step(
                long_structures().select(atoms_of(rank, size)), LatentElectrostatics(process_group=group, **ON_MESH)
            ),
            "forces_of_atomic_energies": forces_of_atomic_energies(system, layer),
            "bytes": {kind: bytes_of_steps(system, group, kind) for kind in COUNTED},
            "self_consistent": {
                kind: training_step(system, LatentElectrostatics(process_group=group, **settings))
                for kind, settings in ANSWERS.items()
            },
            "pairs": {
                kind: training_step(system, LatentElectrostatics(process_group=group, **settings), run_pairs)
                for kind, settings in PAIRS.items()
            },
            "refused pairs": refused_pairs(layer, system, rank),
            "warm": warm_iterations(system, LatentElectrostatics(process_group=group, **SELF_CONSISTENT)),
            "refusals": refusals(layer, system, rank),
            "given charge": given_charge_step(system, layer),
            "given charge, refused": [
                given_charge_refusal(layer.ranks, torch.tensor(charges)) for charges in ([1.0, 0.0], [1.0])
            ],
        }
        channels = system.charge[:, None] * torch.tensor([1.0, 0.5])
        found["channel_energy"] = run(
            layer, system, charge=channels, dipole=None, quadrupole=None, softness=None, polarizability=None
        ).energy
        torch.save(found, Path(folder) / f"{size}-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
