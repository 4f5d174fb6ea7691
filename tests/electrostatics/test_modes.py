"""Every mode of the layer together: method × response × boundary × external field.

Derivatives of each (gradcheck, gradgradcheck, forces and stress by central differences), or its refusal.
"""

from __future__ import annotations

from itertools import product

import pytest
import torch
from one_projection import first_derivatives_hold, second_derivatives_hold
from torch import Tensor

from les_plugins.electrostatics.multipoles import traceless
from les_plugins.errors import GeometryError

METHODS = {"direct": {"method": "direct"}, "mesh": {"method": "mesh", "mesh_tolerance": 1e-2}}
RESPONSES = {
    "none": {"response": None},
    "one shot": {"response": "one_shot"},
    "self-consistent": {"response": "self_consistent", "response_tolerance": 1e-13},
    "fixed charge": {"response": "self_consistent", "response_tolerance": 1e-13, "total_charge": "fixed"},
}
BOUNDARIES = {"3D": True, "slab": "slab", "open": False}
FIELDS = {"no field": "refuse", "field": "refuse", "field on dipoles": "dipoles"}  # what periodic_field is
INPUTS = ("positions", "cell", "charge", "dipole", "quadrupole", "softness", "polarizability", "field")
#: No wave vector that crosses the cutoff sphere under a small strain is seen; and a sum of few of them.
FINE, FEW = {"dl": 0.8}, {"dl": 2.0}


def field_of(kind: str, boundary: str, strength: Tensor, cell: Tensor) -> Tensor | None:
    """A field (3,), in any direction; on the charges of slabs along the normal, which a strain turns."""
    if kind == "no field":
        return None
    if boundary == "slab" and kind == "field":
        normal = torch.linalg.cross(cell[0, 2], cell[0, 0])  # the slabs of the fixtures are open along the second axis
        return strength[2] * normal / normal.norm()
    return strength


class Case:
    """One mode on one system.

    Args:
        make_system, solve: the fixtures.
        n_atoms: few.
        resolution: `dl`.
    """

    def __init__(self, make_system, solve, mode: tuple[str, str, str, str], n_atoms: int, resolution: dict) -> None:
        method, response, self.boundary, self.kind = mode
        self.solve = solve
        self.settings = {**METHODS[method], **RESPONSES[response], **resolution}
        system = make_system(n_atoms=n_atoms, periodic=BOUNDARIES[self.boundary], size=4.5)
        # strong enough for induced moments to answer each other, and not for a slab to take charge without limit
        self.system = system._replace(softness=3.0 * system.softness, polarizability=3.0 * system.polarizability)
        self.strength = torch.tensor([0.3, -0.2, 0.4], dtype=torch.float64)

    def outputs(self, given: dict[str, Tensor]):
        """Result for inputs that take the place of the system's."""
        given = dict(given)
        strength = given.pop("field", self.strength)
        if "quadrupole" in given:
            given["quadrupole"] = traceless(given["quadrupole"])
        system = self.system._replace(**given)
        field = field_of(self.kind, self.boundary, strength, system.cell)
        return self.solve(system, field, FIELDS[self.kind], **self.settings)

    def inputs(self) -> dict[str, Tensor]:
        """What the energy depends on."""
        unused = set() if self.kind != "no field" else {"field"}
        if self.boundary == "open":
            unused.add("cell")
        if self.settings["response"] is None:
            unused |= {"softness", "polarizability"}
        values = {"field": self.strength, **self.system._asdict()}
        return {name: values[name].clone().requires_grad_() for name in INPUTS if name not in unused}


MODES = list(product(METHODS, RESPONSES, BOUNDARIES, FIELDS))
REFUSED = [mode for mode in MODES if mode[2:] == ("3D", "field")]
#: Open structures are pairs, whatever the method; a slab is a periodic sum and what its normal adds, the field too.
SAME = [
    mode for mode in MODES if mode[0] == "mesh" and (mode[2] == "open" or (mode[2] == "slab" and mode[3] != "no field"))
]
BUILT = pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in (*REFUSED, *SAME)], ids=", ".join)


@BUILT
def test_first_and_second_derivatives_of_the_energy_in_every_input(mode, make_system, solve):
    case = Case(make_system, solve, mode, 2, FEW)
    given = case.inputs()

    def energy(*values):
        return case.outputs(dict(zip(given, values, strict=True))).energy

    assert first_derivatives_hold(energy, list(given.values()))
    assert second_derivatives_hold(energy, list(given.values()))


@BUILT
def test_forces_and_stress_are_central_differences(mode, make_system, solve):
    case = Case(make_system, solve, mode, 3, FINE)
    system, generator = case.system, torch.Generator().manual_seed(3)
    identity, length = torch.eye(3, dtype=torch.float64), 1e-4

    def energy(positions, strain):
        deform = identity + strain
        return case.outputs({"positions": positions @ deform, "cell": system.cell @ deform}).energy.sum()

    places = system.positions.clone().requires_grad_()
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    forces, virial = torch.autograd.grad(energy(places, strain), (places, strain))
    towards = torch.randn(forces.shape, generator=generator, dtype=torch.float64)
    way = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    for slope, along, step in ((forces, towards, (length, 0.0)), (virial, way, (0.0, length))):
        up, down = (
            float(energy(system.positions + sign * step[0] * towards, sign * step[1] * way)) for sign in (1, -1)
        )
        # theory, section 12: 1e-6 of the whole gradient; the difference itself is good to length² times some tens
        bound = 1e-6 * float(slope.norm() * along.norm())
        assert float((slope * along).sum()) == pytest.approx((up - down) / (2.0 * length), abs=bound)


@pytest.mark.parametrize("mode", REFUSED, ids=", ".join)
def test_a_field_along_periodic_directions_raises_an_error(mode, make_system, solve):
    case = Case(make_system, solve, mode, 2, FEW)
    with pytest.raises(GeometryError, match="along periodic directions the positions of charges are not defined"):
        case.outputs({})


@pytest.mark.parametrize(("method", "response"), list(product(METHODS, RESPONSES)))
def test_a_field_that_leans_out_of_the_normal_of_a_slab_raises_an_error(method, response, make_system, solve):
    case = Case(make_system, solve, (method, response, "slab", "field"), 2, FEW)
    with pytest.raises(GeometryError, match="one along the normal on slabs"):
        solve(case.system, case.strength, **case.settings)
