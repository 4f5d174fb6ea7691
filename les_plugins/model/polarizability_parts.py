"""Which contributions a polarizability of a structure holds: of atoms, of their mutual polarization, of charge flow.

Calculators compute them by name, molecular dynamics records them, so that a Raman spectrum can be taken apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from les_plugins.electrostatics.observables import system_polarizability
from les_plugins.errors import ConfigError, HostError
from les_plugins.model.long_range import LongRange, LongRangeResult
from les_plugins.model.physical import LatentStructure

#: As a command line has them, and the `mutual` of the layer's `collective_polarizability`.
_MUTUAL = {"atoms": "none", "did": "first_order", "self-consistent": "self_consistent"}
_FLOW = "+flow"
#: Every kind: induced dipoles alone, with dipole–induced dipoles, to all orders; each also with charge that flows.
KINDS = (*_MUTUAL, *(kind + _FLOW for kind in _MUTUAL))


def result_name(kind: str) -> str:
    """Name of a kind among the results of a calculator and the series of a trajectory.

    Raises:
        ConfigError: not one of `KINDS`.
    """
    if kind not in KINDS:
        raise ConfigError(f"polarizability is {kind!r}; allowed: {', '.join(KINDS)}")
    return "polarizability_" + kind.replace("-", "_").replace("+", "_")


#: Result name → kind.
NAMES = {result_name(kind): kind for kind in KINDS}


def polarizability_results(structure: LatentStructure, part: nn.Module, names: Iterable[str]) -> dict[str, Any]:
    """Physical polarizabilities (3, 3) e²·Å²/eV of one structure, ε_e times the latent ones.

    Args:
        structure: evaluated.
        part: the model's long-range part.
        names: of `NAMES`.

    Returns:
        By name. "atoms": Σ α_i of the induced dipoles; "did": and − Σ α_i T_ij α_j, i ≠ j, what the dipoles that a
        uniform field induces induce once more; "self_consistent": to all orders; "…_flow": with charge that flows over
        pairs, or between the atoms of an open structure, as a source and an answer too. T is the interaction that the
        model was trained with: smeared by σ, in a periodic structure of all images without k = 0 (tinfoil).

    Raises:
        ConfigError: a kind of which the model has nothing.
        HostError: a long-range part that is not les-plugins' own.
        ResponseError: a structure whose dipoles have no self-consistent solution.

    Source: theory 9.4.
    """
    if not isinstance(part, LongRange):
        raise HostError("polarizabilities by contribution: this model's long-range part is not les-plugins' own")
    geometry = (structure.positions, structure.cell, structure.pbc, structure.batch)
    found = {}
    for name in names:
        parts = _of_atoms(part, structure.latent, NAMES[name], *geometry)
        whole = system_polarizability(structure.positions.double(), structure.pbc, structure.batch, None, parts)[0]
        found[name] = (structure.screening[0] * whole).detach().cpu().double().numpy()
    return found


def _of_atoms(
    part: LongRange, latent: LongRangeResult, kind: str, positions: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor
) -> Tensor:
    """(N, 3, 3) e²·Å²/eV, latent."""
    mutual, flows = _MUTUAL[kind.removesuffix(_FLOW)], kind.endswith(_FLOW)
    if flows and latent.pair_softness is None and (latent.softness is None or bool(pbc.all())):
        raise ConfigError(
            f"polarizability {kind!r}: no charge of this model flows in a field here; allowed: "
            f"{', '.join(_MUTUAL)}, or a model with response: {{charge: pairs}}"
        )
    if not flows and latent.polarizability is None:
        raise ConfigError(f"polarizability {kind!r}: the model has no induced dipoles (response: {{dipole: …}})")
    ask = getattr(part.electrostatics, "collective_polarizability", None)
    if ask is None:
        raise HostError("polarizabilities by contribution: this model's layer has no mutual polarization")
    found: Tensor = ask(
        *(tensor.detach() for tensor in (positions, cell)),
        pbc,
        batch,
        latent.softness.detach() if flows and latent.softness is not None else None,
        None if latent.polarizability is None else latent.polarizability.detach(),
        latent.pair_softness if flows else None,
        mutual=mutual,
    )
    return found
