"""MACE's outputs with the long-range energy in them: what a model and its compiled form have in common.

TorchScript compiles these functions, and reads their annotations: none is postponed.
"""

from mace.modules.utils import get_outputs
from torch import Tensor


def strained(cell: Tensor, displacement: Tensor | None) -> Tensor:
    """Cells (B, 3, 3) Å under MACE's symmetric displacement, as it strains positions."""
    if displacement is None:
        return cell
    return cell + cell @ (0.5 * (displacement + displacement.transpose(1, 2)))


def with_long_range(
    output: dict[str, Tensor | None],
    energy: Tensor,
    atomic_energy: Tensor,
    positions: Tensor,
    cell: Tensor,
    training: bool,
    compute_force: bool,
    compute_virials: bool,
    compute_stress: bool,
    compute_hessian: bool,
) -> dict[str, Tensor | None]:
    """The output of a MACE that was evaluated without forces, with the long-range energy in everything that it says.

    Args:
        output: of MACE; it is changed.
        energy: (B,) eV, long-range.
        atomic_energy: (N,) eV, long-range.
        positions: (N, 3) Å, the leaf.
        cell: (B, 3, 3) Å, not strained.
        training, compute_force, compute_virials, compute_stress, compute_hessian: as MACE's.
    """
    short_range, node_energy = output["energy"], output["node_energy"]
    assert short_range is not None
    assert node_energy is not None
    total = short_range + energy.to(short_range.dtype)
    differentiable = total
    if "interaction_energy" in output:  # without the energies of isolated atoms, which are large
        interaction = output["interaction_energy"]
        assert interaction is not None
        differentiable = interaction + energy.to(short_range.dtype)
        output["interaction_energy"] = differentiable
    forces, virials, stress, hessian, _ = get_outputs(
        energy=differentiable,
        positions=positions,
        displacement=output["displacement"],
        cell=cell,
        training=training,
        compute_force=compute_force,
        compute_virials=compute_virials,
        compute_stress=compute_stress,
        compute_hessian=compute_hessian,
    )
    output["energy"], output["node_energy"] = total, node_energy + atomic_energy.to(node_energy.dtype)
    output["forces"], output["virials"], output["stress"], output["hessian"] = forces, virials, stress, hessian
    output["short_range_energy"] = short_range
    return output
