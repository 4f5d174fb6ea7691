"""A whole distillation: the same frames however often it is stopped, honest labels, and nothing overwritten."""

from __future__ import annotations

import argon
import ase.io
import numpy as np
import pytest
from ase import Atoms

from les_plugins.distillation.growth import Growth
from les_plugins.distillation.job import Distillation, distill
from les_plugins.distillation.teachers import Teacher, open_teacher
from les_plugins.errors import ConfigError, DataError, LesPluginsWarning

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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"frames": 1}, "--grow is 1"),
        ({"temperatures": (0.0,)}, "--temperature is"),
        ({"waves": 0.8, "rattled": 0.5}, "allowed: up to 1 together|are parts of all"),
    ],
)
def test_growth_that_cannot_be_names_its_option(changes, said):
    with pytest.raises(ConfigError, match=said):
        Growth.of(**{**GROWTH, **changes})


def test_waves_need_three_periodic_axes(tmp_path):
    slab = argon.crystal()
    slab.pbc = [True, True, False]
    ase.io.write(tmp_path / "slab.xyz", slab)
    with pytest.raises(ConfigError, match="--waves needs structures that are periodic along all three"):
        distill(job(tmp_path / "slab.xyz", tmp_path / "out.xyz", growth=Growth.of(**GROWTH)))
