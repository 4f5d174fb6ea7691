"""Checkpoints: a folder of config.json, weights.safetensors and manifest.json. No pickle, nothing in it is executed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from les_plugins.config import LongRangeConfig
from les_plugins.errors import CheckpointError, ConfigError, quoted
from les_plugins.hosting.build import check_parts
from les_plugins.hosting.types import HostState, Part
from les_plugins.io.documents import read_json
from les_plugins.io.folders import replacing
from les_plugins.version import __version__

FORMAT = "les-plugins checkpoint"
FORMAT_VERSION = 1
CONFIG, WEIGHTS, MANIFEST = "config.json", "weights.safetensors", "manifest.json"
UNITS = {"length": "Å", "energy": "eV", "charge": "e"}


def write(
    folder: Path,
    state: HostState,
    metadata: Mapping[str, Any],
    parts: Mapping[str, Part],
    susceptibility: float | None = None,
) -> None:
    """Write a model to a checkpoint folder, which appears whole or not at all.

    Args:
        folder: made if needed; an existing checkpoint or link in its place is replaced.
        state: the model, taken apart by its host.
        metadata: JSON-compatible facts to keep; NaN and infinity, which JSON has not, are written as null.
        parts: heads, solver and response of its section, and who provides them; empty for a short-range model.
        susceptibility: mean electronic susceptibility of the training set, or None.

    Raises:
        CheckpointError: the folder holds other files or cannot be written, or a tensor is not finite.
    """
    check_target(folder)
    for name, tensor in state.tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise CheckpointError(f"{folder}: the tensor {name!r} holds NaN or infinity, the model is not saved")
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "les_plugins": __version__,
        "host": state.host,
        "versions": dict(state.versions),
        "units": UNITS,
        "long_range": None if state.long_range is None else state.long_range.to_dict(),
        "epsilon_infinity": None if state.long_range is None else state.long_range.epsilon_infinity,
        "susceptibility": susceptibility,
        "parts": {kind: asdict(part) for kind, part in parts.items()},
        "model": dict(state.model),
        "metadata": _with_null({**state.extra, **metadata}),
    }
    try:
        text = json.dumps(config, indent=1, ensure_ascii=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: metadata must be JSON-compatible: {error}") from None
    try:
        with replacing(folder) as new:
            (new / CONFIG).write_text(text, encoding="utf-8")
            save_file(dict(state.tensors), new / WEIGHTS, metadata={"format": FORMAT})
            hashes = {name: sha256(new / name) for name in (CONFIG, WEIGHTS)}
            manifest = {"format": FORMAT, "format_version": FORMAT_VERSION, "sha256": hashes}
            (new / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be written: {getattr(error, 'strerror', None) or error}") from None


def check_target(folder: str | Path) -> None:
    """Raise CheckpointError where a checkpoint cannot be written because something else stands there.

    Called by trainers before they begin: after hours of training it is too late.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or _strangers(folder)):
        raise CheckpointError(f"{folder} exists and is not a checkpoint: choose another path")


def read(folder: Path) -> tuple[HostState, dict[str, Any]]:
    """State and config of a checkpoint folder (`zoo.find_folder`); loads no host.

    Raises:
        CheckpointError: not a checkpoint, a changed byte, a missing file, an unsupported format, or a part that is not
            installed.
    """
    verify(folder)
    config = read_config(folder)
    section = config["long_range"]
    try:
        long_range = None if section is None else LongRangeConfig.parse(section, f"{folder / CONFIG}: long_range")
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    epsilon = None if long_range is None else long_range.epsilon_infinity
    if config["epsilon_infinity"] != epsilon:
        given = config["epsilon_infinity"]
        raise CheckpointError(f"{folder / CONFIG}: epsilon_infinity is {given}, in long_range it is {epsilon}")
    if long_range is not None:
        check_parts(config.get("parts"), long_range, str(folder / CONFIG))
    try:
        tensors = load_file(folder / WEIGHTS, device="cpu")
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{folder / WEIGHTS} cannot be read: {error}") from None
    return HostState(
        config["host"], config["versions"], config["model"], long_range, tensors, config["metadata"]
    ), config


def verify(folder: Path) -> None:
    """Compare both files with the manifest, byte for byte by SHA-256; CheckpointError where they differ."""
    manifest = read_json(folder / MANIFEST)
    _check_format(manifest, folder / MANIFEST)
    hashes = manifest.get("sha256")
    if not isinstance(hashes, dict) or set(hashes) != {CONFIG, WEIGHTS}:
        raise CheckpointError(f"{folder / MANIFEST}: sha256 must list {CONFIG} and {WEIGHTS}")
    for name, expected in hashes.items():
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing")
        try:
            found = sha256(folder / name)
        except OSError as error:
            raise CheckpointError(f"{folder / name} cannot be read: {error.strerror or error}") from None
        if found != expected:
            raise CheckpointError(
                f"{folder / name} has been changed: its SHA-256 is {found[:16]}…, "
                f"the manifest says {str(expected)[:16]}…"
            )


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint folder, its format checked; loads no weights and no host."""
    config = read_json(folder / CONFIG)
    _check_format(config, folder / CONFIG)
    for key, kind in (("host", str), ("versions", dict), ("model", dict), ("metadata", dict)):
        if not isinstance(config.get(key), kind):
            raise CheckpointError(f"{folder / CONFIG}: {key} is missing or not a {kind.__name__}")
    for key in ("long_range", "epsilon_infinity"):
        if key not in config:
            raise CheckpointError(f"{folder / CONFIG}: {key} is missing")
    for key in ("epsilon_infinity", "susceptibility"):
        value = config.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value)):
            raise CheckpointError(f"{folder / CONFIG}: {key} is {quoted(value)}; expected a finite number or null")
    return config


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy every tensor into place; all of them must be there, none more, each of the model's own shape.

    Called by adapters that rebuild a model. What a module keeps beside its tensors (`get_extra_state`) stays what the
    description made of it.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another shape or type; says which.
    """
    made = model.state_dict()
    own = {name: value for name, value in made.items() if isinstance(value, Tensor)}
    for problem, names in (("is missing", own.keys() - tensors.keys()), ("is unknown", tensors.keys() - own.keys())):
        if names:
            raise CheckpointError(f"weights: {quoted(sorted(names)[0])} {problem} ({len(names)} such in all)")
    for name, value in tensors.items():
        if value.shape != own[name].shape:
            raise CheckpointError(
                f"weights: {name!r} has shape {tuple(value.shape)}, expected {tuple(own[name].shape)}"
            )
        if value.dtype != own[name].dtype:
            raise CheckpointError(f"weights: {name!r} is {value.dtype}, expected {own[name].dtype}")
    model.load_state_dict({**made, **tensors})


def _with_null(value: Any) -> Any:
    """A value with null in the place of numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: _with_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_null(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _check_format(document: dict[str, Any], path: Path) -> None:
    if document.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format is {quoted(document.get('format'))}; expected {FORMAT!r}")
    if document.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format_version is {quoted(document.get('format_version'))}; "
            f"this les-plugins ({__version__}) reads {FORMAT_VERSION}"
        )


def _strangers(folder: Path) -> set[str]:
    return {item.name for item in folder.iterdir()} - {CONFIG, WEIGHTS, MANIFEST}
