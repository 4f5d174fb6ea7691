"""Properties of neutral crystals are not asked of charged ones. `phonons.py` and `piezoelectric.py` call it."""

from __future__ import annotations

from les_plugins.errors import DataError


def check_neutral(charge: float, where: str, what: str) -> None:
    """Raise DataError for a cell with a total charge, whose polarization depends on how its background moves.

    Args:
        charge: e, that the cell is evaluated with.
        where: its name in the message.
        what: "phonons are", "piezoelectric tensors are".
    """
    if charge:
        raise DataError(
            f"{where}: has a total charge of {charge:g} e; {what} of neutral crystals: leave the charge out, also that "
            "of the calculator"
        )
