"""`SolverContract`: the laws of a solver that a plugin brings. A test class inherits it and names the solver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from les_plugins.config import LongRangeConfig
from les_plugins.electrostatics.multipoles import Multipoles
from les_plugins.errors import ConfigError, GeometryError, LesPluginsError
from les_plugins.hosting.registry import responses, solvers
from les_plugins.testing.derivatives import slope

#: Boundary conditions by name.
BOUNDARIES = {"periodic": (True, True, True), "slab": (True, True, False), "open": (False, False, False)}
_NAMES = ("charge", "dipole", "quadrupole")
_WIRE = (True, False, False)


class System(NamedTuple):
    """Six atoms of one structure: positions (N, 3) Å, cell (3, 3) Å, pbc of it, moments of the solver's order."""

    positions: Tensor
    cell: Tensor
    pbc: tuple[bool, bool, bool]
    moments: Multipoles


class SolverContract:
    """What every solver passes. Subclass it as `class TestMySolver(SolverContract)` and pytest collects the tests.

    Attributes:
        method: name of the solver under `run.method`.
        boundaries: that it takes, of `BOUNDARIES`; others it has to refuse.
        order: highest rank of the permanent moments that it takes: 0 charge, 1 dipole, 2 quadrupole.
        takes_response: whether it takes induced charges and dipoles.
        takes_field: whether it takes an external field, of open structures.
        accuracy: relative error of an energy, where two exact sums would be equal: that of a mesh.
        section: further keys of the `long_range:` section.
    """

    method: ClassVar[str]
    boundaries: ClassVar[tuple[str, ...]] = tuple(BOUNDARIES)
    order: ClassVar[int] = 2
    takes_response: ClassVar[bool] = True
    takes_field: ClassVar[bool] = True
    accuracy: ClassVar[float] = 1e-9
    section: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(params=list(BOUNDARIES))
    def system(self, request: pytest.FixtureRequest) -> System:
        """A structure of each boundary condition that the solver takes."""
        if request.param not in self.boundaries:
            pytest.skip(f"the solver takes no {request.param} structures")
        return self.structure(request.param)

    def solver(self, **changes: Any) -> Any:
        """The solver of a section, as a model has it: in double precision, in evaluation mode."""
        config = self.config(**changes)
        solver: nn.Module = solvers()[config.run.method].factory(config)
        if config.has_response:  # as `build_long_range` has it
            if not hasattr(solver, "response_model"):
                raise ConfigError("the solver has no attribute response_model")
            solver.response_model = responses()[config.response.solve].factory(config)
        return solver.eval()

    def config(self, **changes: Any) -> LongRangeConfig:
        """Its section; dl so fine that no wave vector at the cutoff carries energy, or a strain would make it jump."""
        moments = {"multipoles": list(_NAMES[: self.order + 1]), "sigma": 1.3, "dl": 1.1, "neutralize": "keep"}
        return LongRangeConfig.parse({**moments, "run": {"method": self.method}, **self.section, **changes})

    def structure(self, boundary: str, seed: int = 1) -> System:
        """Six atoms with a net charge of zero in a triclinic cell; well apart, on both sides of its faces."""
        generator = torch.Generator().manual_seed(seed)
        cell = torch.tensor([[6.0, 0.0, 0.0], [0.9, 6.4, 0.0], [-0.7, 0.5, 7.0]], dtype=torch.float64)
        places = torch.tensor([[i, j, k] for k in range(2) for j in range(2) for i in range(2)][:6]).double()
        fraction = 0.5 * places + 0.06 * torch.randn(6, 3, generator=generator, dtype=torch.float64)
        charge, dipole = (torch.randn(6, n, generator=generator, dtype=torch.float64) for n in (1, 3))
        square = torch.randn(6, 3, 3, generator=generator, dtype=torch.float64)
        symmetric = 0.5 * (square + square.transpose(1, 2))
        trace = symmetric.diagonal(dim1=1, dim2=2).sum(1)[:, None, None] * torch.eye(3, dtype=torch.float64)
        charge = 0.4 * (charge - charge.mean()).squeeze(1)
        rest = (0.2 * dipole, 0.2 * (symmetric - trace / 3.0))[: self.order]
        return System(fraction @ cell, cell, BOUNDARIES[boundary], Multipoles(charge, *rest))

    def result(self, system: System, solver: Any = None, **given: Any) -> Any:
        """What the solver returns for one structure."""
        solver = self.solver() if solver is None else solver
        batch = torch.zeros(len(system.positions), dtype=torch.long)
        return solver(system.positions, system.cell[None], torch.tensor([system.pbc]), batch, system.moments, **given)

    def energy(self, system: System) -> float:
        """Its energy, eV."""
        return float(self.result(system).energy.detach())

    def test_atomic_energies_add_up_to_the_energy(self, system: System) -> None:
        found = self.result(system)
        assert found.energy.shape == (1,)
        # a sum of six numbers
        torch.testing.assert_close(found.atomic_energy.sum(), found.energy[0], rtol=1e-12, atol=1e-12)

    def test_forces_are_minus_the_central_difference_of_the_energy(self, system: System) -> None:
        places = system.positions.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.result(system._replace(positions=places)).energy.sum(), places)
        for atom, axis in ((0, 0), (3, 1), (5, 2)):
            unit = torch.zeros_like(system.positions)
            unit[atom, axis] = 1.0

            def moved(size: float, unit: Tensor = unit) -> float:
                return self.energy(system._replace(positions=system.positions + size * unit))

            found = slope(moved, 1e-3)
            # both errors of the formula are below 1e-6 of the largest force (theory 12)
            assert abs(found - float(gradient[atom, axis])) < 1e-6 * float(gradient.abs().max())

    def test_stress_is_the_strain_derivative_of_the_energy(self, system: System) -> None:
        strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
        (found,) = torch.autograd.grad(self.result(_strained(system, strain)).energy.sum(), strain)
        open_axes = [axis for axis in range(3) if not system.pbc[axis]]
        for row, column in ((0, 0), (1, 1), (2, 2), (0, 1)):
            if row in open_axes and len(open_axes) < 3:  # a slab's normal stays what it is
                continue
            unit = torch.zeros(3, 3, dtype=torch.float64)
            unit[row, column] = 1.0

            def strained(size: float, unit: Tensor = unit) -> float:
                return self.energy(_strained(system, size * unit))

            difference = slope(strained, 1e-4)
            assert abs(difference - float(found[row, column])) < 1e-6 * float(found.abs().max())  # as for the forces

    def test_energy_is_that_of_the_structure_wherever_it_is_and_however_it_is_turned(self, system: System) -> None:
        energy = self.energy(system)
        elsewhere = system.positions + torch.tensor([0.8, -1.7, 2.9], dtype=torch.float64)
        for axis in (axis for axis in range(3) if system.pbc[axis]):  # an image of one atom
            elsewhere[axis] = elsewhere[axis] + system.cell[axis] * (axis + 1)
        assert abs(self.energy(system._replace(positions=elsewhere)) - energy) < self.accuracy * abs(energy)
        turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3)).double())[0]
        charge, dipole, quadrupole = system.moments
        turned = Multipoles(
            charge,
            None if dipole is None else dipole @ turn,
            None if quadrupole is None else turn.T @ quadrupole @ turn,
        )
        whole = System(system.positions @ turn, system.cell @ turn, system.pbc, turned)
        assert abs(self.energy(whole) - energy) < self.accuracy * abs(energy)

    def test_energy_is_even_in_the_moments(self, system: System) -> None:
        charge, dipole, quadrupole = system.moments
        opposite = Multipoles(-charge, None if dipole is None else -dipole, None if quadrupole is None else -quadrupole)
        energy = self.energy(system)
        assert abs(self.energy(system._replace(moments=opposite)) - energy) < 1e-12 * abs(energy)  # rounding

    def test_potential_and_field_are_the_slopes_of_the_energy_in_charges_and_dipoles(self, system: System) -> None:
        charge, dipole, quadrupole = system.moments
        charge = charge.clone().requires_grad_()
        dipole = torch.zeros(6, 3, dtype=torch.float64) if dipole is None else dipole
        dipole = dipole.clone().requires_grad_()
        places = system.positions.clone().requires_grad_()
        moments = Multipoles(charge, None if self.order == 0 else dipole, quadrupole)
        found = self.result(System(places, system.cell, system.pbc, moments))
        slopes = torch.autograd.grad(found.energy.sum(), (charge, dipole, places), allow_unused=True)
        # exact derivatives; those of a mesh are its own sums once more
        scale = float(found.potential.detach().abs().max())
        torch.testing.assert_close(found.potential, slopes[0], rtol=1e-9, atol=1e-9 * scale)
        if self.order == 0:  # a charge feels the field
            torch.testing.assert_close(charge[:, None] * found.field, -slopes[2], rtol=1e-6, atol=1e-9 * scale)
        else:
            torch.testing.assert_close(found.field, -slopes[1], rtol=1e-9, atol=1e-9 * scale)

    def test_a_batch_gives_the_numbers_of_its_structures_one_by_one(self) -> None:
        systems = [self.structure(name, seed) for seed, name in enumerate((*self.boundaries, self.boundaries[0]))]
        solver, count = self.solver(), len(systems)
        batch = torch.arange(count).repeat(6)  # atoms of all structures in turn

        def mixed(values: list[Tensor]) -> Tensor:
            return torch.stack(values, 1).flatten(0, 1)

        ranks = zip(*(one.moments for one in systems), strict=True)
        moments = [mixed(list(parts)) for parts in ranks if parts[0] is not None]
        cells, flags = torch.stack([one.cell for one in systems]), torch.tensor([one.pbc for one in systems])
        together = solver(mixed([one.positions for one in systems]), cells, flags, batch, Multipoles(*moments))
        for number, one in enumerate(systems):
            alone, mine = self.result(one, solver), batch == number
            # sums in another order
            torch.testing.assert_close(together.energy[number], alone.energy[0], rtol=1e-10, atol=1e-10)
            for name in ("atomic_energy", "potential", "field", "charge"):
                found, expected = getattr(together, name)[mine], getattr(alone, name)
                torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)

    def test_second_derivatives_are_differences_of_the_forces(self, system: System) -> None:
        solver = self.solver().train()

        def forces(places: Tensor, charge: Tensor, graph: bool) -> Tensor:
            places = places if places.requires_grad else places.clone().requires_grad_()
            moments = Multipoles(charge, *system.moments[1:])
            energy = self.result(System(places, system.cell, system.pbc, moments), solver).energy.sum()
            return -torch.autograd.grad(energy, places, create_graph=graph)[0]

        places = system.positions.clone().requires_grad_()
        charge = system.moments.charge.clone().requires_grad_()
        weights = torch.randn(6, 3, generator=torch.Generator().manual_seed(5)).double()
        loss = (weights * forces(places, charge, True)).sum()
        by_place, by_charge = torch.autograd.grad(loss, (places, charge))
        way, push = (
            torch.randn(shape, generator=torch.Generator().manual_seed(6)).double() for shape in ((6, 3), (6,))
        )

        def along(size: float) -> float:
            return float((weights * forces(system.positions + size * way, system.moments.charge, False)).sum())

        def charged(size: float) -> float:
            return float((weights * forces(system.positions, system.moments.charge + size * push, False)).sum())

        # as for the forces
        assert abs(slope(along, 1e-3) - float((by_place * way).sum())) < 1e-6 * float(by_place.abs().max())
        assert abs(slope(charged, 1e-3) - float((by_charge * push).sum())) < 1e-6 * float(by_charge.abs().max())

    def test_induced_moments_follow_potential_and_field(self, system: System) -> None:
        if not self.takes_response:
            pytest.skip("the solver takes no response")
        softness, alpha = torch.full((6,), 0.02).double(), torch.full((6,), 0.03).double()
        permanent = self.result(system)
        solver = self.solver(response={"charge": "onsite", "dipole": "isotropic"})
        found = self.result(system, solver, softness=softness, polarizability=alpha)
        own = torch.zeros(6, 3).double() if system.moments.dipole is None else system.moments.dipole
        torch.testing.assert_close(found.charge, system.moments.charge - softness * permanent.potential)
        torch.testing.assert_close(found.dipole, own + alpha[:, None] * permanent.field)
        response = -0.5 * (softness * permanent.potential**2 + alpha * permanent.field.square().sum(1)).sum()
        torch.testing.assert_close(found.energy[0], permanent.energy[0] + response)

    def test_the_dipole_is_minus_the_slope_of_the_energy_in_a_field(self) -> None:
        if "open" not in self.boundaries or not self.takes_field:
            pytest.skip("the solver takes no external field")
        system, solver = self.structure("open"), self.solver()
        field = torch.tensor([0.02, -0.01, 0.03], dtype=torch.float64, requires_grad=True)
        (slopes,) = torch.autograd.grad(self.result(system, solver, external_field=field).energy.sum(), field)
        dipole = (system.moments.charge[:, None] * system.positions).sum(0)
        if system.moments.dipole is not None:
            dipole = dipole + system.moments.dipole.sum(0)
        torch.testing.assert_close(-slopes, dipole)

    @pytest.mark.parametrize("boundary", [*BOUNDARIES, "wire"])
    def test_boundary_conditions_that_it_does_not_take_are_errors(self, boundary: str) -> None:
        if boundary in self.boundaries:
            pytest.skip("the solver takes them")
        system = self.structure("open")._replace(pbc=BOUNDARIES.get(boundary, _WIRE))
        with pytest.raises(GeometryError):
            self.result(system)

    def test_what_it_does_not_offer_is_an_error(self) -> None:
        refused: list[Callable[[], Any]] = []
        if self.order < 2:
            refused.append(lambda: self.solver(multipoles=list(_NAMES)))
        if not self.takes_response:
            refused.append(lambda: self.solver(response={"charge": "onsite"}))
        if not self.takes_field:
            system, field = self.structure(self.boundaries[-1]), torch.tensor([0.1, 0.0, 0.0]).double()
            refused.append(lambda: self.result(system, external_field=field))
        if not refused:
            pytest.skip("the solver offers everything")
        for call in refused:
            with pytest.raises(LesPluginsError):
                call()


def _strained(system: System, strain: Tensor) -> System:
    """The structure under r → r (1 + ε), cell and all; moments stay."""
    whole = torch.eye(3, dtype=torch.float64) + strain
    return system._replace(positions=system.positions @ whole, cell=system.cell @ whole)
