"""`les-plugins train nequip`: `nequip-train` as it is, then a checkpoint of ours from the one that it wrote."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ase import Atoms
from nequip.data import AtomicDataDict
from nequip.model.saved_models.checkpoint import data_dict_from_checkpoint
from nequip.model.saved_models.load_utils import load_saved_model
from nequip.utils.global_state import global_state_initialized, set_global_state
from torch import nn

from les_plugins import checkpoint
from les_plugins.adapters.nequip.builder import TARGET, checkpoint_section
from les_plugins.config import LongRangeConfig, read_yaml
from les_plugins.errors import ConfigError, HostError

#: Where NequIP's log goes: standard output is for the summary that `--json` asks for.
_STANDARD_ERROR = 2


def train(config_file: Path, arguments: Sequence[str], metadata: Mapping[str, Any] | None = None) -> Path | None:
    """Train as `nequip-train -cp FOLDER -cn NAME ARGUMENTS` does; the model section names `LongRangeModel`.

    Args:
        config_file: NequIP's YAML file; with a model section of NequIP alone the model is NequIP's alone.
        arguments: Hydra overrides, such as trainer.max_epochs=10.
        metadata: facts to keep in the checkpoint.

    Returns:
        The checkpoint folder `<run directory>/<name of the file>.les`, of the best model where NequIP kept one; None
        when the file asks for no training.

    Raises:
        ConfigError: a file that cannot be read, or a `long_range:` section that cannot be used.
        HostError: nequip-train failed (its own messages stand above), or wrote no checkpoint.
    """
    settings = read_config(config_file)
    folder = run_directory(config_file, arguments)
    own = [] if any(item.startswith("hydra.run.dir=") for item in arguments) else [f"hydra.run.dir={folder}"]
    place = ["-cp", str(config_file.resolve().parent), "-cn", config_file.stem]
    call = [sys.executable, "-m", "nequip.scripts.train", *place, *own, *arguments]
    done = subprocess.run(call, stdout=_STANDARD_ERROR)
    if done.returncode:
        raise HostError(f"{config_file}: nequip-train ended with status {done.returncode}; its messages stand above")
    runs = settings.get("run") or []
    if "train" not in ([runs] if isinstance(runs, str) else runs):
        return None
    written = newest_checkpoint(folder)
    model = load_checkpoint(written)
    facts = {**_data_facts(settings, arguments), "training": {"host_checkpoint": written.name}, **(metadata or {})}
    return checkpoint.save(model, folder / f"{config_file.stem}.les", "nequip", facts, _training_frames(written, model))


def load_checkpoint(path: Path) -> nn.Module:
    """The model of a checkpoint of NequIP (weights of its moving average where it keeps one), ready to be saved.

    Args:
        path: a `.ckpt` file; it is a pickle: load files only that you trust.
    """
    if not global_state_initialized():
        set_global_state()
    model: nn.Module = load_saved_model(str(path))
    if getattr(model, "host_section", None) is None:
        model.host_section = checkpoint_section(path)
    return model.eval()


def read_config(config_file: Path) -> dict[str, Any]:
    """NequIP's settings of a YAML file, not resolved; a `long_range:` section in them is checked."""
    settings = read_yaml(config_file)
    module = settings.get("training_module")
    model = module.get("model") if isinstance(module, dict) else None
    if not isinstance(model, dict):
        raise ConfigError(f"{config_file}: training_module.model is missing, the section with the model's _target_")
    section = model.get("long_range")
    if model.get("_target_") == TARGET and section is not None and "${" not in str(section):
        LongRangeConfig.parse(section, f"{config_file}: training_module.model.long_range")
    if "long_range" in settings and "${long_range" not in str(model):
        raise ConfigError(
            f"{config_file}: long_range stands at the top, where NequIP does not read it; write it into "
            f"training_module.model beside _target_: {TARGET}"
        )
    trainer = settings.get("trainer") or {}
    every = trainer.get("check_val_every_n_epoch", 1) if isinstance(trainer, dict) else 1
    if "EMALightningModule" in str(settings["training_module"].get("_target_")) and every != 1:
        raise ConfigError(
            f"{config_file}: trainer.check_val_every_n_epoch is {every}; EMALightningModule of NequIP allows 1 only: "
            "with others it writes checkpoints that it cannot read"
        )
    return settings


def run_directory(config_file: Path, arguments: Sequence[str]) -> Path:
    """The folder of a run: that of a `hydra.run.dir=` override, or a new one under outputs/."""
    for item in arguments:
        if item.startswith("hydra.run.dir="):
            return Path(item.split("=", 1)[1]).resolve()
    return Path("outputs", config_file.stem, datetime.now().strftime("%Y-%m-%d_%H-%M-%S")).resolve()


def newest_checkpoint(folder: Path) -> Path:
    """The checkpoint that NequIP wrote: the newest called best*, else the newest."""
    found = sorted(folder.rglob("*.ckpt"), key=lambda path: (path.name.startswith("best"), path.stat().st_mtime))
    if not found:
        raise HostError(
            f"nequip-train wrote no checkpoint under {folder}: add lightning.pytorch.callbacks.ModelCheckpoint with "
            "dirpath: ${hydra:runtime.output_dir} to trainer.callbacks"
        )
    return found[-1]


def _data_facts(settings: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """Names and hashes of the files of ASEDataModule that config or overrides name by their plain paths."""
    overrides = dict(item.removeprefix("data.").split("=", 1) for item in arguments if item.startswith("data."))
    data, facts = {**(settings.get("data") or {}), **overrides}, {}
    for kind, key in (("training_data", "train_file_path"), ("validation_data", "val_file_path")):
        given = data.get(key) or []
        paths = [Path(item) for item in ([given] if isinstance(given, str) else given)]
        facts[kind] = [{"file": path.name, "sha256": checkpoint.sha256(path)} for path in paths if path.is_file()]
    return facts


def _training_frames(path: Path, model: nn.Module) -> list[Atoms]:
    """One training structure, from whose Born charges the sign convention is read off."""
    data = data_dict_from_checkpoint(str(path))
    symbols = [model.type_names[int(kind)] for kind in data[AtomicDataDict.ATOM_TYPE_KEY]]
    pbc = data[AtomicDataDict.PBC_KEY].view(3).numpy()
    cell = data[AtomicDataDict.CELL_KEY].view(3, 3).numpy() if pbc.any() else None
    return [Atoms(symbols, data[AtomicDataDict.POSITIONS_KEY].detach().numpy(), cell=cell, pbc=pbc)]
