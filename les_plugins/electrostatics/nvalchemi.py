"""The sum of `reciprocal.py` on the particle mesh of nvalchemi-toolkit-ops, an optional package.

One function for one periodic structure, and the layer that calls it, which `hosting.nvalchemi` offers through the
solver hook. The package is imported when a layer is made.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from les_plugins.electrostatics.checks import is_traced
from les_plugins.electrostatics.groups import Facts
from les_plugins.electrostatics.layer import LatentElectrostatics
from les_plugins.electrostatics.local import self_energy
from les_plugins.electrostatics.multipoles import Multipoles, cartesian_to_spherical
from les_plugins.electrostatics.periodic.influence import within
from les_plugins.electrostatics.periodic.mesh import squared_lengths
from les_plugins.electrostatics.periodic.mesh_size import mesh_of
from les_plugins.electrostatics.periodic.reciprocal import proper_lattice
from les_plugins.electrostatics.response.choice import ResponseModel, response_name
from les_plugins.electrostatics.response.one_shot import InteractingResponse
from les_plugins.electrostatics.results import PermanentResult
from les_plugins.electrostatics.settings import ElectrostaticsSettings
from les_plugins.errors import ConfigError, GeometryError, how_to_install
from les_plugins.units import RECIPROCAL_PREFACTOR

#: Highest order of splines that the package has.
SPLINE_ORDER = 6
#: Its Ewald splitting, Å⁻¹, so large that its real-space part, which is not called, and its background vanish.
NO_SPLITTING = 1e8
#: |k|² of the vectors to be left out, over the squared cutoff: exp(−σ²k²/2) is zero there.
FAR_BEYOND = 1e6


class _Package(NamedTuple):
    """What is taken from the package: its function, and its 1/ε0 in eV·Å/e², of other digits than ours."""

    reciprocal_space: Callable[..., Tensor]
    inverse_epsilon_0: float


def nvalchemi_electrostatics(
    positions: Tensor,
    cell: Tensor,
    multipoles: Multipoles,
    settings: ElectrostaticsSettings,
) -> PermanentResult:
    """Energy, potential and field of the permanent moments of one structure, by `multipole_pme_reciprocal_space`.

    Its conventions, as found by comparison with the direct sum: Gaussians of width σ/√2; charge, dipole as (y, z, x)
    and quadrupole as Σ_m c_m B_m in e3nn's order, symmetric traceless B_m with B_m:B_m = 15/2, which enters as
    ½ Q:∇∇ like ours; each atom's interaction with itself is left out. It sums over all the mesh has, and takes its |k|²
    from the transposed cell (0.5.0), which is wrong in any triclinic one: it is given ours, cut off at k_c.

    Args:
        positions: (n, 3) Å, float64.
        cell: (3, 3) Å, rows are lattice vectors; any handedness.
        multipoles: moments of the n atoms.
        settings: of the sums; the tolerance of the mesh is against the direct sum.

    Returns:
        PermanentResult with a scalar energy. Energies can be differentiated twice, potential and field once, in
        positions, cell and moments; torch raises RuntimeError beyond that.

    Raises:
        GeometryError: a singular cell, or one that needs more mesh points than MOST_MESH_POINTS.

    Source: theory 2.
    """
    sigma, cutoff = settings.sigma, settings.cutoff
    inputs = (positions, cell, *multipoles)
    wanted = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    with torch.inference_mode(False), torch.enable_grad():
        if not wanted:  # a graph of the moments alone, for potential and field
            positions, cell = positions.detach().clone(), cell.detach().clone()
            multipoles = Multipoles(*(None if m is None else m.detach().clone() for m in multipoles))  # type: ignore[arg-type]
        charge, dipole, quadrupole = multipoles
        charge = _with_gradient(charge)
        dipole = _with_gradient(positions.new_zeros(len(positions), 3) if dipole is None else dipole)
        packed = [charge[:, None], dipole[:, (1, 2, 0)]]
        if quadrupole is not None:
            packed.append(math.sqrt(2.0 / 15.0) * cartesian_to_spherical(quadrupole))
        mesh = mesh_of(proper_lattice(cell), sigma, cutoff, multipoles.order, settings.mesh_tolerance, SPLINE_ORDER)
        k_squared = squared_lengths(torch.linalg.inv(cell), mesh)
        package = _package()
        atomic = package.reciprocal_space(
            positions,
            torch.cat(packed, 1),
            cell,
            sigma=sigma / math.sqrt(2.0),
            alpha=NO_SPLITTING,
            mesh_dimensions=mesh.sizes,
            spline_order=SPLINE_ORDER,
            k_squared=torch.where(within(k_squared, cutoff), k_squared, FAR_BEYOND * cutoff**2),
        )
        atomic = (2.0 * RECIPROCAL_PREFACTOR / package.inverse_epsilon_0) * atomic
        moments = Multipoles(charge, dipole, quadrupole)
        if not settings.remove_self_interaction:
            atomic = atomic + self_energy(moments, sigma)
        potential, gradient = torch.autograd.grad(atomic.sum(), (charge, dipole), create_graph=wanted)
    result = PermanentResult(atomic.sum(), atomic, potential, -gradient)
    return result if wanted else PermanentResult(*(value.detach() for value in result))


class NvalchemiElectrostatics(LatentElectrostatics):
    """The layer with its periodic sums by nvalchemi-toolkit-ops (`method: nvalchemi`), for periodic structures alone.

    Args:
        response: "one_shot" or None.
        settings: further ones of `LatentElectrostatics`. Traced and compiled code takes the direct sum here too.

    What it cannot do is refused when it is met: open structures and slabs, and in training mode a response, the forces
    of which are second derivatives already.

    Raises:
        ConfigError: the package is missing, the response is self-consistent, or a setting is outside what is allowed.
    """

    def __init__(self, *, response: str | ResponseModel | None = "one_shot", **settings: Any) -> None:
        check_response(response)
        _package()
        super().__init__(response=response, **{**settings, "method": "mesh"})

    def _solve(
        self,
        positions: Tensor,
        cell: Tensor,
        pbc: Tensor,
        batch: Tensor,
        multipoles: Multipoles,
        facts: Facts | None = None,
    ) -> PermanentResult:
        if is_traced():
            return super()._solve(positions, cell, pbc, batch, multipoles)
        if self.settings.static_cell is not None:
            self.check_static_cell(cell, pbc)
        self._refuse(pbc)
        members = [(batch == structure).nonzero()[:, 0] for structure in range(len(cell))]
        results = [
            nvalchemi_electrostatics(
                positions[atoms],
                box,
                multipoles.select(atoms),
                self.settings,
            )
            if len(atoms)
            else PermanentResult(positions.new_zeros(()), positions[:0, 0], positions[:0, 0], positions[:0])
            for atoms, box in zip(members, cell, strict=True)
        ]
        if not results:
            return PermanentResult(positions.new_zeros(0), positions[:, 0], positions[:, 0], positions)
        energies, *per_atom = zip(*results, strict=True)
        place = torch.argsort(torch.cat(members))
        atomic, potential, field = (torch.cat(parts)[place] for parts in per_atom)
        return PermanentResult(torch.stack(energies), atomic, potential, field)

    def _refuse(self, pbc: Tensor) -> None:
        open_ones = (~pbc).any(1).nonzero()[:, 0].tolist()
        if open_ones:
            raise GeometryError(
                f"pbc is {tuple(pbc[open_ones[0]].tolist())} for structure {open_ones[0]} with method: nvalchemi; "
                "allowed: three True. The other methods, auto, direct and mesh, take slabs and open structures too"
            )
        if self.training and self.response_model is not None:
            raise ConfigError(
                f"response is {response_name(self.response_model)} with method: nvalchemi in training mode: training "
                "on its forces takes third derivatives, and nvalchemi-toolkit-ops has two; allowed: method mesh, "
                "direct or auto in training, or no response"
            )


def check_response(response: str | ResponseModel | None) -> None:
    """Raise ConfigError for a response that asks for the fields of induced moments, of which there are too few here."""
    if response == "self_consistent" or isinstance(response, InteractingResponse):
        raise ConfigError("response is 'self_consistent' with method: nvalchemi; allowed: 'one_shot' or None")


def _with_gradient(moment: Tensor) -> Tensor:
    """The moment as a variable of its own, in whose slope no other moment takes part that was made from it."""
    return moment.view_as(moment) if moment.requires_grad else moment.detach().requires_grad_()


@cache
def _package() -> _Package:
    """The package, imported so that its kernels compile in seconds each.

    It writes all p³ points of a spline out, which Warp's compiler for processors did not get through in two minutes of
    processor time a kernel; as loops all of them take 20 s. Modules keep the limit that they are made with.

    Raises:
        ConfigError: the package is missing, or cannot be imported.
    """
    if importlib.util.find_spec("nvalchemiops") is None or importlib.util.find_spec("warp") is None:
        raise ConfigError(
            f"method is 'nvalchemi', and nvalchemi-toolkit-ops is not installed: {how_to_install('nvalchemi')} "
            "(Python 3.11 or newer); allowed without it: 'auto', 'direct', 'mesh'"
        )
    try:
        options = importlib.import_module("warp").config
        unrolled = options.max_unroll
        if not torch.cuda.is_available():
            options.max_unroll = 1
        try:
            module = importlib.import_module("nvalchemiops.torch.interactions.electrostatics.pme_multipole")
            return _Package(module.multipole_pme_reciprocal_space, module.FIELD_CONSTANT)
        finally:
            options.max_unroll = unrolled
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"method is 'nvalchemi', and nvalchemi-toolkit-ops cannot be used: {error}") from None
