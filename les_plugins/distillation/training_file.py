"""What `distill --write-config` asks for: checked before anything is computed, then the texts of file and sets.

`job` calls `check` first, `files` when the frames are labelled, and writes them beside the output.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from les_plugins.data.given_charge import any_charged, total_charge_of
from les_plugins.distillation.energies import Zero, ZeroOfEnergy, isolated_atoms, zero_of_energy
from les_plugins.distillation.labelling import text_of
from les_plugins.distillation.student import MASKS_STRESS, Student, check_host, long_range_section
from les_plugins.distillation.teachers import Teacher
from les_plugins.errors import ConfigError, DataError


@dataclass(frozen=True)
class Written:
    """What was made for a student.

    Attributes:
        host: of the student.
        path: the training file.
        train, valid: each set's file and number of frames.
        zero: energies of the elements.
        notes: what to know about them.
    """

    host: str
    path: Path
    train: tuple[Path, int]
    valid: tuple[Path, int]
    zero: ZeroOfEnergy
    notes: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """What trains the student."""
        return _command(self.host, self.path)


@dataclass(frozen=True)
class TrainingFile:
    """A training file to write.

    Attributes:
        host: "mace" or "nequip".
        path: the file; its name is the student's.
        epsilon_infinity: of the material.
        zero: where the energies of the elements come from.
        valid_fraction: part of the frames for validation, at least one frame.
        seed: of the draw of the validation set; the weights have the next one.

    Raises:
        ConfigError: a host whose files are not written, a number that is not allowed.
    """

    host: str
    path: Path
    epsilon_infinity: float = 1.0
    zero: Zero = "least-squares"
    valid_fraction: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_host(self.host)
        if not 0 < self.valid_fraction < 1:
            raise ConfigError(f"--valid-fraction is {self.valid_fraction}; allowed: above 0 and below 1")
        if self.seed < 0:
            raise ConfigError(f"--seed is {self.seed}; allowed: 0 or more")
        if not 1.0 <= self.epsilon_infinity < float("inf"):
            raise ConfigError(f"--epsilon-infinity is {self.epsilon_infinity}; allowed: a number of at least 1")
        long_range_section(self.epsilon_infinity)

    def places(self, output: Path) -> list[Path]:
        """The sets beside the output, `<name>-train.xyz` and `<name>-valid.xyz`, and the file.

        Raises:
            ConfigError: two of them have one name.
        """
        sets = [output.with_name(f"{output.stem}-{kind}{output.suffix}") for kind in ("train", "valid")]
        if self.path.absolute() in [place.absolute() for place in (*sets, output)]:
            raise ConfigError(f"--write-config: {self.path} is a file of frames; allowed: a name of its own")
        return [*sets, self.path]

    def check(self, starts: Sequence[Atoms], teacher: Teacher, count: int) -> Mapping[int, float] | None:
        """See whether there can be a training file, before anything is labelled.

        Args:
            starts: structures with all the elements.
            teacher: of isolated atoms.
            count: frames that will be labelled, at most.

        Returns:
            The teacher's energies of isolated atoms, by atomic number, where these are asked for.

        Raises:
            DataError: fewer than two frames; an isolated atom that the teacher cannot compute.
            ConfigError: a part that leaves no frame to train on.
        """
        count_of_valid(count, self.valid_fraction)
        if self.zero == "least-squares":
            return None
        return isolated_atoms(teacher, sorted({int(z) for atoms in starts for z in atoms.numbers}))

    def files(
        self, frames: Sequence[Atoms], output: Path, teacher: Teacher, isolated: Mapping[int, float] | None = None
    ) -> tuple[dict[Path, str], Written]:
        """Texts of the two sets and of the file, by their places, and what they are.

        Args:
            frames: labelled.
            output: the file that holds them all.
            teacher: for the header.
            isolated: as of `check`.

        Raises:
            DataError, ConfigError: as of `split`.
        """
        train, valid = split(frames, self.valid_fraction, self.seed)
        first, second, path = self.places(output)
        zero = zero_of_energy(train, isolated)
        without = sum("stress" not in atoms.calc.results for atoms in frames)
        charged, notes = any_charged(frames), []
        stress = without == 0 or (without < len(frames) and self.host in MASKS_STRESS)
        if 0 < without < len(frames):
            ends = "its loss is of the others" if stress else f"{self.host} cannot leave them out, and trains on none"
            notes.append(f"{without} of {len(frames)} frames, open or slabs, have no stress: {ends}")
        student = Student(
            self.path.stem,
            first,
            second,
            train,
            zero,
            stress,
            unused_stress=not stress and without < len(frames),
            charged=charged,
            epsilon_infinity=self.epsilon_infinity,
            seed=self.seed + 1,
        )
        if charged:
            notes.append("total_charge: given, since there are charged frames")
        texts = {
            first: text_of([_for_training(atoms, student) for atoms in train]),
            second: text_of([_for_training(atoms, student) for atoms in valid]),
            path: student.text(self.host, self._header(teacher, zero, output, notes)),
        }
        return texts, Written(self.host, path, (first, len(train)), (second, len(valid)), zero, tuple(notes))

    def _header(self, teacher: Teacher, zero: ZeroOfEnergy, output: Path, notes: Sequence[str]) -> list[str]:
        lines = [
            f"student of {teacher.name} ({teacher.version}; licence of its weights: {teacher.licence})",
            f"train: {_command(self.host, self.path)}",
        ]
        if {self.path.parent, output.parent} != {Path()}:
            lines.append("in the folder where les-plugins distill ran: the files are named from there")
        lines += [str(zero), *notes]
        if self.epsilon_infinity == 1.0:
            lines.append(
                "epsilon_infinity is not known to the teacher: give that of the material, it scales dipoles and Z*"
            )
        return lines


def _command(host: str, path: Path) -> str:
    return shlex.join(["les-plugins", "train", host, "--config", str(path)])


def count_of_valid(count: int, valid_fraction: float) -> int:
    """How many of so many frames are for validation.

    Raises:
        DataError: fewer than two frames.
        ConfigError: a part that leaves no frame to train on.
    """
    if count < 2:
        raise DataError(f"--write-config: there is {count} frame; two sets need at least two")
    found = max(1, round(valid_fraction * count)) if 0 < valid_fraction < 1 else count
    if found >= count:
        raise ConfigError(
            f"--valid-fraction is {valid_fraction}; allowed: above 0 and below 1, with some of {count} frames left over"
        )
    return found


def split(frames: Sequence[Atoms], valid_fraction: float, seed: int) -> tuple[list[Atoms], list[Atoms]]:
    """Training and validation set, each in the order of the frames; every element is in the training set.

    Args:
        frames: all of them.
        valid_fraction: part of the frames for validation, at least one frame.
        seed: of the draw.

    Raises:
        DataError: fewer than two frames, or each has an element that no other has.
        ConfigError: a part that leaves no frame to train on.
    """
    count = count_of_valid(len(frames), valid_fraction)
    having = np.array([np.bincount(atoms.numbers, minlength=119) > 0 for atoms in frames])  # (frames, elements)
    left = having.sum(axis=0)
    valid: set[int] = set()
    for number in np.random.default_rng(seed).permutation(len(frames)).tolist():
        if len(valid) < count and (left[having[number]] > 1).all():
            valid.add(number)
            left -= having[number]
    if not valid:
        raise DataError("--write-config: every frame has an element that no other has; none is left to validate on")
    sets = [[atoms for n, atoms in enumerate(frames) if (n in valid) == wanted] for wanted in (False, True)]
    return sets[0], sets[1]


def _for_training(atoms: Atoms, student: Student) -> Atoms:
    """A frame with what hosts need to be told beside its labels."""
    new: Atoms = atoms.copy()
    new.calc = atoms.calc
    if student.stress and "stress" not in atoms.calc.results:
        new.info["config_stress_weight"] = 0.0  # of MACE's loss
    if student.charged:
        new.info["charge"] = total_charge_of(atoms)  # NequIP needs one of every frame
    return new
