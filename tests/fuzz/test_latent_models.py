"""Random models of a few atoms: total charges that are given, and Z* of charge that moves between neighbours.

LES_PLUGINS_FUZZ_CALLS and LES_PLUGINS_FUZZ_SEED change how many, and from where. A failing call names its seed.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import brute_force
import pytest
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list
from draws import Draw, structure
from torch import Tensor

from les_plugins import LongRangeConfig
from les_plugins.electrostatics.observables import Current
from les_plugins.electrostatics.observables.born import born_of_carriers
from les_plugins.errors import ConfigError, GeometryError, LesPluginsWarning
from les_plugins.hosting.build import build_long_range
from les_plugins.model.carriers import carriers_of
from les_plugins.model.features import Edges, FeatureLayout, LayerFeatures, LayerLayout, NodeFeatures
from les_plugins.model.long_range import LongRange, LongRangeResult

CALLS = int(os.environ.get("LES_PLUGINS_FUZZ_CALLS", "400"))
FIRST = int(os.environ.get("LES_PLUGINS_FUZZ_SEED", "0"))
CUTOFF = 4.0
LAYOUT = FeatureLayout((LayerLayout(5, 2),), cutoff=CUTOFF, mean_neighbors=4.0, elements=("H", "O"))
RESPONSES: list[dict[str, Any]] = [
    {},
    {"dipole": "isotropic"},
    {"dipole": "anisotropic", "charge": "onsite"},
    {"charge": "pairs"},
    {"charge": "pairs", "dipole": "isotropic", "pair_softness": "edges", "pair_cutoff": 3.0},
]


class Batch(NamedTuple):
    """Structures, some of them empty, and their neighbours: places (N, 3), shift (E, 3) Å of each edge."""

    positions: Tensor
    cell: Tensor
    pbc: Tensor
    batch: Tensor
    species: Tensor
    start: Tensor
    end: Tensor
    shift: Tensor

    def features(self, positions: Tensor) -> NodeFeatures:
        """Smooth functions of the distances, with the graph to the positions."""
        vector = positions[self.end] + self.shift - positions[self.start]
        square = vector.square().sum(1)
        near = (1.0 - square / CUTOFF**2).clamp(min=0.0) ** 4
        kind = 1.0 + self.species[self.end]
        columns = torch.stack([near * kind * torch.exp(-square / width) for width in (1.0, 2.0, 4.0, 8.0)], 1)
        scalars = torch.zeros(len(positions), 4, dtype=positions.dtype).index_add(0, self.start, columns)
        scalars = torch.cat([self.species[:, None].to(positions.dtype), scalars], 1)
        rows = columns[:, 1:3, None] * vector[:, None, :]
        vectors = torch.zeros(len(positions), 2, 3, dtype=positions.dtype).index_add(0, self.start, rows)
        return NodeFeatures([LayerFeatures(scalars, vectors)], Edges(self.start, self.end, vector), self.species)

    def evaluate(self, part: LongRange, positions: Tensor, total: Any = None) -> LongRangeResult:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LesPluginsWarning)  # net charges of charges that heads leave free
            found: LongRangeResult = part(
                self.features(positions), positions, self.cell, self.pbc, self.batch, total_charge=total
            )
        return found


def random_batch(draw: Draw, most: int, empty: float) -> Batch:
    axes = [draw.one_of(0, 2, 3, 3) for _ in range(draw.integer(1, 3))]
    counts = [0 if draw.chance(empty) else draw.integer(1, most) for _ in axes]
    parts = [structure(draw, each, n) for each, n in zip(axes, counts, strict=True)]
    edges, shifts, first = [], [], 0
    for positions, cell, pbc in parts:
        box = brute_force.whole_cell(cell, pbc)
        atoms = Atoms(f"H{len(positions)}" * bool(len(positions)), positions.numpy(), cell=box.numpy(), pbc=pbc.numpy())
        i, j, images = neighbor_list("ijS", atoms, CUTOFF + 0.1)
        edges.append(torch.stack([torch.tensor(i), torch.tensor(j)]).long() + first)
        shifts.append(torch.tensor(images).double() @ box)
        first += len(positions)
    start, end = torch.cat(edges, 1)
    batch = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor(counts))
    species = torch.randint(0, 2, (first,), generator=draw.generator)
    positions, cell, pbc = (
        torch.cat([part[0] for part in parts]),
        *(torch.stack([p[k] for p in parts]) for k in (1, 2)),
    )
    order = torch.randperm(first, generator=draw.generator) if draw.chance(0.5) else torch.arange(first)
    rank = order.argsort()
    return Batch(positions[order], cell, pbc, batch[order], species[order], rank[start], rank[end], torch.cat(shifts))


def random_model(draw: Draw, total_charge: str, responses: list[dict[str, Any]]) -> LongRange:
    torch.manual_seed(draw.integer(0, 2**31 - 1))
    response = dict(draw.one_of(*responses))
    if response and draw.chance(0.4):
        response |= {"solve": "self_consistent", "tolerance": 1e-13}
    section: dict[str, Any] = {
        "multipoles": ["charge", "dipole"][: draw.integer(1, 2)],
        "total_charge": total_charge,
        "epsilon_infinity": draw.one_of(1, 1.78, 4.7),
        "sigma": draw.uniform(0.7, 1.5),
        "response": response,
        "initial_charges": draw.one_of(None, {"H": draw.uniform(-1.0, 1.0), "O": draw.uniform(-2.0, 2.0)}),
        "remove_self_interaction": draw.chance(0.7),
    }
    return build_long_range(LAYOUT, LongRangeConfig.parse(section)).double()


def given_charge(seed: int) -> None:
    """A model of given total charges: what the charges add up to, and what that costs, by the formula of theory 5.4."""
    draw = Draw(seed)
    part, atoms = random_model(draw, "given", RESPONSES), random_batch(draw, 5, 0.2)
    n_structures = len(atoms.cell)
    whole = torch.randint(-3, 4, (n_structures,), generator=draw.generator)
    total = draw.one_of(whole, whole.int(), whole.float(), 2.0 * draw.normal(n_structures), 0.0 * whole)
    found = atoms.evaluate(part, atoms.positions, total)

    latent, epsilon = part.heads(atoms.features(atoms.positions)), part.config.epsilon_infinity
    charge, price = latent.multipoles.charge.clone(), torch.zeros(n_structures, dtype=torch.float64)
    for place in range(n_structures):
        mine = atoms.batch == place
        if not bool(mine.any()):
            continue
        wanted = float(total[place]) / (epsilon**0.5 if bool(atoms.pbc[place].all()) else 1.0)
        soft, hard = latent.charge_softness[mine], latent.electronegativity[mine]
        missing, weight = wanted - charge[mine].sum(), soft / soft.sum()
        charge[mine] = charge[mine] + weight * missing
        price[place] = missing * (weight * hard).sum() + 0.5 * missing**2 / soft.sum()
    pairs = {} if latent.pair_softness is None else {"pair_softness": latent.pair_softness}
    moments = latent.multipoles._replace(charge=charge)
    place = (atoms.positions, atoms.cell, atoms.pbc, atoms.batch)
    layer = part.electrostatics(*place, moments, latent.softness, latent.polarizability, **pairs)
    close = {"rtol": 1e-9, "atol": 1e-9}  # sums in another order, of energies up to a thousand eV
    torch.testing.assert_close(found.permanent.charge, charge, **close)
    torch.testing.assert_close(found.energy, layer.energy + price, **close)
    sums = torch.zeros(n_structures, dtype=torch.float64)
    torch.testing.assert_close(sums.index_add(0, atoms.batch, found.atomic_energy), found.energy, **close)
    if latent.softness is None:  # what flows over pairs changes no sum
        expected = sums.index_add(0, atoms.batch, charge)
        torch.testing.assert_close(sums.index_add(0, atoms.batch, found.charge), expected, **close)


#: What is no total charge of a structure, of a tensor that is one.
DAMAGE: dict[str, Callable[[Tensor], Any]] = {
    "NaN": lambda q: torch.where(torch.arange(len(q)) == 0, torch.nan, q),
    "infinity": lambda q: torch.where(torch.arange(len(q)) == len(q) - 1, torch.inf, q),
    "too long": lambda q: torch.cat([q, q[:1]]),
    "a column": lambda q: q[:, None],
    "a scalar": lambda q: q[0],
    "none of them": lambda q: q[:0],
    "truth": lambda q: q > 0,
    "complex": lambda q: q.to(torch.complex64),
    "double complex": lambda q: q.to(torch.complex128),
    "sparse": lambda q: q.to_sparse(),
    "a list": lambda q: q.tolist(),
    "a number": lambda q: 1.0,
    "an array": lambda q: q.numpy(),
    "text": lambda q: "1",
    "without values": lambda q: q.to("meta"),
    "nothing": lambda q: None,
}


def born_charges(seed: int) -> None:
    """Z* of a model whose charge moves between neighbours: the slope of P, Σ Z* = Q, and J = Σ Z* v."""
    draw = Draw(seed)
    flowing = [response for response in RESPONSES if response.get("charge") != "onsite"]
    part, atoms = random_model(draw, "conserved", flowing), random_batch(draw, 4, 0.1)
    n_structures = len(atoms.cell)
    if len(atoms.batch) == 0:
        return
    total = draw.normal(n_structures) if draw.chance(0.5) else None

    def polarization(positions: Tensor) -> tuple[Tensor, Any]:
        carriers = carriers_of(atoms.evaluate(part, positions), atoms.batch, n_structures, total)
        return carriers.total(positions, atoms.batch, n_structures), carriers

    leaf = atoms.positions.clone().requires_grad_()
    carriers = polarization(leaf)[1]
    assert carriers.is_fixed
    compare_along_open_directions(atoms, atoms.evaluate(part, atoms.positions), total, carriers)
    cell = torch.nan_to_num(atoms.cell)
    born = born_of_carriers(carriers, leaf, cell, atoms.pbc, atoms.batch, create_graph=True).detach()
    scale = max(1.0, float(born.abs().max()))
    way, step = draw.normal(len(leaf), 3), 1e-4
    up, down = (polarization(atoms.positions + sign * step * way)[0].detach() for sign in (1, -1))
    found = torch.zeros(n_structures, 3, dtype=torch.float64)
    found = found.index_add(0, atoms.batch, torch.einsum("nab,nb->na", born, way))
    # step² times a third derivative, rounding and the tolerance of iterations over the step
    torch.testing.assert_close(found, (up - down) / (2.0 * step), rtol=0.0, atol=1e-5 * scale)
    sums = torch.zeros(n_structures, 3, 3, dtype=torch.float64).index_add(0, atoms.batch, born)
    expected = torch.zeros(n_structures, dtype=torch.float64) if total is None else total
    expected = expected * (torch.bincount(atoms.batch, minlength=n_structures) > 0)
    torch.testing.assert_close(sums, expected[:, None, None] * torch.eye(3).double(), rtol=0.0, atol=1e-11 * scale)
    current = Current(carriers, leaf, atoms.batch)(way)
    torch.testing.assert_close(current, found[: len(current)], rtol=0.0, atol=1e-8 * scale)  # iterations again


def compare_along_open_directions(atoms: Batch, latent: LongRangeResult, total: Tensor | None, carriers: Any) -> None:
    """There every charge has a place, however it came there: P = Σ q r + Σ u."""
    found = carriers.total(atoms.positions, atoms.batch, len(atoms.cell)).detach()
    for place, (cell, pbc) in enumerate(zip(atoms.cell, atoms.pbc, strict=True)):
        mine = atoms.batch == place
        if not bool(mine.any()):
            continue
        normal = brute_force.normal_of(cell, pbc)
        along = {0: torch.eye(3).double(), 2: torch.outer(normal, normal), 3: torch.zeros(3, 3).double()}[
            int(pbc.sum())
        ]
        charge = latent.charge[mine] - latent.charge[mine].mean()
        charge = charge if total is None else charge + total[place] / int(mine.sum())
        moment = charge @ atoms.positions[mine]
        moment = moment if latent.dipole is None else moment + latent.dipole[mine].sum(0)
        # rounding of places of a hundred Å
        torch.testing.assert_close(along @ found[place], along @ moment.detach(), rtol=0.0, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("check", [given_charge, born_charges])
def test_random_models(check: Callable[[int], None]) -> None:
    found = []
    for seed in range(FIRST, FIRST + CALLS):
        try:
            check(seed)
        except Exception as error:
            found.append(f"seed {seed}: {type(error).__name__}: {error}")
    assert not found, "\n".join(found[:20])


@pytest.mark.parametrize("check", [given_charge, born_charges])
def test_a_few_random_models(check: Callable[[int], None]) -> None:
    for seed in range(FIRST, FIRST + 8):
        check(seed)


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_no_total_charge_is_an_error(kind: str) -> None:
    for seed in range(3):
        draw = Draw(seed)
        part, atoms = random_model(draw, "given", RESPONSES), random_batch(draw, 4, 0.2)
        damaged = DAMAGE[kind](draw.normal(len(atoms.cell)))
        with pytest.raises((GeometryError, ConfigError), match="total_charge"):
            atoms.evaluate(part, atoms.positions, damaged)
