"""A total charge that a structure brings is said to be ignored, once a calculator, and in what commands report."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from toy_calculator import Toy, labelled, molecule

from les_plugins.data.cautions import Cautions, place_of_structure
from les_plugins.data.evaluation import evaluate, predict
from les_plugins.data.given_charge import (
    ChargedFrames,
    check_total_charges,
    given_charge,
    refuse_charge_of_engine,
    total_charge_of,
)
from les_plugins.errors import DataError, LesPluginsWarning


def ion(**info: Any) -> Atoms:
    atoms = Atoms("OH", [[0, 0, 0], [0, 0, 0.97]])
    atoms.info.update(info)
    return atoms


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"charge": -1}, "info['charge'] = -1"),
        ({"total_charge": 2.0}, "info['total_charge'] = 2"),
        ({"charge": 0, "total_charge": np.array([1])}, "info['total_charge'] = 1"),
        ({"charge": "-1"}, "info['charge'] = -1"),
        ({"charge": 0}, None),
        ({"charge": "neutral"}, None),
        ({"charge": [0.4, -0.4]}, None),
        ({"charge": float("nan")}, None),
        ({"REF_total_charge": 2}, "info['REF_total_charge'] = 2"),
        ({"charge": 0, "Charge": 2}, None),
        ({}, None),
    ],
)
def test_a_charge_counts_where_it_is_a_number_other_than_zero(info: dict[str, Any], expected: str | None) -> None:
    assert given_charge(ion(**info)) == expected


def test_initial_charges_count_by_their_sum() -> None:
    atoms = ion()
    atoms.set_initial_charges([-0.4, 0.4])
    assert given_charge(atoms) is None
    atoms.set_initial_charges([-1.0, 0.0])
    assert given_charge(atoms) == "initial charges that add up to -1"


def test_a_calculator_says_it_once_and_not_where_the_model_reads_it() -> None:
    cautions = Cautions()
    with pytest.warns(LesPluginsWarning, match=r"structure: has info\['charge'\] = -1 e, which this model does not"):
        cautions.look(ion(charge=-1), "structure", screened=False, reads_charge=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cautions.look(ion(charge=-2), "structure", screened=False, reads_charge=False)
        Cautions().look(ion(charge=-1), "structure", screened=False, reads_charge=True)


def test_an_evaluation_notes_how_many_frames_have_one() -> None:
    frames = [labelled(molecule(seed)) for seed in range(3)]
    frames[1].info["charge"] = 1
    line = "1 of 3 frames have a total charge (frame 1: info['charge'] = 1 e), which the model does not read"
    assert line in evaluate(Toy(), frames).notes
    charged = ChargedFrames()
    for atoms in frames:
        charged.add(atoms)
    assert charged.note(Toy()) == line
    toy = Toy()
    toy.takes_total_charge = True
    assert charged.note(toy) is None


def test_a_command_that_reads_a_file_names_the_frame_where_its_calculator_would_say_structure() -> None:
    class Careful(Toy):
        cautions = Cautions()

        def calculate(self, atoms: Any = None, *rest: Any) -> None:
            self.cautions.look(atoms, place_of_structure(), screened=False, reads_charge=False)
            if len(atoms) == 1:
                raise DataError(f"{place_of_structure()}: is one atom")
            super().calculate(atoms, *rest)

    toy, charged, small = Careful(), molecule(1), molecule(2, formula="O")
    charged.info["charge"] = 1
    predict(toy, molecule(0), ["forces"], "ions.xyz, frame 0")  # warnings are errors
    with pytest.warns(LesPluginsWarning, match=r"^ions.xyz, frame 1: has info\['charge'\] = 1 e"):
        predict(toy, charged, ["forces"], "ions.xyz, frame 1")
    with pytest.raises(DataError, match=r"^ions.xyz, frame 2: is one atom$"):
        predict(toy, small, ["forces"], "ions.xyz, frame 2")
    with pytest.raises(DataError, match=r"^structure: is one atom$"):
        toy.calculate(small)


def test_initial_charges_are_not_the_total_charge_of_a_model_that_reads_one() -> None:
    atoms, cautions = ion(), Cautions()
    atoms.set_initial_charges([-1.0, 0.0])
    with pytest.warns(LesPluginsWarning, match="initial charges that add up to -1 e, which are not read"):
        cautions.look(atoms, "structure", False, True)
    atoms.info["charge"] = -1
    Cautions().look(atoms, "structure", False, True)


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({}, 0.0),
        ({"charge": None}, 0.0),
        ({"charge": -1}, -1.0),
        ({"total_charge": np.array([0.5])}, 0.5),
        ({"charge": 1, "total_charge": 1.0}, 1.0),
        ({"charge": -20}, -20.0),  # as many as may be
        ({"charge": 1, "Charge": 2}, 1.0),  # whoever gives one under its name has said it
        ({"Charge": 0}, 0.0),
        ({"change": 1, "charges": [0.4, -0.4]}, 0.0),
    ],
)
def test_the_total_charge_is_the_number_that_a_structure_brings(info: dict[str, Any], expected: float) -> None:
    assert total_charge_of(ion(**info)) == expected


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"charge": "-1"}, r"frame 3: info\['charge'\] is '-1'; allowed: a finite number of e"),
        ({"charge": True}, "is True; allowed"),
        ({"total_charge": float("nan")}, "is nan; allowed"),
        ({"charge": 10**400}, "is 1000.*; allowed: a finite number"),  # beyond every float
        ({"charge": [0.4, -0.4]}, "allowed: a finite number"),
        ({"charge": float("inf")}, "is inf; allowed"),
        ({"charge": 1e300}, r"frame 3: info\['charge'\] is 1e\+300 e for 2 atoms; allowed: at most 20 e in magnitude"),
        ({"total_charge": -20.5}, r"is -20.5 e for 2 atoms; allowed"),
        ({"Charge": -1}, r"frame 3: has info\['Charge'\] = -1, which is not read as its total charge; allowed: info"),
        ({"total charge": 1.0}, "has info.'total charge'. = 1.0, which is not read"),
        ({"TotalCharge": 1}, "which is not read"),
        ({"REF_charge": 1}, "which is not read"),
        ({"totl_charge": 1}, "which is not read"),
        (
            {"charge": 1, "total_charge": 0},
            r"\['charge'\] = 1 and info\['total_charge'\] = 0 are two total charges",
        ),
    ],
)
def test_what_is_no_total_charge_is_an_error(info: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        total_charge_of(ion(**info), "frame 3")


def test_charges_of_training_data_are_read_or_said_not_to_be() -> None:
    frames = [(f"ions.xyz, frame {number}", ion(**info)) for number, info in enumerate(({}, {"charge": -1}, {}))]
    with pytest.warns(LesPluginsWarning, match=r"1 of 3 frames have a total charge, .* \(ions.xyz, frame 1: info"):
        check_total_charges(frames, reads=False)
    check_total_charges(frames, reads=True)  # warnings are errors
    frames[2][1].info.update(charge="one")
    with pytest.raises(DataError, match=r"ions.xyz, frame 2: info\['charge'\] is 'one'"):
        check_total_charges(frames, reads=True)


def test_training_data_without_a_charge_are_named_to_a_model_that_is_to_read_charges() -> None:
    frames = [(f"ions.xyz, frame {number}", ion(**info)) for number, info in enumerate(({}, {"charge": 0}))]
    with pytest.warns(LesPluginsWarning, match="reads total charges, and none of 2 frames has one other than zero"):
        check_total_charges(frames, reads=True)
    check_total_charges(frames, reads=False)  # warnings are errors


def test_a_charge_that_an_engine_would_leave_behind_is_refused_unless_the_calculator_has_it() -> None:
    reading = SimpleNamespace(takes_total_charge=True, total_charge=None)
    with pytest.raises(DataError, match=r"which OpenMM does not hand on .* set calculator.total_charge = 1"):
        refuse_charge_of_engine(ion(charge=1), reading, "OpenMM")
    refuse_charge_of_engine(ion(charge=1), SimpleNamespace(takes_total_charge=True, total_charge=1.0), "OpenMM")
    refuse_charge_of_engine(ion(charge=0), reading, "OpenMM")
    with pytest.raises(DataError, match="'Charge'"):
        refuse_charge_of_engine(ion(Charge=1), reading, "OpenMM")
    refuse_charge_of_engine(ion(charge=1), SimpleNamespace(), "OpenMM")  # it warns that it does not read charges
