"""`les-plugins lammps`: LAMMPS on any number of MPI ranks, with a model as its pair style."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from les_plugins.cli.shared import Head, Model, quiet_host
from les_plugins.errors import ConfigError, DataError, HostError
from les_plugins.io.files import check_place

if TYPE_CHECKING:
    from les_plugins.engines.ranks.meeting import Meeting

#: What MPI libraries and SLURM call the rank, for the time before LAMMPS knows it.
_RANK = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")
#: s, after which a rank that says nothing ends: `mpirun` ends the others with it.
_GRACE = 2.0
#: Options that are not listed go to LAMMPS.
CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True}


class Method(str, Enum):
    """Of the reciprocal sum."""

    model = "model"
    direct = "direct"
    mesh = "mesh"


class Precision(str, Enum):
    """Of the model's own arithmetic; the long-range sums are in float64 always."""

    model = "model"
    float32 = "float32"
    float64 = "float64"


def lammps(
    context: typer.Context,
    model: Model,
    script: Annotated[
        Path,
        typer.Argument(metavar="SCRIPT", help="LAMMPS input with pair_style les.", show_default=False),
    ],
    currents: Annotated[
        Path | None,
        typer.Option(help="HDF5 file for J(t), P(t), positions and velocities: spectra reads it.", show_default=False),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Steps between its frames.")] = 4,
    sum_rule: Annotated[
        bool, typer.Option("--sum-rule/--no-sum-rule", help="Take the mean of Z* off every atom in J.")
    ] = True,
    dtype: Annotated[Precision, typer.Option(help="Precision of the model.")] = Precision.model,
    method: Annotated[
        Method, typer.Option(help="Of the long-range sum; the model's own, where auto is direct, or one of these.")
    ] = Method.model,
    gather: Annotated[
        bool, typer.Option("--gather", help="Evaluate all atoms on rank 0; slabs and open boxes always are.")
    ] = False,
    total_charge: Annotated[float, typer.Option(help="e, for a model trained with total_charge: given.")] = 0.0,
    epsilon_infinity: Annotated[
        float | None, typer.Option(help="ε_∞ of the material, in the place of the model's own.", show_default=False)
    ] = None,
    head: Head = None,
) -> None:
    """Run SCRIPT with the forces of MODEL, under mpirun on all ranks; options not listed, as -var, go to LAMMPS."""
    from les_plugins.engines.lammps import new_lammps
    from les_plugins.engines.ranks.failures import ending_all
    from les_plugins.engines.ranks.meeting import meet, part

    lmp = _started(new_lammps, context.args or ["-echo", "log"])
    rank = lmp.extract_setting("world_rank")
    with ending_all(None, rank):
        meeting = meet(lmp)
    with ending_all(meeting.store, rank), _one_voice(rank):
        _check_currents(currents, rank)
        run = _Run(lmp, meeting, model, dtype.value, head, epsilon_infinity, total_charge, gather)
        run.sum_by(method.value)
        run.record(currents, every, sum_rule)
        run.go(script)
    part(meeting, lmp)


class _Run:
    """The model, and how it is put on LAMMPS when its input comes to `pair_coeff`."""

    def __init__(
        self,
        lmp: Any,
        meeting: Meeting,
        model: Path,
        dtype: str,
        head: str | None,
        epsilon_infinity: float | None,
        total_charge: float,
        gather: bool,
    ) -> None:
        import torch

        from les_plugins import api
        from les_plugins.hosting import registry
        from les_plugins.storage import checkpoint, zoo

        torch.set_num_threads(max(int(os.environ.get("OMP_NUM_THREADS", "1")), 1))
        self.lmp, self.meeting, self.total_charge, self.gather = lmp, meeting, total_charge, gather
        built, config = api.load_model(model, None if dtype == "model" else dtype)
        for parameter in built.parameters():
            parameter.requires_grad_(False)
        host = registry.host(config["host"])
        metadata = config if head is None else {**config, "head": head}
        self.calculator = host.calculator(built, metadata, "cpu")
        if epsilon_infinity is not None:
            self.calculator.epsilon_infinity = epsilon_infinity
        self.domains = host.domain_model(built, metadata) if host.offers("domain_model") else None
        self.host, self.built, self.config = config["host"], built, config
        self.facts = {
            "model_weights_sha256": checkpoint.sha256(zoo.resolve(model) / checkpoint.WEIGHTS),
            "host": self.host,
        }
        self.path: Path | None = None
        self.recorders: list[Any] = []

    def sum_by(self, method: str) -> None:
        """The way of the long-range sum, in the place of the model's own."""
        from les_plugins.electrostatics.layer import LatentElectrostatics

        layers = [module for module in self.built.modules() if isinstance(module, LatentElectrostatics)]
        if self.domains is not None and self.domains.long_range is not None:
            layers.append(self.domains.long_range.electrostatics)
        if method == "model":
            return
        if not layers:
            raise HostError(f"--method {method}: the model has no long-range sum to do that way; allowed: model")
        for layer in layers:
            layer.change_settings(method=method)

    def record(self, path: Path | None, every: int, sum_rule: bool) -> None:
        """Where J(t) and P(t) go, if anywhere."""
        self.path, self.every, self.sum_rule = path, every, sum_rule

    def go(self, script: Path) -> None:
        """The whole input."""
        from les_plugins.engines.ranks.script import run_script

        cutoff = 1.0 if self.domains is None else self.domains.cutoff
        try:
            run_script(self.lmp, script, cutoff, self.attach)
            self._finish()
        finally:
            for recorder in self.recorders:
                recorder.close()

    def attach(self, elements: Sequence[str]) -> None:
        """At `pair_coeff * * ELEMENTS`."""
        from les_plugins.engines.ranks.engine import Evaluator, attach_ranks
        from les_plugins.engines.ranks.gathered import attach_gathered
        from les_plugins.engines.ranks.moments import Moments
        from les_plugins.engines.ranks.outputs import AtomProperties
        from les_plugins.engines.ranks.recorder import Recorder

        self._finish()
        periodic = self.lmp.extract_setting("box_exist") and all(self.lmp.extract_box()[5])
        if self.gather or self.domains is None or not periodic:
            self._say_gathered(periodic)
            if self.path is not None:
                raise ConfigError(
                    "--currents: allowed with domains: boundary p p p, no --gather, MACE, NequIP or SevenNet"
                )
            if self.domains is not None and self.domains.long_range is not None:
                self.domains.long_range.electrostatics.ranks = None  # the calculator's too, which is of one process
            if self.total_charge:
                self.calculator.total_charge = self.total_charge
            attach_gathered(self.lmp, self.calculator, elements, self.meeting)
            return
        self._caution(elements)
        evaluator = Evaluator(self.domains, self.meeting, self.total_charge)
        observers: list[Any] = []
        part = self.domains.long_range
        if part is not None:
            known = self.calculator.reference_susceptibility
            moments = Moments(part, self.calculator.epsilon_infinity, known)
            observers.append(AtomProperties(moments))
            if self.path is not None:
                facts = {**self.facts, "epsilon_infinity": self.calculator.epsilon_infinity}
                place = self.path, self.every, moments, elements, self.meeting.rank
                recorder = Recorder(*place, facts, self.sum_rule, self.total_charge)
                observers.append(recorder)
                self.recorders.append(recorder)
        elif self.path is not None:
            raise HostError("--currents: this model has no long-range part")
        attach_ranks(self.lmp, evaluator, elements, observers=observers)

    def _finish(self) -> None:
        """The last frames of what ran so far; called by all ranks."""
        for recorder in self.recorders:
            recorder.finish()

    def _caution(self, elements: Sequence[str]) -> None:
        """Warn, as the calculators do, of elements that the long-range part was not trained on."""
        from ase import Atoms
        from ase.data import atomic_numbers

        from les_plugins.data.cautions import Cautions
        from les_plugins.data.structure_reading import trained_elements

        trained = trained_elements(self.config)
        known = [symbol for symbol in elements if symbol in atomic_numbers]  # others raise an error
        if trained and self.calculator.has_long_range:
            Cautions().look_for_elements(Atoms(known), "LAMMPS", trained)

    def _say_gathered(self, periodic: bool) -> None:
        if self.meeting.rank == 0 and self.meeting.size > 1:
            why = "--gather" if self.gather else f"models of {self.host} have no domains"
            if not periodic:
                why = "the box is not periodic along three axes"
            typer.echo(f"les-plugins: all atoms are evaluated on rank 0 of {self.meeting.size}: {why}", err=True)


def _started(new_lammps: Any, arguments: Sequence[str]) -> Any:
    """LAMMPS; options that it does not take are an error of rank 0, whose line the others wait for."""
    try:
        return new_lammps(*arguments)
    except HostError:
        if any(os.environ.get(name, "0") != "0" for name in _RANK):
            time.sleep(_GRACE)
            raise typer.Exit(1) from None
        raise


def _check_currents(path: Path | None, rank: int) -> None:
    """Before anything is computed; rank 0 will write the file."""
    if path is None or rank != 0:
        return
    if path.suffix != ".h5":
        raise ConfigError(f"--currents {path}: allowed: a file that ends in .h5")
    if path.exists():
        raise DataError(f"--currents {path}: exists; choose another name, or move it away")
    check_place(path)


@contextlib.contextmanager
def _one_voice(rank: int) -> Iterator[None]:
    """What a host prints and Python warns of, once: on rank 0, and there on standard error."""
    if rank == 0:
        with quiet_host():
            yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(nowhere):
            yield
