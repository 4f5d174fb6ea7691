"""MACE's `run` with our model in it: what it builds, and what it trained.

MACE names no plugin point for the model, so its `run` is called with two functions substituted for that call:
`mace.cli.run_train.configure_model` and `mace.tools.train`. The version range of the adapter and a test guard the seam.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from ase import Atoms
from mace import tools
from mace.cli import run_train
from mace.tools.checkpoint import CheckpointIO, CheckpointPathInfo, CheckpointState
from torch import nn

from les_plugins.adapters.mace.accelerated import OPTIONS, accelerated
from les_plugins.adapters.mace.data_set import check_data_set
from les_plugins.adapters.mace.model import attach_long_range, last_layer
from les_plugins.adapters.mace.start import started_from
from les_plugins.config import LongRangeConfig
from les_plugins.data.frames import structure_of
from les_plugins.errors import ConfigError, HostError, LesPluginsError, raising
from les_plugins.hosting.substitution import substituted
from les_plugins.model.frozen import freeze

#: Frames of a binary data set that are looked at for the sign of the charges.
_SAMPLE = 200


class Built:
    """What MACE built while the seam was open.

    Args:
        kernels: options of MACE that are not for it to see.

    Attributes:
        model: the model that it trains.
        steps: how many optimizer steps it is going to make.
        first: whether this process is the first of a distributed training; MACE ends the group before it returns.
        data: the training set, as MACE's loader has it.
        trained: the arguments of MACE's training loop when that has come to its end, else None.
    """

    model: nn.Module | None = None
    steps: int | None = None
    first: bool = True
    data: Sequence[Any] = ()
    trained: Mapping[str, Any] | None = None

    def __init__(self, kernels: tuple[str, ...] = ()) -> None:
        self.kernels = kernels

    def frames(self) -> list[Atoms]:
        """Structures of the training set, evenly through it, of whatever format it is."""
        if self.model is None:
            return []
        count = len(self.data)
        chosen = range(0, count, max(1, -(-count // _SAMPLE)))
        numbers = self.model.atomic_numbers.cpu()
        return [_atoms(item, numbers) for item in (self.data[i] for i in chosen) if item is not None]

    def load_best(self) -> None:
        """Put the weights that MACE kept last into the model, as it does itself for its evaluation at the end."""
        assert self.trained is not None
        state = CheckpointState(*(self.trained[name] for name in ("model", "optimizer", "lr_scheduler")))
        for stage_two in (True, False) if self.trained["swa"] is not None else (False,):
            try:
                self.trained["checkpoint_handler"].load_latest(state, swa=stage_two, device=self.trained["device"])
                return
            except Exception:  # MACE raises whatever its files make it raise: then the weights stay those of the end
                logging.debug("no checkpoint of MACE, stage two %s", stage_two, exc_info=True)


@contextmanager
def model_seam(
    long_range: LongRangeConfig | None, start: str | None = None, kernels: tuple[str, ...] = ()
) -> Iterator[Built]:
    """While open, every model that MACE's `run` configures gets a long-range part (none for long_range None).

    Args:
        long_range: the section.
        start: checkpoint to begin with.
        kernels: options of MACE that convert its own models only: with a long-range part this is done here.
    """
    configure, train = run_train.configure_model, tools.train
    built = Built(kernels)

    def configure_model(args: Any, train_loader: Any, *rest: Any, **named: Any) -> tuple[nn.Module, Any]:
        check_data_set(train_loader.dataset, args)
        model, output_args = configure(args, train_loader, *rest, **named)
        built.steps = len(train_loader) * args.max_num_epochs
        built.data = train_loader.dataset
        built.first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
        if start is not None:
            model = started_from(model, start, long_range)
        elif long_range is not None:
            model = attach_long_range(model, long_range)
        if long_range is not None:
            model = accelerated(model, kernels, args.device)
            freeze(model, long_range.run.train_only, last_layer(model))
        if args.restart_latest:
            _check_restart(model, args)
        elif built.first and not args.dry_run:
            _set_aside(args)
        built.model = model
        logging.info("Long-range part: %s", "none" if long_range is None else long_range.to_dict())
        return built.model, output_args

    def train_and_remember(*positional: Any, **named: Any) -> Any:
        result = train(*positional, **named)
        built.trained = named
        return result

    with substituted(run_train, "configure_model", configure_model), substituted(tools, "train", train_and_remember):
        yield built


def run(args: Any, built: Built) -> Exception | None:
    """MACE's run.

    Args:
        args: MACE's options.
        built: of the open seam.

    Returns:
        None, or what MACE failed with after it had trained the model, whose best weights `built.model` has then.
    """
    dtype = torch.get_default_dtype()  # MACE sets that of the whole process
    given = {option: getattr(args, option) for option in OPTIONS if built.kernels}
    for option in given:
        setattr(args, option, False)  # its converters know its own classes only
    try:
        run_train.run(args)
    except Exception as error:
        logging.debug("MACE stopped", exc_info=True)
        if built.trained is None or isinstance(error, LesPluginsError):
            raise
        built.load_best()
        return error
    finally:
        torch.set_default_dtype(dtype)
        for option, value in given.items():
            setattr(args, option, value)
    return None


def _check_restart(model: nn.Module, args: Any) -> None:
    """MACE goes on from a checkpoint with strict=False: what does not fit it would be dropped in silence."""
    own = _checkpoints(args)
    if not own:
        return
    latest = max(own, key=lambda info: (info.swa, info.epochs))
    with raising(HostError, f"restart_latest: {latest.path} cannot be read"):
        # MACE opens the same file in the same way right after this: its own, of the run that goes on
        kept = torch.load(latest.path, map_location="cpu", weights_only=False)
        theirs = {name: value.shape for name, value in kept["model"].items()}
        groups = kept["optimizer"]["param_groups"]
    ours = {name: value.shape for name, value in model.state_dict().items()}
    different = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
    if different:
        raise ConfigError(
            f"restart_latest: {latest.path} is of another model than this config file describes: {different[0]!r} is "
            f"{_shape(ours, different[0])} here and {_shape(theirs, different[0])} there ({len(different)} differences)"
            "; restore the settings, or train under another name"
        )
    _check_energies(model.state_dict(), kept["model"], latest.path)
    if args.swa and not latest.swa and not all("swa_lr" in group for group in groups):
        raise ConfigError(
            f"swa: stage two was not switched on when {latest.path} was written, and MACE cannot add it at a restart "
            "(restart_latest); train from the beginning with swa: true, or begin a new run with start_from, which "
            "takes the .les folder of this one"
        )


def _check_energies(ours: Mapping[str, Any], theirs: Mapping[str, Any], path: str) -> None:
    """ConfigError where a checkpoint has other energies of the elements: MACE would put its own over those of now."""
    for name in (name for name in ours if name.endswith("atomic_energies")):
        now, then = ours[name].double().cpu(), theirs[name].double().cpu()
        if torch.allclose(now, then, rtol=1e-6, atol=1e-5):  # eV; single precision
            continue
        place = int((now - then).abs().argmax())
        raise ConfigError(
            f"restart_latest: {path} was trained on other data than this config file names: an energy of the elements "
            f"(E0s) is {float(now.flatten()[place]):.6g} eV here and {float(then.flatten()[place]):.6g} eV there; "
            "train under another name, or without restart_latest from the beginning"
        )


def _set_aside(args: Any) -> None:
    """Rename checkpoints of an earlier training of this name: at its end MACE loads the one of the latest epoch."""
    for info in _checkpoints(args):
        os.replace(info.path, f"{info.path}.earlier")
        logging.warning(
            f"{info.path} is of an earlier training of this name, and is called {info.path}.earlier now; "
            "restart_latest goes on with such a training"
        )


def _checkpoints(args: Any) -> list[CheckpointPathInfo]:
    """MACE's own of this name and seed."""
    files = CheckpointIO(args.checkpoints_dir, tools.get_tag(name=args.name, seed=args.seed))
    found = [info for path in files._list_file_paths() if (info := files._parse_checkpoint_path(path)) is not None]
    return [info for info in found if info.tag == files.tag]


def _shape(shapes: Mapping[str, Any], name: str) -> str:
    return f"of shape {tuple(shapes[name])}" if name in shapes else "absent"


def _atoms(item: Any, numbers: torch.Tensor) -> Atoms:
    """The structure of an item of MACE's data set."""
    elements = numbers[item.node_attrs.argmax(1).cpu()]
    atoms = structure_of(elements, item.positions.detach().cpu(), item.cell.cpu(), item.pbc.cpu())
    atoms.info["total_charge"] = float(item.total_charge)
    return atoms
