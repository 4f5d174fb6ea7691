"""`les-plugins train mace`: MACE's own trainer, unchanged but for the model that it is given.

MACE names no plugin point for the model, so its `run` is called with one function substituted for that call:
`mace.cli.run_train.configure_model`. The version range of the adapter and a test guard the seam.
"""

from __future__ import annotations

import ast
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from mace.cli import run_train
from mace.tools import build_default_arg_parser
from torch import nn

from les_plugins import checkpoint, frames
from les_plugins.adapters.mace.model import LongRangeMACE, attach_long_range
from les_plugins.config import LongRangeConfig
from les_plugins.devices import check_device
from les_plugins.errors import ConfigError, HostError
from les_plugins.gauge import fix_gauge

SECTION = "long_range"
#: Frames of the training set from which the sign convention of the latent charges is read off.
GAUGE_FRAMES = 16


def train(config_file: Path, arguments: Sequence[str], metadata: Mapping[str, Any] | None = None) -> Path | None:
    """Train as `mace_run_train --config FILE ARGUMENTS` does, with the file's `long_range:` section in the model.

    Args:
        config_file: MACE's YAML file; without a `long_range:` section the model is MACE's alone.
        arguments: MACE's own command-line options, which override the file.
        metadata: facts to keep in the checkpoint.

    Returns:
        The checkpoint folder `<model_dir>/<name>.les`, or None after a dry run.

    Raises:
        ConfigError: unknown keys in the file, a `long_range:` section that cannot be used, or an unsupported option.
        DataError: training or validation frames that cannot be used.
        DeviceError: a device that this machine does not have.
    """
    settings, section = split_config(config_file)
    long_range = None if section is None else LongRangeConfig.parse(section, f"{config_file}: {SECTION}")
    args = parse_arguments(settings, arguments, config_file)
    _refuse_unsupported(args, long_range)
    check_device(args.device)
    data_files = _check_data(args)

    with model_seam(long_range) as built:
        run_train.run(args)
    if args.dry_run or built.model is None or not _is_first_process():
        return None
    fix_gauge(built.model, _charges_of_elements(built))
    facts = {
        "training_data": [{"file": path.name, "sha256": checkpoint.sha256(path)} for path in data_files["train"]],
        "validation_data": [{"file": path.name, "sha256": checkpoint.sha256(path)} for path in data_files["valid"]],
        "training": {"host_options": _plain(vars(args))},
        **(metadata or {}),
    }
    return checkpoint.save(built.model, Path(args.model_dir) / f"{args.name}.les", "mace", facts)


def split_config(config_file: Path) -> tuple[dict[str, Any], Any]:
    """MACE's own settings and the `long_range:` section (None when absent) of a YAML file."""
    try:
        text = config_file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{config_file}: cannot be read: {error.strerror}") from None
    try:
        settings = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{config_file}: not valid YAML: {error}") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{config_file}: expected keys and values, got {type(settings).__name__}")
    if SECTION not in settings:
        return settings, None
    section = settings.pop(SECTION)
    return settings, {} if section is None else section


def parse_arguments(settings: Mapping[str, Any], arguments: Sequence[str], config_file: Path) -> Any:
    """MACE's argument namespace of its settings and further command-line options."""
    parser = build_default_arg_parser()
    known = {option.lstrip("-") for action in parser._actions for option in action.option_strings}
    unknown = [key for key in settings if str(key) not in known]
    if unknown:
        raise ConfigError(
            f"{config_file}: unknown key {unknown[0]!r}{_nearest(unknown[0], known)}; allowed: MACE's own options "
            f"(mace_run_train --help) and {SECTION}"
        )
    stray = [item for item in arguments if item.startswith("--") and item[2:].split("=")[0] not in known]
    if stray:
        raise ConfigError(f"unknown option {stray[0]!r}{_nearest(stray[0].lstrip('-'), known)}; see mace_run_train --help")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        yaml.safe_dump(dict(settings), file)
        file.flush()
        args = parser.parse_args(["--config", file.name, *arguments])
    args.config = str(config_file)
    return args


class Built:
    """What MACE built while the seam was open: the model that it trains and the loader it trains on."""

    model: nn.Module | None = None
    train_loader: Any = None


@contextmanager
def model_seam(long_range: LongRangeConfig | None) -> Iterator[Built]:
    """While open, every model that MACE's `run` configures gets a long-range part (none for long_range None)."""
    original = run_train.configure_model
    built = Built()

    def configure_model(args: Any, train_loader: Any, *rest: Any, **named: Any) -> tuple[nn.Module, Any]:
        model, output_args = original(args, train_loader, *rest, **named)
        built.train_loader = train_loader
        built.model = model if long_range is None else attach_long_range(model, long_range)
        logging.info("Long-range part: %s", "none" if long_range is None else long_range.to_dict())
        return built.model, output_args

    run_train.configure_model = configure_model
    try:
        yield built
    finally:
        run_train.configure_model = original


def _refuse_unsupported(args: Any, long_range: LongRangeConfig | None) -> None:
    for flag in ("enable_cueq", "enable_oeq", "lora"):
        if long_range is not None and getattr(args, flag, False):
            raise HostError(f"--{flag} converts MACE's own classes only; it cannot be combined with {SECTION} yet")
    if args.model not in ("MACE", "ScaleShiftMACE"):
        raise ConfigError(f"model is {args.model!r}; allowed with les-plugins: MACE, ScaleShiftMACE")


def _check_data(args: Any) -> dict[str, list[Path]]:
    """Every extended-XYZ file the run reads, after a look at each frame: labels present, all numbers finite."""
    files: dict[str, list[Path]] = {"train": [], "valid": []}
    heads = ast.literal_eval(args.heads) if isinstance(args.heads, str) else (args.heads or {"Default": {}})
    for head in heads.values():
        for kind in files:
            given = head.get(f"{kind}_file") or getattr(args, f"{kind}_file")
            for name in [given] if isinstance(given, str) else given or []:
                path = Path(name)
                if path.suffix in (".h5", ".hdf5") or path.is_dir():
                    continue
                frames.check_labels(path, args.energy_key, args.forces_key)
                files[kind].append(path)
    return files


def _charges_of_elements(built: Built) -> dict[int, float]:
    """Mean latent charge of every element over the first training frames."""
    model = built.model
    if not isinstance(model, LongRangeMACE):
        return {}
    device = next(model.parameters()).device
    numbers = model.atomic_numbers.cpu()
    charges, species, frames_seen = [], [], 0
    for batch in built.train_loader:
        output = model(batch.to(device).to_dict(), compute_force=False)
        charge = output["latent_charges"].detach().cpu()
        charges.append(charge if charge.dim() == 1 else charge.sum(1))
        species.append(numbers[batch["node_attrs"].argmax(1).cpu()])
        frames_seen += int(batch["ptr"].numel()) - 1
        if frames_seen >= GAUGE_FRAMES:
            break
    all_charges, all_species = torch.cat(charges), torch.cat(species)
    return {int(z): float(all_charges[all_species == z].mean()) for z in all_species.unique()}


def _is_first_process() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that say how a model was trained, in JSON types; paths and keys of one machine are left out."""
    kept = {}
    for key, value in options.items():
        if isinstance(value, bool | int | float) or (
            isinstance(value, str) and "/" not in value and not key.startswith("wandb")
        ):
            kept[key] = value
    return kept


def _nearest(name: Any, known: set[str]) -> str:
    import difflib

    close = difflib.get_close_matches(str(name), sorted(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
