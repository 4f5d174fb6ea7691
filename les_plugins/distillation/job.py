"""One distillation: candidates, choice, labels, file. Stopped and called again it goes on and gives the same frames."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ase import Atoms

from les_plugins.data.frames import check_elements, read_frames
from les_plugins.distillation.choice import chosen
from les_plugins.distillation.growth import Growth, grow
from les_plugins.distillation.labelling import label_frames, within, write_frames
from les_plugins.distillation.teachers import Teacher
from les_plugins.errors import DataError
from les_plugins.io.documents import read_json
from les_plugins.io.files import check_place, make_folder, whole_file
from les_plugins.storage import checkpoint
from les_plugins.version import __version__

#: What the folder of an unfinished distillation is called: the output with this behind its name.
PARTS = ".parts"
DESCRIPTION = "distillation.json"
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

    def describe(self) -> dict[str, Any]:
        """What must be the same for a stopped run to go on."""
        return {
            "les_plugins": __version__,
            "teacher": self.teacher.provenance(),
            "structures": [checkpoint.sha256(path) for path in self.structures],
            "growth": None if self.growth is None else self.growth.model_dump(mode="json"),
            "driver": (self.driver or self.teacher).provenance(),
            "choose": self.choose,
            "committee": [model.provenance() for model in self.committee],
            "features": None if self.student is None else self.student.provenance(),
            "largest_force": self.largest_force,
        }


@dataclass(frozen=True)
class Distilled:
    """What was done.

    Attributes:
        frames: labelled, as in the file.
        candidates: how many there were to choose from.
        left_out: frames whose forces were too large.
    """

    frames: list[Atoms]
    candidates: int
    left_out: int


def distill(job: Distillation, track: Track = lambda numbers, text: numbers) -> Distilled:
    """Do it, in a folder beside the output that is gone at the end.

    Args:
        job: what is to be done.
        track: wraps the numbers of steps and frames.

    Raises:
        DataError: the output exists or cannot be written; structures that cannot be used, by the teacher or at all; a
            folder of another distillation is in the way.
        ConfigError, HostError: see `grow` and the models.
    """
    if job.output.exists():
        raise DataError(f"{job.output}: exists; choose another --output, or remove it")
    check_place(job.output)
    starts = _structures(job)
    folder = _folder(job)
    candidates = starts if job.growth is None else _grown(job, starts, folder, track)
    numbers = _choice(job, candidates, folder)
    frames = [candidates[number] for number in numbers]

    def bar(count: range) -> Iterator[int]:
        yield from track(count, "labelling")

    source = str(job.structures[0]) if job.growth is None and len(job.structures) == 1 else "structures"
    labelled = label_frames(job.teacher, frames, folder, source, bar)
    kept = within(labelled, job.largest_force)
    if not kept:
        raise DataError(f"{source}: every frame has a force above {job.largest_force:g} eV/Å; raise --largest-force")
    write_frames(job.output, kept)
    shutil.rmtree(folder)
    return Distilled(kept, len(candidates), len(labelled) - len(kept))


def _structures(job: Distillation) -> list[Atoms]:
    found = []
    for path in job.structures:
        frames = read_frames(path)
        for model in (job.teacher, *(m for m in (job.driver, job.student) if m), *job.committee):
            if model.elements is not None:
                check_elements(frames, model.elements, f"{path} ({model.name})")
        found += frames
    return found


def _folder(job: Distillation) -> Path:
    """The folder of this distillation, new or of the same one that was stopped."""
    folder = job.output.with_name(job.output.name + PARTS)
    description, asked = folder / DESCRIPTION, job.describe()
    if not description.exists():
        if folder.exists() and any(folder.iterdir()):
            raise DataError(f"{folder}: is in the way: it holds no {DESCRIPTION}; remove it or choose another --output")
        make_folder(folder)
        with whole_file(description) as file:
            file.write(json.dumps(asked, indent=1, ensure_ascii=False) + "\n")
        return folder
    before = read_json(description)
    changed = [key for key in asked if json.loads(json.dumps(asked[key])) != before.get(key)]
    if changed:
        raise DataError(
            f"{folder}: holds an unfinished distillation with another {', '.join(changed)}; give the same options to "
            "go on with it, remove it to begin again, or choose another --output"
        )
    return folder


def _grown(job: Distillation, starts: Sequence[Atoms], folder: Path, track: Track) -> list[Atoms]:
    assert job.growth is not None
    driver = job.driver or job.teacher

    return grow(driver.calculator, starts, job.growth, folder, driver.provenance(), track)


def _choice(job: Distillation, candidates: Sequence[Atoms], folder: Path) -> list[int]:
    """Numbers of the candidates to label; kept, since a committee takes long."""
    count = job.choose if job.growth is None else job.growth.frames
    if count is None or count >= len(candidates):
        return list(range(len(candidates)))
    path = folder / "choice.json"
    if not path.exists():
        student = None if job.student is None else job.student.calculator
        numbers = chosen(candidates, count, [model.calculator for model in job.committee], student)
        with whole_file(path) as file:
            file.write(json.dumps({"candidates": len(candidates), "chosen": numbers}))
    kept = read_json(path)
    if kept["candidates"] != len(candidates):
        raise DataError(
            f"{folder}: chose among {kept['candidates']} candidates, and there are {len(candidates)} now; remove the "
            "folder and begin again"
        )
    return [int(number) for number in kept["chosen"]]
