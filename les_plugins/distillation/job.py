"""One distillation: candidates, choice, labels, file. Stopped and called again it goes on and gives the same frames."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ase import Atoms

from les_plugins.data.frames import check_elements, read_frames
from les_plugins.data.given_charge import NAMES, charge_read
from les_plugins.distillation.choice import check_features, check_members, chosen
from les_plugins.distillation.growth import Growth, grow
from les_plugins.distillation.labelling import computed, key_of, label_frames, text_of, within, without_repeats
from les_plugins.distillation.parts import (
    PARTS,
    check_free,
    keep_choice,
    kept_choice,
    resume,
    without_empty,
    write_outputs,
)
from les_plugins.distillation.teachers import Teacher
from les_plugins.distillation.training_file import TrainingFile, Written
from les_plugins.dynamics.lock import only_run
from les_plugins.errors import ConfigError, DataError
from les_plugins.storage import checkpoint
from les_plugins.version import __version__

SUFFIXES = (".xyz", ".extxyz")

#: Wraps numbers for a progress bar: of what, and how many.
Track = Callable[[range, str], Iterable[int]]


@dataclass(frozen=True)
class Distillation:
    """What is to be done.

    Attributes:
        teacher: labels the frames.
        structures: files; all frames of each.
        output: extended XYZ to write.
        growth: how candidates are grown from the structures; None: the structures are the candidates.
        driver: drives the dynamics; the teacher when None.
        choose: of structures that are given, how many to label; all when None.
        committee: models whose disagreement chooses.
        student: model whose features tell structures apart; fingerprints without.
        largest_force: eV/Å; frames with a larger one are left out, and counted.
        training_file: of a student, which is written with its two sets before the output.

    Raises:
        ConfigError: a largest force that is no number above zero, a model twice in the committee.
        HostError: the student has no features.
    """

    teacher: Teacher
    structures: Sequence[Path]
    output: Path
    growth: Growth | None = None
    driver: Teacher | None = None
    choose: int | None = None
    committee: Sequence[Teacher] = field(default=())
    student: Teacher | None = None
    largest_force: float = 50.0
    training_file: TrainingFile | None = None

    def __post_init__(self) -> None:
        if not self.largest_force > 0:
            raise ConfigError(f"--largest-force is {self.largest_force}; allowed: above 0 eV/Å")
        check_members(self.committee)
        if self.student is not None:
            check_features(self.student.calculator)

    @property
    def asked(self) -> int | None:
        """How many frames to choose; None: all of them."""
        return self.choose if self.growth is None else self.growth.frames

    def describe(self) -> dict[str, Any]:
        """What must be the same for a stopped run to go on; labels are kept by their structures, and choices apart."""
        return {
            "les_plugins": __version__,
            "teacher": self.teacher.identity(),
            "structures": [checkpoint.sha256(path) for path in self.structures],
            "growth": None if self.growth is None else self.growth.model_dump(mode="json"),
            "driver": (self.driver or self.teacher).identity(),
        }

    def choosers(self) -> dict[str, Any]:
        """What a choice depends on beside the candidates."""
        return {
            "asked": self.asked,
            "committee": [model.identity() for model in self.committee],
            "features": None if self.student is None else self.student.identity(),
        }


@dataclass(frozen=True)
class Distilled:
    """What was done.

    Attributes:
        frames: labelled, as in the file.
        candidates: how many different ones there were to choose from.
        left_out: frames whose forces were too large.
        repeated: candidates that were there twice, and were taken once.
        asked: how many frames were asked for; None: all candidates.
        student: what was written for a student.
    """

    frames: list[Atoms]
    candidates: int
    left_out: int
    repeated: int = 0
    asked: int | None = None
    student: Written | None = None


def distill(job: Distillation, track: Track = lambda numbers, text: numbers) -> Distilled:
    """Do it, in a folder beside the output that is gone when everything is written.

    Args:
        job: what is to be done.
        track: wraps the numbers of steps and frames.

    Raises:
        DataError: a file to write exists or cannot be written; structures that cannot be used, by the teacher or at
            all; a folder of another distillation is in the way, or another process works in it.
        ConfigError, HostError: see `grow`, `TrainingFile` and the models.
    """
    folder = job.output.with_name(job.output.name + PARTS)
    places = [job.output] if job.training_file is None else [*job.training_file.places(job.output), job.output]
    for place in places:
        check_free(place, folder)
    with only_run(job.output):
        starts = _structures(job)
        if job.growth is not None:
            job.growth.check(starts)
        isolated = None
        if job.training_file is not None:
            count = job.asked or len(starts)
            most = count if job.growth is not None else min(count, len(without_repeats(starts)))
            isolated = job.training_file.check(starts, job.teacher, most)
        resume(folder, job.describe(), _probes(job, starts[0]))
        with without_empty(folder):
            grown = starts if job.growth is None else _grown(job, starts, folder, track)
            candidates = without_repeats(grown)
            frames = [candidates[number] for number in _choice(job, candidates, folder)]

            def bar(count: range) -> Iterator[int]:
                yield from track(count, "labelling")

            source = str(job.structures[0]) if job.growth is None and len(job.structures) == 1 else "structures"
            labelled = label_frames(job.teacher, frames, folder, source, bar)
            kept = within(labelled, job.largest_force)
            if not kept:
                raise DataError(
                    f"{source}: every frame has a force above {job.largest_force:g} eV/Å; raise --largest-force"
                )
            files: dict[Path, str] = {}
            student = None
            if job.training_file is not None:
                files, student = job.training_file.files(kept, job.output, job.teacher, isolated)
            write_outputs({**files, job.output: text_of(kept)}, folder)
        shutil.rmtree(folder)
    left_out, repeated = len(labelled) - len(kept), len(grown) - len(candidates)
    return Distilled(kept, len(candidates), left_out, repeated, job.asked, student)


def _structures(job: Distillation) -> list[Atoms]:
    """All frames; where a model reads total charges each of them says its own, under the name that all look for."""
    found = []
    models = (job.teacher, *(m for m in (job.driver, job.student) if m), *job.committee)
    reading = [model for model in models if getattr(model.calculator, "takes_total_charge", False)]
    for path in job.structures:
        frames = read_frames(path)
        for model in models:
            if model.elements is not None:
                check_elements(frames, model.elements, f"{path} ({model.name})")
        for number, atoms in enumerate(frames if reading else ()):
            atoms.info[NAMES[0]] = _charge_of_all(reading, atoms, f"{path}, frame {number}")
        found += frames
    return found


def _charge_of_all(models: Sequence[Teacher], atoms: Atoms, where: str) -> float:
    """e, that models read from a structure; DataError where they do not read the same."""
    charges = {model.name: charge_read(model.calculator, atoms, where) for model in models}
    if len(set(charges.values())) > 1:
        told = ", ".join(f"{name} {charge:g} e" for name, charge in charges.items())
        raise DataError(f"{where}: the models read different total charges: {told}; allowed: one, as info['charge']")
    return next(iter(charges.values()))


def _probes(job: Distillation, first: Atoms) -> dict[str, Any]:
    """What the models say of the first structure: a function of the user's may be another one under the same name."""
    models = {"teacher": job.teacher} | ({} if job.driver is None else {"driver": job.driver})
    return {
        role: {name: value.tolist() for name, value in computed(model, first, f"{job.structures[0]}, frame 0").items()}
        for role, model in models.items()
    }


def _grown(job: Distillation, starts: Sequence[Atoms], folder: Path, track: Track) -> list[Atoms]:
    assert job.growth is not None
    driver = job.driver or job.teacher
    return grow(driver.calculator, starts, job.growth, folder, driver.identity(), track)


def _choice(job: Distillation, candidates: Sequence[Atoms], folder: Path) -> list[int]:
    """Numbers of the candidates to label; kept, since a committee takes long."""
    if job.asked is None or job.asked >= len(candidates):
        return list(range(len(candidates)))
    among = hashlib.sha256("".join(map(key_of, candidates)).encode()).hexdigest()
    asked = {"candidates": among, **job.choosers()}
    numbers = kept_choice(folder, asked, len(candidates))
    if numbers is None:
        student = None if job.student is None else job.student.calculator
        numbers = chosen(candidates, job.asked, [model.calculator for model in job.committee], student)
        keep_choice(folder, asked, numbers)
    return numbers
