"""Solver `debye-3` and `debye-10`: charges whose Coulomb energy an electrolyte screens within 3 or 10 Å."""

import math

import torch
from torch import nn

from les_plugins.electrostatics import ElectrostaticsResult
from les_plugins.errors import ConfigError, GeometryError
from les_plugins.hosting.hookspecs import hookimpl
from les_plugins.units import COULOMB_CONSTANT


class DebyeElectrostatics(nn.Module):
    """E = Σ_{i<j} k q_i q_j erf(r/√2σ) exp(−r/λ)/r of open structures, with the call of `LatentElectrostatics`.

    Args:
        sigma: Gaussian smearing width, Å.
        length: screening length λ, Å.
    """

    def __init__(self, sigma, length):
        super().__init__()
        self.sigma, self.length = sigma, length

    def forward(self, positions, cell, pbc, batch, multipoles, softness=None, polarizability=None, external_field=None):
        if pbc.any() or external_field is not None:
            raise GeometryError("method debye takes open structures without an external field")
        charge = multipoles.charge.double()
        difference = positions[:, None] - positions  # (N, N, 3)
        pair = (batch[:, None] == batch) & ~torch.eye(len(batch), dtype=torch.bool, device=batch.device)
        r = torch.where(pair, difference.square().sum(2), 1.0).sqrt()
        smeared = torch.erf(r / (math.sqrt(2.0) * self.sigma))
        kernel = COULOMB_CONSTANT * smeared * torch.exp(-r / self.length) / r
        gaussian = math.sqrt(2.0 / math.pi) / self.sigma * torch.exp(-((r / self.sigma) ** 2) / 2.0) / smeared
        slope = kernel * (gaussian - 1.0 / r - 1.0 / self.length)  # dkernel/dr
        potential = (kernel * pair) @ charge
        field = -torch.einsum("ij,ijk,j->ik", slope * pair / r, difference, charge)
        atomic = 0.5 * charge * potential
        energy = atomic.new_zeros(len(cell)).index_add(0, batch, atomic)
        return ElectrostaticsResult(energy, atomic, potential, field, charge, None)


@hookimpl
def les_solvers():
    return {f"debye-{length}": lambda config, length=length: _solver(config, length) for length in (3, 10)}


def _solver(config, length):
    if config.order > 0 or config.has_response:
        raise ConfigError(f"method: debye-{length} takes multipoles: [charge] and no response")
    return DebyeElectrostatics(config.sigma, float(length))
