"""`les-plugins distill`: a training set that a teacher labels, with provenance, and the training file of a student."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from les_plugins.cli.interruption import command_line, says_what_was_kept
from les_plugins.cli.shared import progress, quiet_host
from les_plugins.errors import ConfigError, LesPluginsWarning

if TYPE_CHECKING:
    from les_plugins.distillation.growth import Growth
    from les_plugins.distillation.job import Distilled
    from les_plugins.distillation.teachers import Teacher
    from les_plugins.distillation.training_file import Written

Zero = Enum("Zero", {"least-squares": "least-squares", "isolated": "isolated"}, type=str)
_LEAST_SQUARES = Zero("least-squares")


def distill(
    teacher: Annotated[
        str,
        typer.Argument(
            metavar="TEACHER",
            help="What labels: a name of the zoo, a .les folder, HOST:MODEL (sevennet:7net-0, mace:FILE.model) or "
            "MODULE:FUNCTION that returns an ASE calculator.",
            show_default=False,
        ),
    ],
    structures: Annotated[
        list[Path],
        typer.Option(help="File of structures, in any format of ASE; may be given again.", show_default=False),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Extended XYZ to write.", show_default=False)],
    grow: Annotated[
        int | None,
        typer.Option(
            help="Frames to label, chosen among structures grown from those given; those given are labelled without.",
            show_default=False,
        ),
    ] = None,
    driver: Annotated[
        str, typer.Option(help="What drives the dynamics: teacher, or a model, written as TEACHER is.")
    ] = "teacher",
    temperature: Annotated[list[float], typer.Option(help="K; may be given again, walkers take turns.")] = [300.0],  # noqa: B006
    walkers: Annotated[
        int | None, typer.Option(help="Simulations; one for each structure by default.", show_default=False)
    ] = None,
    interval: Annotated[int, typer.Option(help="Steps between candidates.")] = 10,
    candidates: Annotated[int, typer.Option(help="Candidates for each frame that is chosen.")] = 3,
    timestep: Annotated[float, typer.Option(help="fs.")] = 0.5,
    warm_up: Annotated[int, typer.Option(help="Steps of a quarter of the time step before the first candidate.")] = 100,
    hydrogen_mass: Annotated[
        float | None, typer.Option(help="u; heavier hydrogen allows a longer time step.", show_default=False)
    ] = None,
    strain: Annotated[float, typer.Option(help="Standard deviation of a walker's strain, each component.")] = 0.02,
    rattled: Annotated[float, typer.Option(help="Part of the candidates that are rattled.")] = 0.25,
    rattle: Annotated[float, typer.Option(help="Å, standard deviation of a rattle.")] = 0.05,
    waves: Annotated[float, typer.Option(help="Part of the candidates in doubled cells with long waves.")] = 0.0,
    amplitude: Annotated[float, typer.Option(help="Å, of the waves.")] = 0.15,
    choose: Annotated[
        int | None, typer.Option(help="Without --grow: label so many of the structures.", show_default=False)
    ] = None,
    committee: Annotated[
        list[str] | None,
        typer.Option(help="Model whose disagreement with the others chooses; give two or more.", show_default=False),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="Student whose features tell structures apart; a fingerprint of distances does by default.",
            show_default=False,
        ),
    ] = None,
    largest_force: Annotated[float, typer.Option(help="eV/Å; frames with a larger one are left out.")] = 50.0,
    modality: Annotated[
        str | None, typer.Option(help="Level of theory, of a teacher that has several.", show_default=False)
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(help="Of the teacher's weights, in the place of what its package states.", show_default=False),
    ] = None,
    write_config: Annotated[
        tuple[str, Path] | None,
        typer.Option(help="HOST (mace, nequip) and the student's training file to write.", show_default=False),
    ] = None,
    epsilon_infinity: Annotated[float, typer.Option(help="ε_∞ of the material, for the training file.")] = 1.0,
    zero_of_energy: Annotated[Zero, typer.Option(help="Where the student's E0s come from.")] = _LEAST_SQUARES,
    valid_fraction: Annotated[float, typer.Option(help="Part of the frames that is for validation.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    device: Annotated[str, typer.Option(help="Torch device: cpu, cuda, cuda:N.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Label structures with TEACHER: energy, forces and stress, with the teacher's name, version, hash and licence."""
    from les_plugins.distillation import job as jobs
    from les_plugins.distillation.growth import Growth
    from les_plugins.distillation.parts import PARTS
    from les_plugins.distillation.teachers import open_teacher
    from les_plugins.distillation.training_file import TrainingFile

    if output.suffix not in jobs.SUFFIXES:
        raise typer.BadParameter(f"{output} must end in {' or '.join(jobs.SUFFIXES)}", param_hint="--output")
    training_file = None
    if write_config is not None:
        training_file = TrainingFile(*write_config, epsilon_infinity, zero_of_energy.value, valid_fraction, seed)
    growth = None
    if grow is not None:
        growth = Growth.of(
            frames=grow,
            candidates=candidates,
            temperatures=tuple(temperature),
            walkers=walkers,
            interval=interval,
            timestep=timestep,
            warm_up=warm_up,
            hydrogen_mass=hydrogen_mass,
            strain=strain,
            rattled=rattled,
            rattle=rattle,
            waves=waves,
            amplitude=amplitude,
            seed=seed,
        )
    _check_combination(growth, choose, committee, driver, features)
    _say_of_code(teacher, driver, *(committee or ()), *([features] if features else []))

    def track(numbers: range, text: str) -> Iterable[int]:
        return progress(numbers, len(numbers), text)

    def kept() -> str:
        return f"what is done stays in {output}{PARTS}; to go on: {command_line()}"

    with quiet_host(), says_what_was_kept(kept):
        opened = open_teacher(teacher, device, modality, licence)
        _say_of_licence(opened)
        drives = None if driver == "teacher" else open_teacher(driver, device, role="--driver")
        judges = [open_teacher(name, device, role="--committee") for name in committee or ()]
        sees = None if features is None else open_teacher(features, device, role="--features")
        job = jobs.Distillation(
            opened,
            structures,
            output,
            growth,
            drives,
            choose,
            judges,
            sees,
            largest_force,
            training_file,
        )
        done = jobs.distill(job, track)
    _report(opened, done, output, as_json)


def _check_combination(
    growth: Growth | None, choose: int | None, committee: Sequence[str] | None, driver: str, features: str | None
) -> None:
    if growth is not None and choose is not None:
        raise ConfigError("--choose and --grow both say how many frames to label; allowed: one of them")
    if choose is not None and choose < 1:
        raise ConfigError(f"--choose is {choose}; allowed: 1 or more")
    if committee is not None and len(committee) == 1:
        raise ConfigError("--committee: one model disagrees with nobody; allowed: two or more")
    for option, given in (("--committee", committee), ("--features", features)):
        if given and growth is None and choose is None:
            raise ConfigError(f"{option} chooses among structures; allowed: with --grow or --choose")
    if driver != "teacher" and growth is None:
        raise ConfigError(f"--driver is {driver!r}, but nothing is simulated; allowed: with --grow")


def _say_of_code(*names: str) -> None:
    """On stderr, which files are pickles: opening one runs whatever code is in it."""
    for name in names:
        _, colon, file = name.partition(":")
        if colon and Path(file).is_file():
            Console(stderr=True, highlight=False, soft_wrap=True, markup=False).print(
                f"note: {file} is opened as its host does it; such a file may be a pickle, which can run any code"
            )


def _say_of_licence(teacher: Teacher) -> None:
    """Labels come under the licence of the weights, and so do students."""
    from les_plugins.data.teachers import NOT_STATED
    from les_plugins.storage.licences import is_restricted

    if is_restricted(teacher.licence):
        way = ": --licence states it" if teacher.licence == NOT_STATED else ""
        warnings.warn(
            f"the licence of {teacher.name}, which goes on to its labels and to students, is {teacher.licence}{way}",
            LesPluginsWarning,
            2,
        )


def _report(teacher: Teacher, done: Distilled, output: Path, as_json: bool) -> None:
    labels = [name for name in ("energy", "forces", "stress") if all(name in a.calc.results for a in done.frames)]
    summary = {
        "teacher": teacher.provenance(),
        "output": str(output),
        "frames": len(done.frames),
        "atoms": sum(map(len, done.frames)),
        "candidates": done.candidates,
        "asked": done.asked,
        "repeated": done.repeated,
        "left_out": done.left_out,
        "labels": labels,
        "config": None if done.student is None else _described(done.student),
    }
    if as_json:
        typer.echo(json.dumps(summary, indent=1, ensure_ascii=False))
        return
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(
        f"{output}: {summary['frames']} frames of {done.candidates} candidates, {summary['atoms']} atoms, "
        f"with {', '.join(labels)}"
    )
    if done.repeated:
        console.print(f"structures that were there more than once: {done.repeated} left out")
    if done.asked is not None and done.asked > done.candidates:
        console.print(f"note: {done.asked} frames were asked for, and there are no more than {done.candidates}")
    if done.left_out:
        console.print(f"left out for their large forces: {done.left_out}")
    if "stress" not in labels and any("stress" in atoms.calc.results for atoms in done.frames):
        console.print("stress is a label of the frames that are periodic along all three axes")
    console.print(
        f"labelled by {teacher.name}, {teacher.version}, licence {teacher.licence}"
        + (f", SHA-256 {teacher.sha256[:16]}…" if teacher.sha256 else "")
    )
    if (student := done.student) is not None:
        (train, count), (valid, others) = student.train, student.valid
        console.print(f"{student.path}: trains on {train} ({count} frames), validates on {valid} ({others})")
        console.print(str(student.zero))
        for note in student.notes:
            console.print(f"note: {note}")
        console.print(f"next: {student.command}")


def _described(student: Written) -> dict[str, Any]:
    return {
        "host": student.host,
        "path": str(student.path),
        "train": {"path": str(student.train[0]), "frames": student.train[1]},
        "valid": {"path": str(student.valid[0]), "frames": student.valid[1]},
        "E0s": student.zero.energies,
        "zero_of_energy": student.zero.how,
        "notes": list(student.notes),
    }
