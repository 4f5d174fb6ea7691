"""The labels that a host trains on, frame by frame and key by key."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from les_plugins.data.frames import structure_of
from les_plugins.data.training import (
    TrainedLabel,
    TrainingFiles,
    check_training_labels,
    fixed_atoms,
    named_labels,
    read_labelled_frames,
)
from les_plugins.errors import DataError, LesPluginsWarning

FILE = Path("train.xyz")
ENERGY = TrainedLabel("energy", "REF_energy", "energy_key", "energy_weight: 0")
FORCES = TrainedLabel("forces", "REF_forces", "forces_key", "forces_weight: 0")
STRESS = TrainedLabel("stress", "REF_stress", "stress_key", "stress_weight: 0", left_out=True)


def frame(pbc: bool = True, **labels: object) -> Atoms:
    atoms = Atoms("OH", [[0, 0, 0], [0, 0, 1.0]], cell=[5, 5, 5], pbc=pbc)
    for key, value in labels.items():
        (atoms.arrays if "forces" in key else atoms.info)[key] = value
    return atoms


def full(count: int) -> list[Atoms]:
    return [frame(REF_energy=-1.0, REF_forces=np.ones((2, 3)), REF_stress=np.zeros(6)) for _ in range(count)]


def refusal(*arguments: object) -> str:
    with pytest.raises(DataError) as caught:
        check_training_labels(*arguments)
    return str(caught.value)


def test_complete_frames_pass_without_a_word(recwarn: pytest.WarningsRecorder) -> None:
    check_training_labels({FILE: full(3)}, [ENERGY, FORCES, STRESS])
    assert not recwarn.list


def test_a_key_that_no_frame_has_is_named_with_a_similar_name_in_the_file() -> None:
    frames = [frame(REF_energy=-1.0, REF_force=0.0, free_energy=0.0) for _ in range(4)]
    message = refusal({FILE: frames}, [ENERGY, FORCES])
    assert "train.xyz: none of 4 frames has forces under the name 'REF_forces' (forces_key)" in message
    assert "did you mean 'REF_force'?" in message
    assert "forces_weight: 0" in message


def test_frames_that_lack_a_label_are_counted_and_numbered_by_file() -> None:
    frames = full(9)
    for number in (1, 2, 3, 4, 6, 8):
        del frames[number].info["REF_energy"]
    message = refusal({FILE: frames, Path("more.xyz"): full(2)}, [ENERGY])
    assert "train.xyz: 6 of 9 frames (frames 1, 2, 3, 4, 6, …) without energy under the name 'REF_energy'" in message
    assert "more.xyz" not in message


def test_frames_that_a_host_leaves_out_are_a_warning() -> None:
    frames = full(3)
    del frames[1].info["REF_stress"]
    with pytest.warns(LesPluginsWarning, match=r"1 of 3 frames \(frame 1\) without stress under the name 'REF_stress'"):
        check_training_labels({FILE: frames}, [STRESS])


def test_a_frame_of_weight_zero_needs_no_label() -> None:
    frames = full(2)
    del frames[1].arrays["REF_forces"]
    check_training_labels({FILE: frames}, [FORCES], lambda atoms, quantity: float(atoms is frames[0]))
    assert "1 of 2" in refusal({FILE: frames}, [FORCES])


def test_frames_for_hosts_that_ask_ase_have_every_label_and_no_constraint(tmp_path: Path) -> None:
    frames = [frame() for _ in range(3)]
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.ones((2, 3)))
        atoms.set_constraint(FixAtoms([0]))
    ase.io.write(tmp_path / "a.xyz", frames, format="extxyz")
    for atoms in read_labelled_frames(tmp_path / "a.xyz"):
        assert (atoms.get_forces() == 1.0).all()
    del frames[1].calc.results["forces"]
    ase.io.write(tmp_path / "a.xyz", frames, format="extxyz")
    with pytest.raises(DataError, match=r"a\.xyz: 1 of 3 frames \(frame 1\) without forces under the name 'forces'"):
        read_labelled_frames(tmp_path / "a.xyz")


@pytest.mark.parametrize("weight", [np.nan, -1.0, np.inf, "much", None])
def test_a_weight_that_is_no_weight_is_refused(weight: object) -> None:
    assert "frame 0: the weight of its forces" in refusal({FILE: full(1)}, [FORCES], lambda atoms, quantity: weight)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("REF_energy", np.nan, "frame 1: REF_energy holds NaN"),
        ("REF_energy", "None", "frame 1: REF_energy: expected numbers"),
        ("REF_forces", np.full((2, 3), np.inf), "frame 1: REF_forces holds NaN or infinity"),
        ("REF_forces", np.zeros((2, 2)), "frame 1: REF_forces has shape"),
        ("REF_stress", np.zeros(5), "frame 1: REF_stress has shape"),
    ],
)
def test_a_label_that_is_no_number_is_refused(key: str, value: object, words: str) -> None:
    frames = [*full(1), frame(**{"REF_energy": 0.0, "REF_forces": np.zeros((2, 3)), key: value})]
    assert words in refusal({FILE: frames}, [ENERGY, FORCES, STRESS])


def test_open_structures_need_no_stress_and_may_have_none() -> None:
    without = full(1)[0]
    without.pbc = False
    del without.info["REF_stress"]
    check_training_labels({FILE: [*full(1), without]}, [STRESS])
    without.info["REF_stress"] = np.zeros(6)
    assert "frame 1: has a 'REF_stress' but is open" in refusal({FILE: [*full(1), without]}, [STRESS])


def test_the_forces_of_fixed_atoms_are_read_as_they_stand_in_the_file(tmp_path: Path) -> None:
    atoms = frame()
    atoms.set_constraint(FixAtoms([0]))
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.ones((2, 3)))
    ase.io.write(tmp_path / "fixed.xyz", atoms, write_results=True)
    read = ase.io.read(tmp_path / "fixed.xyz")
    assert list(fixed_atoms(read)) == [True, False]
    label = TrainedLabel("forces", "forces", "forces_key")
    assert np.array_equal(label.read(read), np.ones((2, 3)))


def test_forces_of_fixed_atoms_that_the_file_itself_has_as_zero_are_a_warning() -> None:
    frames = full(2)
    frames[1].set_constraint(FixAtoms([0]))
    frames[1].arrays["REF_forces"][0] = 0.0
    with pytest.warns(LesPluginsWarning, match=r"1 of 2 frames \(frame 1\) in which all 'REF_forces' of fixed atoms"):
        check_training_labels({FILE: frames}, [FORCES])


@pytest.mark.parametrize(
    ("quantity", "right", "wrong"),
    [
        ("dipole", np.zeros(3), np.zeros(2)),
        ("polarizability", np.eye(3).reshape(9), np.eye(2)),
        ("born_effective_charges", np.zeros((2, 9)), np.zeros((2, 3))),
        ("atomic_descriptor", np.zeros((2, 7)), np.full(7, np.nan)),  # a field of a host, of any shape
    ],
)
def test_labels_of_responses_and_of_hosts_alone_are_looked_for_finite_and_of_their_shape(
    quantity: str, right: np.ndarray, wrong: np.ndarray
) -> None:
    label = TrainedLabel(quantity, f"REF_{quantity}", f"{quantity}_key")
    frames = full(2)
    for atoms in frames:
        atoms.info[label.key] = right
    check_training_labels({FILE: frames}, [label])
    assert label.value(frames[0]).size == right.size
    frames[1].info[label.key] = wrong
    assert f"frame 1: REF_{quantity} " in refusal({FILE: frames}, [label])
    del frames[1].info[label.key]
    assert f"1 of 2 frames (frame 1) without {quantity} under the name" in refusal({FILE: frames}, [label])


def test_frames_of_every_set_are_looked_at_and_named_by_file() -> None:
    wire = structure_of([1], [[0.0, 0.0, 0.0]], 5 * np.eye(3), (True, False, False))
    files = TrainingFiles({FILE: full(2)}, {Path("valid.xyz"): [*full(1), wire]})
    assert len(files.training_set()) == 2
    with pytest.raises(DataError, match=r"valid\.xyz, frame 1: pbc is T F F"):
        files.check_boundaries()
    files.check_elements([1, 8], "atomic_numbers")
    with pytest.raises(DataError, match=r"train\.xyz \(atomic_numbers\), frame 0: the model does not know O"):
        files.check_elements([1], "atomic_numbers")


def test_the_cell_that_a_host_made_up_for_an_open_structure_is_not_taken() -> None:
    assert structure_of([[8]], [[0, 0, 0]], 100 * np.eye(3), False).cell.rank == 0
    periodic = structure_of([[8]], [[0, 0, 0]], 5 * np.eye(3)[None], [[True, True, False]])
    assert periodic.cell.rank == 3
    assert list(periodic.pbc) == [True, True, False]


@pytest.mark.parametrize("place", ["train", "valid", "test"])
def test_a_file_in_several_sets_is_looked_at_in_each(place: str) -> None:
    files = TrainingFiles(*({FILE: full(2)} for _ in range(3)))
    getattr(files, place)[FILE][1].pbc = (True, False, False)
    use = {"train": "", "valid": r" \(use 2\)", "test": r" \(use 3\)"}[place]
    with pytest.raises(DataError, match=rf"train\.xyz{use}, frame 1: pbc is T F F"):
        files.check_boundaries()


def test_sets_are_read_with_labels_under_the_names_that_the_section_gives(tmp_path: Path) -> None:
    for name, count in (("a.xyz", 3), ("b.xyz", 2)):
        ase.io.write(tmp_path / name, [frame(E=-1.0 - number, REF_forces=np.ones((2, 3))) for number in range(count)])
    section = {"train": str(tmp_path / "a.xyz"), "valid": str(tmp_path / "b.xyz"), "energy_key": "E"}
    labels = named_labels(section, "data", ("energy", "magmoms"), {"magmoms": "targets: ef"}, left_out="magmoms")
    assert labels["magmoms"] == TrainedLabel("magmoms", "magmoms", "data.magmoms_key", "targets: ef", left_out=True)
    files, seen = TrainingFiles(), []
    files.read_sets(section, [labels["energy"]], lambda frames, where: seen.append((len(frames), Path(where).name)))
    assert seen == [(3, "a.xyz"), (2, "b.xyz")]
    assert [labels["energy"].value(atoms) for atoms in files.training_set()] == [-1.0, -2.0, -3.0]
    assert [len(frames) for frames in files.valid.values()] == [2]
    with pytest.raises(
        DataError, match=r"a\.xyz: none of 3 frames has energy under the name 'energy' \(data.energy_key"
    ):
        TrainingFiles().read_sets(section, list(named_labels({}, "data", ("energy",), {}).values()))
