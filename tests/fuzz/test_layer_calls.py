"""Three thousand seeded calls of the layer, of every kind that it takes, against the sum written out in brute_force.py.

LES_PLUGINS_FUZZ_CALLS and LES_PLUGINS_FUZZ_SEED change how many, and from where. A failing call names its seed; run it
alone with `python tests/fuzz/test_layer_calls.py SEED`.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import brute_force
import pytest
import torch
from draws import Draw, Graph, structure
from torch import Tensor
from torch.autograd.functional import hessian

from les_plugins import LatentElectrostatics, Multipoles, PairSoftness
from les_plugins.electrostatics.flow import polarizability_with_flow
from les_plugins.electrostatics.observables import system_polarizability
from les_plugins.errors import GeometryError

CALLS = int(os.environ.get("LES_PLUGINS_FUZZ_CALLS", "3000"))
FIRST = int(os.environ.get("LES_PLUGINS_FUZZ_SEED", "0"))
GROUPS = 20


def settings_of(draw: Draw, boundaries: list[int]) -> dict[str, Any]:
    sigma = draw.uniform(0.6, 1.6)
    # a slab is exact to what the cutoff leaves out: exp(−σ²k_c²/2) = 4e-14 then
    dl = 0.8 * sigma if 2 in boundaries else max(draw.uniform(0.6, 2.5), 0.6 * sigma)
    settings: dict[str, Any] = {
        "sigma": sigma,
        "dl": dl,
        "remove_self_interaction": draw.chance(0.7),
        "method": draw.one_of("auto", "direct", "direct", "mesh"),
        "response": draw.one_of("one_shot", "one_shot", "self_consistent", None),
        "neutralize": draw.one_of("keep", "keep", "background", "shift"),
        "net_charge_warning": None,
        "workspace": draw.one_of(256.0, 0.05),
        "mesh_tolerance": 1e-8,
        "response_tolerance": 1e-12,
    }
    if settings["response"] == "self_consistent":
        # a slab that charge may flow to from outside has no minimum: its energy has no natural zero
        settings["total_charge"] = "fixed" if 2 in boundaries else draw.one_of("free", "fixed")
    return settings


def polarizability_of(
    layer: LatentElectrostatics,
    positions: Tensor,
    cell: Tensor,
    pbc: Tensor,
    batch: Tensor,
    softness: Tensor | None,
    polarizability: Tensor | None,
    pairs: PairSoftness | None,
) -> Tensor:
    """(B, 3, 3), −∂²U/∂E² of whole structures."""
    found = layer.collective_polarizability(positions, cell, pbc, batch, softness, polarizability, pairs)
    if found is None:
        found = polarizability_with_flow(polarizability, pairs, len(batch))
    else:
        softness = None
    places, cells = positions.double(), cell.double()
    softness, found = (None if value is None else value.detach().double() for value in (softness, found))
    return system_polarizability(places, pbc, batch, softness, found, cells)


def call(seed: int) -> dict[str, tuple[float, float]]:
    """Deviation and what is allowed of every quantity of one call."""
    draw = Draw(seed)
    boundaries = [draw.one_of(0, 2, 3, 3) for _ in range(draw.one_of(1, 1, 2, 3))]
    settings = settings_of(draw, boundaries)
    counts = [draw.integer(1, 4 if axes == 2 else 6) for axes in boundaries]
    if draw.chance(0.1):
        counts[draw.integer(0, len(counts) - 1)] = 0
    parts = [structure(draw, axes, n) for axes, n in zip(boundaries, counts, strict=True)]
    positions = torch.cat([part[0] for part in parts])
    cell, pbc = torch.stack([part[1] for part in parts]), torch.stack([part[2] for part in parts])
    batch = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor(counts))
    if draw.chance(0.5):
        order = torch.randperm(len(batch), generator=draw.generator)
        positions, batch = positions[order], batch[order]

    n, rank, channels = len(batch), draw.integer(0, 2), 0
    charge, dipole, root = draw.normal(n), 0.4 * draw.normal(n, 3), 0.4 * draw.normal(n, 3, 3)
    # few binary digits: no trace in float32 either
    quadrupole = (root + root.mT).mul(2.0**10).round() / 2.0**10
    quadrupole[:, 2, 2] = -quadrupole[:, 0, 0] - quadrupole[:, 1, 1]
    softness = polarizability = None
    if rank == 0 and draw.chance(0.15):
        channels = draw.integer(1, 3)
        charge = draw.normal(n, channels)
    flows = not channels and draw.chance(0.5)
    if not channels and draw.chance(0.7):
        softness = 0.02 * draw.normal(n).square() if draw.chance(0.7) and not flows else None
        if draw.chance(0.7):
            root = 0.15 * draw.normal(n, 3, 3)
            polarizability = root @ root.mT if draw.chance(0.5) else root[:, 0, 0].square()
    graph = Graph(draw, positions, cell, pbc, batch) if flows else None
    field = torch.zeros(len(parts), 3, dtype=torch.float64)
    anywhere = draw.chance(0.5)
    if not channels and draw.chance(0.4):
        for place, (axes, (_, box, flags)) in enumerate(zip(boundaries, parts, strict=True)):
            if axes == 0 or anywhere:
                field[place] = 0.3 * draw.normal(3)
            elif axes == 2:
                field[place] = draw.uniform(-0.3, 0.3) * brute_force.normal_of(box, flags)
    kind = torch.float32 if draw.chance(0.2) else torch.float64
    heads = torch.float32 if draw.chance(0.3) else torch.float64
    values = [charge, dipole if rank > 0 else None, quadrupole if rank > 1 else None, softness, polarizability]
    values = [None if value is None else value.to(heads) for value in values]
    if kind is torch.float32:
        positions, cell = positions.float(), cell.float()

    layer = LatentElectrostatics(**settings).train(draw.chance(0.3))
    places = positions.clone().requires_grad_()
    pairs = None
    if graph is not None:
        edges, index = graph.edges(places), draw.one_of(torch.int64, torch.int32, torch.int16)
        pairs = PairSoftness(edges.start.to(index), edges.end.to(index), edges.vector.to(kind), edges.value.to(kind))
    result = layer(
        places, cell, pbc, batch.to(draw.one_of(torch.int64, torch.int32)), Multipoles(*values[:3]), *values[3:],
        external_field=field if bool(field.any()) else None, pair_softness=pairs,
        periodic_field="dipoles" if anywhere else "refuse",
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(result.energy.sum(), places)

    whole: Tensor | None = None
    if not channels and layer.response_model is not None and draw.chance(0.3):
        whole = polarizability_of(layer, positions, cell, pbc, batch, values[3], values[4], pairs)
    second = torch.zeros(len(parts), 3, 3, dtype=torch.float64)

    expected = [torch.zeros_like(value, dtype=torch.float64) for value in result[:1] + result[2:5]]
    expected.append(torch.zeros(n, 3, dtype=torch.float64))
    slope = torch.zeros(n, 3, dtype=torch.float64)
    moved = torch.zeros(0 if pairs is None else len(pairs.value), dtype=torch.float64)
    known = ("sigma", "dl", "remove_self_interaction", "response")
    for place in range(len(parts)):
        atoms = (batch == place).nonzero()[:, 0]
        if len(atoms) == 0:
            continue
        q, u, Q, kappa, alpha = (None if value is None else value[atoms].double() for value in values)
        neutralize = settings["neutralize"]
        if neutralize == "shift" or (neutralize == "background" and not bool(pbc[place].all())):
            q = q - q.mean(0)
        r = positions[atoms].double().requires_grad_()
        mine, edges = (None, None) if graph is None or pairs is None else graph.within(atoms, r, pairs)
        for column in range(max(channels, 1)):
            solve = functools.partial(
                brute_force.solve, r, cell[place].double(), pbc[place], q[:, column] if channels else q,
                torch.zeros(len(atoms), 3).double() if u is None else u,
                torch.zeros(len(atoms), 3, 3).double() if Q is None else Q,
                kappa, alpha, edges=edges, total_charge=settings.get("total_charge", "free"),
                **{name: settings[name] for name in known},
            )  # fmt: skip
            found = solve(field=field[place])
            if whole is not None:
                second[place] = -hessian(lambda applied, solve=solve: solve(field=applied).energy, field[place])
            slope[atoms] += torch.autograd.grad(found.energy, r, retain_graph=True)[0]
            found = [value.detach() for value in found]
            expected[0][place] += found[0]
            if channels:
                expected[1][atoms, column], expected[3][atoms, column] = found[1], found[3]
            else:
                expected[1][atoms], expected[3][atoms] = found[1], found[3]
            expected[2][atoms] += found[2]
            expected[4][atoms] = found[4]
            if mine is not None:
                moved[mine] = found[5].double()

    # float64 sums of some thousand terms; the mesh's tolerance is relative to the forces; float32 results are rounded
    allowed = 1e-9
    if 2 in boundaries or settings["response"] == "self_consistent":
        allowed = 1e-8
    if settings["method"] == "mesh" and (2 in boundaries or 3 in boundaries):
        allowed = 1e-6
    if kind is torch.float32:
        allowed = 2e-6
    names = ("energy", "potential", "field", "charge", "dipole")
    dipole_found = torch.zeros(n, 3) if result.dipole is None else result.dipole
    outcome = {}
    pairs = zip(names, (result.energy, *result[2:5], dipole_found), expected, strict=True)
    for name, value, reference in (
        *pairs,
        (
            "atomic energy",
            torch.zeros(len(parts)).double().index_add(0, batch, result.atomic_energy.detach().double()),
            expected[0],
        ),
        ("forces", gradient, slope),
        ("polarizability", second if whole is None else whole, second),
        ("charge on the way", moved if result.flow is None else result.flow.charge, moved),
    ):
        assert value.shape == reference.shape, f"seed {seed}: {name} has shape {tuple(value.shape)}"
        if value.numel():
            size = max(1.0, float(reference.abs().max()))
            scale = max(size, float(result.atomic_energy.detach().abs().sum())) if "energy" in name else size
            outcome[name] = (float((value.detach().double() - reference).abs().max()), allowed * scale)
    return outcome


def failures(seeds: range) -> list[str]:
    """What is outside, by seed; an exception is outside too, for every call is one that the layer takes."""
    found = []
    for seed in seeds:
        try:
            outcome = call(seed)
        except Exception as error:
            found.append(f"seed {seed}: {type(error).__name__}: {error}")
            continue
        for name, (deviation, allowed) in outcome.items():
            if not deviation <= allowed:
                found.append(f"seed {seed}: {name} is off by {deviation:.2g}, allowed {allowed:.2g}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("group", range(GROUPS))
def test_the_layer_is_the_brute_force_sum(group: int) -> None:
    share = -(-CALLS // GROUPS)
    found = failures(range(FIRST + group * share, FIRST + min(CALLS, (group + 1) * share)))
    assert not found, "\n".join(found[:20])


#: What may become of the edge in a place, so that it is no longer that of its reverse.
DAMAGE: dict[str, Callable[[PairSoftness, int, Draw], PairSoftness]] = {
    "left out": lambda pairs, place, draw: PairSoftness(*(torch.cat([x[:place], x[place + 1 :]]) for x in pairs[:4])),
    "twice": lambda pairs, place, draw: PairSoftness(*(torch.cat([x, x[place : place + 1]]) for x in pairs[:4])),
    "softer": lambda pairs, place, draw: changed(pairs, "value", place, pairs.value[place] * draw.uniform(1.1, 3.0)),
    "negative": lambda pairs, place, draw: changed(pairs, "value", place, -pairs.value[place]),
    "NaN": lambda pairs, place, draw: changed(pairs, "value", place, torch.nan),
    "elsewhere": lambda pairs, place, draw: changed(pairs, "vector", place, pairs.vector[place] + draw.normal(3)),
    "endless": lambda pairs, place, draw: changed(pairs, "vector", place, torch.inf),
    "to another": lambda pairs, place, draw: changed(pairs, "neighbor", place, (pairs.neighbor[place] + 1) % 5),
    "from another": lambda pairs, place, draw: changed(pairs, "centre", place, (pairs.centre[place] + 1) % 5),
    "to nowhere": lambda pairs, place, draw: changed(pairs, "neighbor", place, draw.one_of(-1, 5, 10**6)),
}


def changed(pairs: PairSoftness, name: str, place: int, value: Any) -> PairSoftness:
    tensor = getattr(pairs, name).clone()
    tensor[place] = value
    return pairs._replace(**{name: tensor})


@pytest.mark.parametrize("kind", DAMAGE)
def test_an_edge_that_is_not_that_of_its_reverse_is_an_error(kind: str) -> None:
    tried = 0
    for seed in range(FIRST, FIRST + 30):
        draw = Draw(seed)
        positions, cell, pbc = structure(draw, draw.one_of(0, 2, 3), 5)
        batch = torch.zeros(5, dtype=torch.long)
        edges = Graph(draw, positions, cell[None], pbc[None], batch).edges(positions)
        pairs = PairSoftness(*edges)
        # the tolerance is relative to the softness of all edges of an atom: others are lost in it
        heavy = (pairs.value > 1e-3 * pairs.value.sum()).nonzero()[:, 0].tolist()
        if not heavy:
            continue
        tried += 1
        damaged = DAMAGE[kind](pairs, draw.one_of(*heavy), draw)
        with pytest.raises(GeometryError, match="pair_softness"):
            LatentElectrostatics(net_charge_warning=None)(
                positions, cell[None], pbc[None], batch, Multipoles(draw.normal(5)), pair_softness=damaged
            )
    assert tried > 10


def test_a_few_of_them() -> None:
    assert failures(range(FIRST, FIRST + 10)) == []


if __name__ == "__main__":
    for name, (deviation, allowed) in call(int(sys.argv[1])).items():
        print(f"{name}: {deviation:.3g} of {allowed:.3g}")  # noqa: T201
