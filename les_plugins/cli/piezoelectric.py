"""`les-plugins piezoelectric`: clamped-ion and relaxed-ion tensors of one crystal, proper and improper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from les_plugins.cli.shared import Dtype, Head, Model, one_crystal, open_model, quiet_host, say_boundaries
from les_plugins.errors import HostError
from les_plugins.io.files import whole_file

if TYPE_CHECKING:
    from les_plugins.crystals.piezoelectric import Piezoelectricity, RelaxedPiezoelectricity

_COMPONENTS = ("xx", "yy", "zz", "yz", "xz", "xy")
#: |∂q/∂η|, e, above which the report says that the charges change with strain.
_FLOWS = 0.01


def piezoelectric(
    model: Model,
    structure: Annotated[
        Path, typer.Argument(metavar="STRUCTURE", help="File with one crystal, read by ASE.", show_default=False)
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="JSON file to write.", show_default=False)
    ] = None,
    clamped: Annotated[bool, typer.Option("--clamped", help="The clamped-ion tensor only.")] = False,
    relax: Annotated[bool, typer.Option("--relax", help="Bring the ions to rest in the same cell first.")] = False,
    strain: Annotated[float, typer.Option(help="Size of the strains.")] = 1e-3,
    distance: Annotated[float, typer.Option(help="Displacement of the force constants, Å.")] = 0.01,
    supercell: Annotated[tuple[int, int, int], typer.Option(help="Repetitions of the cell for Z* and quadrupoles.")] = (
        3,
        3,
        3,
    ),
    device: Annotated[str, typer.Option(help="Torch device: cpu, cuda, cuda:N.")] = "cpu",
    epsilon_infinity: Annotated[
        float | None, typer.Option(help="ε_∞ of the material, in the place of the model's own.", show_default=False)
    ] = None,
    head: Head = None,
    dtype: Dtype = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Piezoelectric tensor of the crystal in STRUCTURE at zero field: clamped-ion and relaxed-ion."""
    from les_plugins.crystals.piezoelectric import (
        clamped_piezoelectric_tensor,
        relax_ions,
        relaxed_piezoelectric_tensor,
    )
    from les_plugins.data.cautions import coming_from
    from les_plugins.data.evaluation import known_elements
    from les_plugins.data.frames import Boundaries, check_elements_of, check_frame
    from les_plugins.data.labels import BORN
    from les_plugins.storage import checkpoint

    with quiet_host(), coming_from(str(structure)):
        atoms = one_crystal(structure)
        check_frame(atoms, str(structure))
        calculator, facts = open_model(model, device, epsilon_infinity, head, dtype)
        if BORN not in calculator.implemented_properties or not getattr(calculator, "has_long_range", True):
            raise HostError(f"{model} has no polarization: it has no long-range part")
        if (known := known_elements(calculator)) is not None:
            check_elements_of(atoms, known, str(structure))
        if relax:
            atoms = relax_ions(calculator, atoms)
        if clamped:
            tensors = _tensors(clamped_piezoelectric_tensor(calculator, atoms, strain, supercell), None)
        else:
            found = relaxed_piezoelectric_tensor(calculator, atoms, strain, distance, supercell)
            tensors = _tensors(found.clamped, found)
    say_boundaries(structure, Boundaries([atoms]))
    report = {
        "model": facts,
        "structure": {"path": str(structure), "sha256": checkpoint.sha256(structure), "atoms": len(atoms)},
        "device": device,
        "relaxed_positions": atoms.positions.tolist() if relax else None,
        "strain": strain,
        **tensors,
    }
    text = json.dumps(report, indent=1, ensure_ascii=False)
    if output is not None:
        with whole_file(output) as file:
            file.write(text + "\n")
    if as_json:
        typer.echo(text)
    else:
        _print(report, output)


def _tensors(clamped: Piezoelectricity, relaxed: RelaxedPiezoelectricity | None) -> dict[str, Any]:
    """Results as JSON types; tensors (3, 6) in Voigt's order, in both units."""
    from les_plugins.crystals.piezoelectric import voigt
    from les_plugins.units import COULOMB_PER_SQUARE_METRE

    found = {"clamped_proper": clamped.proper, "clamped_improper": clamped.improper}
    flow = clamped.charge_response
    report: dict[str, Any] = {
        "clamped_from": clamped.source,
        "charge_response": None if flow is None else float(flow.max()),
    }
    if relaxed is not None:
        found |= {
            "relaxed_proper": relaxed.proper,
            "relaxed_improper": relaxed.improper,
            "internal_strain_term": relaxed.internal,
        }
        report |= {
            "born_effective_charges": relaxed.born.tolist(),
            "sum_rule_violation": relaxed.sum_rule_violation,
            "translation_violation": relaxed.center.translation_violation,
            "frequencies_cm-1": relaxed.center.frequencies.tolist(),
        }
    report["columns"] = list(_COMPONENTS)
    report["e/A2"] = {name: voigt(tensor).tolist() for name, tensor in found.items()}
    report["C/m2"] = {name: (COULOMB_PER_SQUARE_METRE * voigt(tensor)).tolist() for name, tensor in found.items()}
    return report


def _print(report: dict[str, Any], output: Path | None) -> None:
    import numpy as np

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=max(console.width, 110))
    table = Table("tensor, C/m²", "P", *_COMPONENTS)
    for column in table.columns[2:]:
        column.justify = "right"
    for name, rows in report["C/m2"].items():
        for axis, row in zip("xyz", rows, strict=True):
            numbers = [f"{value + 0.0:.4f}" if abs(value) >= 5e-5 else "0" for value in row]
            table.add_row(name.replace("_", " ") if axis == "x" else "", axis, *numbers)
        table.add_section()
    console.print(table)
    console.print("columns: strain; yz, xz, xy are engineering strains; the proper tensor is the one that is measured")
    if "frequencies_cm-1" in report:
        frequencies = np.array(report["frequencies_cm-1"])
        console.print(
            f"modes of the zone centre: {frequencies[0]:.1f} to {frequencies[-1]:.1f} cm⁻¹; largest mean Z* before it "
            f"was made zero: {report['sum_rule_violation']:.2g} e",
            soft_wrap=True,
        )
    if (report["charge_response"] or 0.0) > _FLOWS:
        console.print(
            f"note: charges change with strain (largest |∂q/∂η| {report['charge_response']:.2g} e): the clamped part "
            "depends on the images in which the atoms are given",
            soft_wrap=True,
        )
    if output is not None:
        console.print(f"wrote {output}", soft_wrap=True)
