"""Spins that no model reads: the lowest of a structure passes, others are refused."""

from __future__ import annotations

from typing import Any

import pytest
from ase import Atoms

from les_plugins.data.copies import repeated, said_of_charge_and_spin
from les_plugins.data.spin import check_spins, higher_spin, refuse_higher_spin
from les_plugins.errors import DataError, LesPluginsWarning


def hydroxide(**info: Any) -> Atoms:
    """9 electrons, 10 with a charge of -1."""
    return Atoms("OH", [[0, 0, 0], [0, 0, 0.97]], info=info)


@pytest.mark.parametrize(
    ("info", "found"),
    [
        ({}, None),
        ({"spin": 1}, None),  # 2S, or 2S + 1 of a closed shell
        ({"spin": 2}, None),  # 2S + 1
        ({"total_spin": 0.5}, None),  # S
        ({"multiplicity": 2}, None),
        ({"spin": "high"}, None),
        ({"spin": 3}, "info['spin'] = 3"),
        ({"multiplicity": 4}, "info['multiplicity'] = 4"),
        ({"charge": -1, "multiplicity": 2}, "info['multiplicity'] = 2"),
        ({"charge": -1, "multiplicity": 1}, None),
        ({"total_charge": -1, "total_spin": 2}, "info['total_spin'] = 2"),
        ({"charge": -0.5, "spin_multiplicity": 2}, None),
        ({"charge": -0.5, "spin_multiplicity": 3}, "info['spin_multiplicity'] = 3"),
    ],
)
def test_the_lowest_spin_is_that_of_the_number_of_electrons(info: dict[str, Any], found: str | None) -> None:
    assert higher_spin(hydroxide(**info)) == found
    if found is None:
        refuse_higher_spin(hydroxide(**info))
    else:
        with pytest.raises(DataError, match=r"ions.xyz, frame 3: has info\["):
            refuse_higher_spin(hydroxide(**info), "ions.xyz, frame 3")


def test_one_composition_and_charge_has_one_spin_in_training_data() -> None:
    frames = [
        (f"a.xyz, frame {n}", hydroxide(**info)) for n, info in enumerate(({"spin": 2}, {"charge": -1, "spin": 1}))
    ]
    check_spins(frames)  # warnings are errors
    frames.append(("b.xyz, frame 0", hydroxide(spin=4)))
    with pytest.raises(DataError, match=r"b.xyz, frame 0: has info\['spin'\] = 4, and a.xyz, frame 0 .* 2;"):
        check_spins(frames)
    with pytest.warns(LesPluginsWarning, match=r"1 of 2 frames have a spin, .* \(b.xyz, frame 0: info"):
        check_spins(frames[1:])


def test_a_supercell_has_no_spin_of_one_cell() -> None:
    atoms = hydroxide(spin=2, charge=-2)
    atoms.cell, atoms.pbc = [4.0, 4.0, 4.0], True
    assert said_of_charge_and_spin(repeated(atoms, (2, 1, 1))) == {"charge": -4.0}
    atoms.info["spin"] = 1
    assert said_of_charge_and_spin(repeated(atoms, (2, 1, 1))) == {"charge": -4.0, "spin": 1}
