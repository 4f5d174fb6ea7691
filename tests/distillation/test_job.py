"""A whole distillation: the same frames however often it is stopped, honest labels, and nothing overwritten."""

from __future__ import annotations

import argon
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms

from les_plugins.distillation import parts
from les_plugins.distillation.growth import Growth
from les_plugins.distillation.job import Distillation, distill
from les_plugins.distillation.teachers import Teacher, open_teacher
from les_plugins.distillation.training_file import TrainingFile
from les_plugins.errors import ConfigError, DataError, HostError, LesPluginsWarning

GROWTH = {"frames": 6, "temperatures": (20.0, 60.0), "timestep": 4.0, "interval": 3, "warm_up": 4, "waves": 0.3}


@pytest.fixture
def starts(tmp_path):
    return argon.crystals(tmp_path / "starts.xyz")


def job(starts, output, teacher=None, **changes):
    return Distillation(teacher or open_teacher("argon:teacher"), [starts], output, **changes)


def test_labels_are_the_teachers(starts, tmp_path):
    done = distill(job(starts, tmp_path / "out.xyz", growth=Growth.of(**GROWTH)))
    frames = ase.io.read(tmp_path / "out.xyz", ":")
    assert (len(frames), len(done.frames), done.candidates) == (6, 6, 18)
    for atoms in frames:
        computed = argon.teacher()
        for name, tolerance in (("energy", 1e-7), ("forces", 1e-7), ("stress", 1e-8)):
            # the file has eight digits behind the point of positions and forces
            found = computed.get_property(name, atoms)
            np.testing.assert_allclose(atoms.calc.results[name], found, atol=tolerance)
        assert atoms.info["teacher"] == "argon:teacher"
    kinds = [atoms.info["origin"] for atoms in frames]
    assert {kind.split(", ")[0] for kind in kinds} == {"walker 0", "walker 1"}
    assert {len(atoms) for atoms in frames} == {4, 8}  # some with waves
    assert not (tmp_path / "out.xyz.parts").exists()


def whole_teacher():
    return Teacher("t", argon.teacher(), "1", None, "MIT", (18,))


@pytest.fixture(scope="module")
def at_once(tmp_path_factory):
    """Bytes of a distillation that nothing stops."""
    folder = tmp_path_factory.mktemp("whole")
    starts = argon.crystals(folder / "starts.xyz")
    distill(job(starts, folder / "parts.xyz", whole_teacher(), growth=Growth.of(**GROWTH)))
    return (folder / "parts.xyz").read_bytes()


@pytest.mark.parametrize("after", [3, 30, 50, 69])  # warm-up, first walker, second walker, labels
def test_stopped_and_called_again_it_gives_the_same_bytes(starts, tmp_path, after, at_once):
    growth, whole = Growth.of(**GROWTH), whole_teacher()
    argon.Stopped.left = after
    stopping = Teacher("t", argon.Stopped(sigma=3.4, epsilon=0.0104, rc=5.0, smooth=True), "1", None, "MIT", (18,))
    with pytest.raises(KeyboardInterrupt):
        distill(job(starts, tmp_path / "parts.xyz", stopping, growth=growth))
    assert not (tmp_path / "parts.xyz").exists()
    distill(job(starts, tmp_path / "parts.xyz", whole, growth=growth))
    assert (tmp_path / "parts.xyz").read_bytes() == at_once


def keeping_parts(starts, output, **changes):
    """A distillation that has labelled everything and then finds no frame whose forces are small enough."""
    with pytest.raises(DataError, match="every frame has a force above 1e-09 eV/Å; raise --largest-force"):
        distill(job(starts, output, whole_teacher(), largest_force=1e-9, **changes))


class NoMore(argon.Argon):
    """Computes the first structure, by which a teacher is told, and none after it."""

    first = None

    def calculate(self, atoms, *args, **kwargs):
        if self.first is None:
            self.first = atoms.positions.copy()
        if not np.array_equal(atoms.positions, self.first):
            raise AssertionError("computed again")
        super().calculate(atoms, *args, **kwargs)


@pytest.fixture
def given(tmp_path):
    """Four different structures and a copy of the second."""
    frames = [argon.crystal() for _ in range(4)]
    for number, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=number)
    ase.io.write(tmp_path / "given.xyz", [*frames, frames[1]])
    return tmp_path / "given.xyz"


def no_more():
    return Teacher("t", NoMore(sigma=3.4, epsilon=0.0104, rc=5.0, smooth=True), "1", None, "CC BY", (18,))


def test_what_was_labelled_serves_another_largest_force_choice_and_licence(given, tmp_path):
    keeping_parts(given, tmp_path / "out.xyz")
    done = distill(job(given, tmp_path / "out.xyz", no_more(), choose=2))
    assert (len(done.frames), done.left_out) == (2, 0)
    assert {atoms.info["teacher_licence"] for atoms in done.frames} == {"CC BY"}


def test_structures_that_are_there_twice_are_labelled_once(given, tmp_path):
    done = distill(job(given, tmp_path / "out.xyz", choose=50))
    assert (len(done.frames), done.candidates, done.repeated, done.asked) == (4, 4, 1, 50)
    frames = ase.io.read(given, ":4")
    np.testing.assert_array_equal([a.positions for a in done.frames], [a.positions for a in frames])


def test_labels_that_cannot_be_read_are_computed_again(given, tmp_path):
    distill(job(given, tmp_path / "whole.xyz", whole_teacher()))
    keeping_parts(given, tmp_path / "out.xyz")
    empty, cut, other, _ = sorted((tmp_path / "out.xyz.parts").glob("label-*.npz"))
    empty.write_bytes(b"")
    cut.write_bytes(cut.read_bytes()[:300])
    np.savez(other, energy=1.0, forces=np.zeros((3, 3)))
    distill(job(given, tmp_path / "out.xyz", whole_teacher()))
    assert (tmp_path / "out.xyz").read_bytes() == (tmp_path / "whole.xyz").read_bytes()


def test_a_choice_that_cannot_be_read_is_made_again(starts, tmp_path, at_once):
    keeping_parts(starts, tmp_path / "parts.xyz", growth=Growth.of(**GROWTH))
    (tmp_path / "parts.xyz.parts" / "choice.json").write_text("", encoding="utf-8")
    distill(job(starts, tmp_path / "parts.xyz", whole_teacher(), growth=Growth.of(**GROWTH)))
    assert (tmp_path / "parts.xyz").read_bytes() == at_once


@pytest.mark.parametrize(
    ("kept", "found"),
    [
        ('{"asked": {"a": 1}, "chosen": [2, 0]}', [2, 0]),
        ('{"asked": {"a": 2}, "chosen": [2, 0]}', None),
        ('{"asked": {"a": 1}, "chosen": [2, 3]}', None),
        ('{"asked": {"a": 1}, "chosen": ["x"]}', None),
        ('{"asked": {"a": 1}}', None),
        ("{", None),
    ],
)
def test_only_a_whole_choice_of_the_same_question_counts(tmp_path, kept, found):
    (tmp_path / parts.CHOICE).write_text(kept, encoding="utf-8")
    assert parts.kept_choice(tmp_path, {"a": 1}, 3) == found


@pytest.mark.parametrize("name", ["walker-0001.h5", "warm-up-0000.h5.restart.npz"])
def test_a_simulation_that_cannot_be_read_is_run_again(starts, tmp_path, at_once, name):
    keeping_parts(starts, tmp_path / "parts.xyz", growth=Growth.of(**GROWTH))
    damaged = tmp_path / "parts.xyz.parts" / name
    damaged.write_bytes(damaged.read_bytes()[:500])
    with pytest.warns(LesPluginsWarning, match=f"{name}.*it is run again from its start"):
        distill(job(starts, tmp_path / "parts.xyz", whole_teacher(), growth=Growth.of(**GROWTH)))
    (tmp_path / "whole.xyz").write_bytes(at_once)
    found, whole = (ase.io.read(tmp_path / f"{kind}.xyz", ":") for kind in ("parts", "whole"))
    for one, other in zip(found, whole, strict=True):
        # ASE's Lennard-Jones sums over neighbours in an order that depends on the structures before
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-7)
        assert one.get_potential_energy() == pytest.approx(other.get_potential_energy(), abs=1e-9)


def test_a_damaged_description_names_its_file_and_nothing_is_lost(given, tmp_path):
    keeping_parts(given, tmp_path / "out.xyz")
    description = tmp_path / "out.xyz.parts" / "distillation.json"
    whole = description.read_text(encoding="utf-8")
    description.write_text(whole[:40], encoding="utf-8")
    with pytest.raises(DataError, match=r"distillation\.json cannot be read.*put it back to go on"):
        distill(job(given, tmp_path / "out.xyz", no_more()))
    description.write_text(whole, encoding="utf-8")
    assert len(distill(job(given, tmp_path / "out.xyz", no_more())).frames) == 4


@pytest.mark.parametrize("role", ["teacher", "driver"])
def test_another_model_under_the_same_name_does_not_go_on(starts, tmp_path, role):
    growth = Growth.of(**GROWTH)
    keeping_parts(starts, tmp_path / "out.xyz", growth=growth, driver=whole_teacher())
    deeper = Teacher("t", argon.Argon(sigma=3.4, epsilon=0.0105, rc=5.0, smooth=True), "1", None, "MIT", (18,))
    models = {"teacher": whole_teacher(), "driver": whole_teacher(), role: deeper}
    before, after = (argon.crystal(), argon.crystal())
    before.calc, after.calc = whole_teacher().calculator, deeper.calculator
    energies = f"{before.get_potential_energy():.6f} eV and is {after.get_potential_energy():.6f} eV"
    with pytest.raises(
        DataError, match=f"whose {role} had the same name and was another one: its energy was {energies}"
    ):
        distill(job(starts, tmp_path / "out.xyz", growth=growth, **models))
    assert len(list((tmp_path / "out.xyz.parts").glob("label-*.npz"))) == 6


def test_two_processes_do_not_work_on_one_output(given, tmp_path):
    class Meanwhile(argon.Argon):
        def calculate(self, *args, **kwargs):
            with pytest.raises(DataError, match="another run is writing to it"):
                distill(job(given, tmp_path / "out.xyz"))
            super().calculate(*args, **kwargs)

    busy = Teacher("t", Meanwhile(sigma=3.4, epsilon=0.0104, rc=5.0, smooth=True), "1", None, "MIT", (18,))
    assert len(distill(job(given, tmp_path / "out.xyz", busy)).frames) == 4


def test_nothing_is_written_or_lost_when_the_training_file_cannot_be_made(given, tmp_path):
    asked = TrainingFile("mace", tmp_path / "s.yaml", zero="isolated")
    frames = {"largest_force": np.sort([np.linalg.norm(f, axis=1).max() for f in forces_of(given)])[0] + 1e-6}
    with pytest.raises(DataError, match="there is 1 frame; two sets need at least two"):
        distill(job(given, tmp_path / "out.xyz", whole_teacher(), training_file=asked, **frames))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given.xyz", "out.xyz.parts"]
    fitted = TrainingFile("mace", tmp_path / "s.yaml")
    distill(job(given, tmp_path / "out.xyz", no_more(), training_file=fitted))
    names = ["given.xyz", "out-train.xyz", "out-valid.xyz", "out.xyz", "s.yaml"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def forces_of(path):
    return [argon.teacher().get_property("forces", atoms) for atoms in ase.io.read(path, ":")]


@pytest.mark.parametrize("stop_at", ["out-train.xyz", "s.yaml", "out.xyz"])
def test_stopped_between_its_files_it_goes_on(given, tmp_path, monkeypatch, stop_at):
    asked = TrainingFile("mace", tmp_path / "s.yaml")
    distill(job(given, tmp_path / "whole.xyz", whole_teacher()))
    write = parts.whole_file

    def stopping(place, *options, **named):
        if place.name == stop_at:
            raise KeyboardInterrupt
        return write(place, *options, **named)

    monkeypatch.setattr(parts, "whole_file", stopping)
    with pytest.raises(KeyboardInterrupt):
        distill(job(given, tmp_path / "out.xyz", whole_teacher(), training_file=asked))
    other = TrainingFile("mace", tmp_path / "s.yaml", seed=7, epsilon_infinity=2.0)  # other options, twice
    with pytest.raises(KeyboardInterrupt):
        distill(job(given, tmp_path / "out.xyz", whole_teacher(), training_file=other))
    monkeypatch.setattr(parts, "whole_file", write)
    distill(job(given, tmp_path / "out.xyz", no_more(), training_file=asked))
    assert (tmp_path / "s.yaml").exists()
    found, whole = (ase.io.read(tmp_path / name, ":") for name in ("out.xyz", "whole.xyz"))
    assert [a.get_potential_energy() for a in found] == [a.get_potential_energy() for a in whole]


@pytest.mark.parametrize("name", ["s.yaml", "out-train.xyz", "out-valid.xyz"])
def test_files_of_a_student_that_exist_are_kept(given, tmp_path, name):
    (tmp_path / name).write_text("edited", encoding="utf-8")
    asked = TrainingFile("mace", tmp_path / "s.yaml")
    with pytest.raises(DataError, match=f"{name}: exists"):
        distill(job(given, tmp_path / "out.xyz", training_file=asked))
    assert (tmp_path / name).read_text(encoding="utf-8") == "edited"
    assert not (tmp_path / "out.xyz.parts").exists()


@pytest.mark.parametrize("largest", [0.0, -1.0, float("nan")])
def test_a_largest_force_is_above_zero(given, tmp_path, largest):
    with pytest.raises(ConfigError, match=f"--largest-force is {largest}; allowed: above 0"):
        job(given, tmp_path / "out.xyz", largest_force=largest)


def test_models_that_are_the_same_are_no_committee(given, tmp_path):
    with pytest.raises(ConfigError, match="argon:teacher and argon:teacher are the same model, which has no spread"):
        job(given, tmp_path / "out.xyz", committee=[open_teacher("argon:teacher") for _ in range(2)], choose=2)


def test_a_student_without_features_leaves_no_folder(given, tmp_path):
    with pytest.raises(HostError, match="--features: the model has no long-range part"):
        job(given, tmp_path / "out.xyz", student=open_teacher("argon:teacher"), choose=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given.xyz"]


def test_atoms_that_a_start_holds_fixed_stay_where_they_are(tmp_path):
    held = argon.crystal((1, 1, 2))
    held.set_constraint(FixAtoms([0, 5]))
    ase.io.write(tmp_path / "held.xyz", held)
    growth = Growth.of(**{**GROWTH, "waves": 0.0, "rattled": 0.5, "strain": 0.0, "temperatures": (40.0,)})
    frames = distill(job(tmp_path / "held.xyz", tmp_path / "out.xyz", growth=growth)).frames
    assert {"rattled" in atoms.info["origin"] for atoms in frames} == {True, False}
    for atoms in frames:
        moved = np.abs(atoms.positions - held.positions).max(axis=1)
        assert (moved[[0, 5]] < 1e-12).all()  # rounding
        assert (np.delete(moved, [0, 5]) > 1e-3).all()
        # labels are the whole forces, also of the atoms that were held
        np.testing.assert_allclose(atoms.get_forces(), argon.teacher().get_property("forces", atoms), atol=1e-12)
    with pytest.raises(ConfigError, match="--waves displaces all atoms, and a structure has constraints"):
        distill(job(tmp_path / "held.xyz", tmp_path / "waves.xyz", growth=Growth.of(**GROWTH)))
    assert not (tmp_path / "waves.xyz.parts").exists()


def test_strain_that_is_left_out_is_said(tmp_path):
    slab = argon.crystal()
    slab.pbc = [True, True, False]
    ase.io.write(tmp_path / "slab.xyz", [slab, argon.crystal()])
    growth = Growth.of(**{**GROWTH, "waves": 0.0})
    with pytest.warns(LesPluginsWarning, match=r"--strain 0\.02 is left out for 1 of 2 structures"):
        distill(job(tmp_path / "slab.xyz", tmp_path / "out.xyz", growth=growth))


def test_another_distillation_does_not_go_on_with_the_parts_of_this_one(starts, tmp_path):
    argon.Stopped.left = 1
    stopping = Teacher("t", argon.Stopped(sigma=3.4, epsilon=0.0104, rc=5.0, smooth=True), "1", None, "MIT")
    with pytest.raises(KeyboardInterrupt):
        distill(job(starts, tmp_path / "out.xyz", stopping))
    with pytest.raises(DataError, match="unfinished distillation with another teacher, driver"):
        distill(job(starts, tmp_path / "out.xyz"))


def test_an_output_that_exists_is_kept(starts, tmp_path):
    (tmp_path / "out.xyz").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match=r"out\.xyz: exists"):
        distill(job(starts, tmp_path / "out.xyz"))
    assert (tmp_path / "out.xyz").read_text(encoding="utf-8") == "mine"


def test_given_structures_are_labelled_in_their_order_and_chosen_from(tmp_path):
    frames = [argon.crystal() for _ in range(4)]
    for number, atoms in enumerate(frames):
        atoms.rattle(0.05 * number, seed=number)
    ase.io.write(tmp_path / "given.xyz", frames)
    distill(job(tmp_path / "given.xyz", tmp_path / "all.xyz"))
    found = ase.io.read(tmp_path / "all.xyz", ":")
    np.testing.assert_allclose([a.positions for a in found], [a.positions for a in frames], atol=1e-7)
    assert len(distill(job(tmp_path / "given.xyz", tmp_path / "two.xyz", choose=2)).frames) == 2


def test_elements_that_the_teacher_does_not_know_are_named_before_anything_is_computed(tmp_path):
    ase.io.write(tmp_path / "neon.xyz", [argon.crystal(), Atoms("Ne", cell=[5.0] * 3, pbc=True)])
    with pytest.raises(DataError, match=r"neon.xyz \(argon:teacher\).*does not know Ne; it knows: Ar"):
        distill(job(tmp_path / "neon.xyz", tmp_path / "out.xyz"))
    assert not (tmp_path / "out.xyz.parts").exists()


def test_a_label_that_is_not_finite_names_teacher_and_frame(starts, tmp_path):
    class Broken(argon.Argon):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            self.results["forces"] = np.full_like(self.results["forces"], np.nan)

    broken = Teacher("broken", Broken(rc=5.0), "1", None, "none")
    with pytest.raises(DataError, match=r"broken: .*starts.xyz, frame 0: predicted forces holds NaN"):
        distill(job(starts, tmp_path / "out.xyz", broken))


def test_a_teacher_that_stops_is_told_with_the_frame_and_goes_on(given, tmp_path):
    class Fails(argon.Argon):
        def calculate(self, atoms, *args, **kwargs):
            if np.array_equal(atoms.positions, ase.io.read(given, 2).positions):
                raise ZeroDivisionError("no convergence")
            super().calculate(atoms, *args, **kwargs)

    fails = Teacher("t", Fails(sigma=3.4, epsilon=0.0104, rc=5.0, smooth=True), "1", None, "MIT", (18,))
    with pytest.raises(HostError, match=r"t: .*given\.xyz, frame 2: ZeroDivisionError: no convergence"):
        distill(job(given, tmp_path / "out.xyz", fails))
    assert len(list((tmp_path / "out.xyz.parts").glob("label-*.npz"))) == 2
    assert len(distill(job(given, tmp_path / "out.xyz", whole_teacher())).frames) == 4


def test_frames_with_large_forces_are_left_out_and_counted(tmp_path):
    close = argon.crystal()
    close.positions[0] += [0.8, 0.8, 0.0]
    rattle = argon.crystal()
    rattle.rattle(0.02)
    ase.io.write(tmp_path / "given.xyz", [rattle, close])
    done = distill(job(tmp_path / "given.xyz", tmp_path / "out.xyz", largest_force=0.1))
    assert (len(done.frames), done.left_out) == (1, 1)
    with pytest.raises(DataError, match="every frame has a force above 1e-09"):
        distill(job(tmp_path / "given.xyz", tmp_path / "none.xyz", largest_force=1e-9))


def test_a_simulation_that_comes_apart_is_said_and_the_others_are_kept(starts, tmp_path):
    class Explodes(argon.Argon):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            if self.atoms.positions.max() > 5.0:  # the second, wider start
                self.results["energy"] = np.nan

    wide = argon.crystal()
    wide.set_cell([5.6] * 3, scale_atoms=True)
    wide.positions += 3.0
    ase.io.write(starts, [argon.crystal(), wide])
    driver = Teacher("driver", Explodes(sigma=3.4, epsilon=0.0104, rc=5.0, smooth=True), "1", None, "none")
    growth = Growth.of(**{**GROWTH, "temperatures": (2.0,), "strain": 0.0, "warm_up": 0})
    with pytest.warns(LesPluginsWarning, match="walker 1 at 2 K: step .* came apart"):
        done = distill(job(starts, tmp_path / "out.xyz", growth=growth, driver=driver))
    assert {atoms.info["origin"].split(", ")[0] for atoms in done.frames} == {"walker 0"}


def test_waves_need_three_periodic_axes(tmp_path):
    slab = argon.crystal()
    slab.pbc = [True, True, False]
    ase.io.write(tmp_path / "slab.xyz", slab)
    with pytest.raises(ConfigError, match="--waves needs structures that are periodic along all three"):
        distill(job(tmp_path / "slab.xyz", tmp_path / "out.xyz", growth=Growth.of(**GROWTH)))
