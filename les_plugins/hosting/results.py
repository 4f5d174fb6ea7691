"""What a calculator hands out: exact float64, finite, and in a form that ASE's own writers take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.outputs import ArrayProperty, all_outputs

from les_plugins.errors import DataError


@cache
def _is_exported(name: str) -> bool:
    """Whether ASE's writers and SinglePointCalculator take it: a property of ASE of at most two axes an array.

    Extended XYZ has one line for an atom: ASE's writer fails on arrays of (N, 3, 3), which it has no way to ask about.
    """
    output = all_outputs.get(name)
    shape = output.shapespec if isinstance(output, ArrayProperty) else ()
    return name in all_properties and not (shape[:1] == ("natoms",) and len(shape) > 2)


class Results(dict[str, Any]):
    """Results of a calculator: every one by its name; iteration and `**` show those that ASE's own tools can hold.

    `results["born_effective_charges"]`, `in`, `get` and `pop` know all of them. Iteration, `keys`, `values`, `items`
    and `len` leave out what `SinglePointCalculator(atoms, **calc.results)` and `atoms.write("x.extxyz")` fail on: names
    that are not ASE's, and arrays with more than two axes. `everything` is a plain dictionary of all.
    """

    def __iter__(self) -> Iterator[str]:
        return (name for name in super().__iter__() if _is_exported(name))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return any(True for _ in super().__iter__())

    def keys(self) -> Any:
        """Names that ASE knows."""
        return {name: None for name in self}.keys()

    def values(self) -> Any:
        """Values of `keys`."""
        return {name: self[name] for name in self}.values()

    def items(self) -> Any:
        """Names and values of `keys`."""
        return {name: self[name] for name in self}.items()

    def everything(self) -> dict[str, Any]:
        """All results, whatever their shape."""
        return dict(super().items())

    def copy(self) -> Results:
        """All results, in a dictionary of the same kind."""
        return Results(self.everything())

    def __reduce__(self) -> tuple[Any, ...]:
        return Results, (self.everything(),)


def exact(results: Mapping[str, Any]) -> Results:
    """Results with every number a Python float and every array of numbers float64 and contiguous.

    ASE's database keeps the bytes of an array and reads them back as float64, whatever they were.
    """
    return Results({name: _exact(value) for name, value in everything(results).items()})


def everything(results: Mapping[str, Any]) -> dict[str, Any]:
    """All results of a calculator, whatever dictionary it keeps them in: iteration over `Results` leaves some out."""
    return results.everything() if isinstance(results, Results) else dict(results)


def check_finite(results: Mapping[str, Any], atoms: Atoms | None = None, where: str = "structure") -> None:
    """Raise DataError where a host returned an energy or forces that are not numbers."""
    if not np.isfinite(results.get("energy", 0.0)):
        raise DataError(
            f"{where}: the model's energy is {results['energy']}; these atoms are too far from its training"
        )
    forces = results.get("forces")
    if forces is not None and not (finite := np.isfinite(forces).all(1)).all():
        first = int(np.argmin(finite))
        kind = "" if atoms is None else f" ({atoms.symbols[first]})"
        raise DataError(
            f"{where}: the model's forces hold NaN or infinity on {int((~finite).sum())} of {len(finite)} atoms, first "
            f"on atom {first}{kind}"
        )


def _exact(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.floating) and np.issubdtype(value.dtype, np.floating):
        return float(value) if np.ndim(value) == 0 else np.ascontiguousarray(value, dtype=np.float64)
    return value
