"""`attach`, `save`, `load`: what a user calls, and the module that knows hosts, checkpoints and the sign of moments."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version
from torch import nn

from les_plugins.committee import Committee, Member, RemoteCalculator, description, is_committee
from les_plugins.committee.remote import python_of, python_variable
from les_plugins.devices import check_device
from les_plugins.errors import CheckpointError, HostError, LesPluginsWarning, quoted, raising
from les_plugins.hosting import registry
from les_plugins.hosting.build import parse_section, parts_of
from les_plugins.hosting.types import Host, HostInfo, HostState
from les_plugins.model.gauge import Sign, change_sign, mean_susceptibility, note_epsilon_infinity, read_sign
from les_plugins.model.outputs import long_range_part
from les_plugins.storage import checkpoint, zoo
from les_plugins.storage.licences import say_licence
from les_plugins.storage.sizes import WeightSizes, building, check_description
from les_plugins.storage.states import in_precision

if TYPE_CHECKING:
    from ase import Atoms

    from les_plugins.config import LongRangeConfig


def attach(model: nn.Module, config: LongRangeConfig | Mapping[str, Any]) -> nn.Module:
    """Add a long-range part to a host model that exists; the host's weights are kept.

    Args:
        model: a model of any supported host.
        config: the `long_range:` section, as a mapping or a `LongRangeConfig`.

    Returns:
        The host's own kind of model: train it, save it, evaluate it as before.

    Raises:
        ConfigError: the section cannot be used as written.
        HostError: no adapter knows this kind of model, or it has a long-range part already.
    """
    parsed = parse_section(config, "attach: long_range")
    if long_range_part(model) is not None:
        raise HostError("this model has a long-range part already")
    for info in registry.hosts():
        if not info.available:
            continue
        attached = registry.host(info.name).attach(model, parsed)
        if attached is not None:
            return attached
    known = ", ".join(f"{info.name} ({info.problem or 'available'})" for info in registry.hosts())
    raise HostError(f"no adapter knows a model of type {type(model).__module__}.{type(model).__name__}; hosts: {known}")


def save(
    model: nn.Module,
    path: str | Path,
    host: str,
    metadata: Mapping[str, Any] | None = None,
    frames: Sequence[Atoms] = (),
) -> Path:
    """Write a model to a checkpoint folder, which appears whole or not at all.

    The model is written first as it is; then the sign of its moments and the susceptibility of its material are read
    off the frames, and it is written again with them. Whatever fails there is a warning, and the model is kept.

    Args:
        model: a host model with its long-range part, or without; it is not changed.
        path: the folder to write; made if needed, an existing checkpoint or link in its place is replaced.
        host: name of the adapter, such as "mace".
        metadata: JSON-compatible facts to keep, such as training data hashes, command, licence of the data.
        frames: structures of the training set, all of them: from the Born charges of some the sign convention is read
            off (electronegative elements are negative, `gauge.read_sign`), from the periodic ones the mean electronic
            susceptibility. Without any the sign stays as training left it, as that of a model with
            `total_charge: given` always does.

    Returns:
        The folder.

    Raises:
        CheckpointError: the folder holds files that are not a checkpoint's or cannot be written, or a tensor is not
            finite.

    Warns:
        LesPluginsWarning: frames were given and the sign could not be decided.
    """
    folder = Path(path)
    checkpoint.check_target(folder)
    owner = registry.host(host)
    state = owner.state(model)
    facts = dict(metadata or {})
    parts = {} if state.long_range is None else parts_of(state.long_range)
    checkpoint.write(folder, state, facts, parts)
    if state.long_range is None or not len(frames):
        return folder
    sign, susceptibility = _sign_and_susceptibility(model, owner, state, frames)
    if not sign.decided:
        warnings.warn(
            f"{folder}: the sign of the charges is not certain ({sign.reason}): look at them before you use them",
            LesPluginsWarning,
            2,
        )
    if sign.turned or state.long_range.screening == "trained":
        final = copy.deepcopy(model)
        if sign.turned:
            change_sign(final)
        if not note_epsilon_infinity(final, susceptibility):
            warnings.warn(
                f"{folder}: epsilon_infinity is not known: no periodic structure of the training set gave χ",
                LesPluginsWarning,
                2,
            )
        state = owner.state(final)
    checkpoint.write(folder, state, {**facts, "gauge": sign.facts()}, parts, susceptibility)
    return folder


def load(path: str | Path, device: str = "cpu", head: str | None = None, dtype: str | None = None) -> Any:
    """ASE calculator of a checkpoint folder, of a model of the zoo, or of a committee of such models.

    Args:
        path: the folder, a name such as "water-mace" (`les-plugins zoo list`), or the file of a committee
            (`les-plugins committee`).
        device: torch device to run on, "cpu" or "cuda"; wherever the checkpoint was saved.
        head: of a model with several heads, the one to use.
        dtype: "float32" or "float64": what the host's network computes in; as it was saved when None. The long-range
            part sums in float64 either way.

    Returns:
        The calculator of its host, with energy, forces, stress, charges, dipole and born_effective_charges; of a
        committee a `Committee`, with the mean over its members and energy_std, forces_std and so on.

    Raises:
        CheckpointError, HostError: see `load_model`; HostError also for a head that the model has not, and
            for another dtype.
        DeviceError: the device does not exist on this machine.
    """
    check_device(device)
    if is_committee(path):
        if head is not None:
            raise HostError(f"head is {head!r}, but {path} is a committee, which has no heads to choose from")
        return _committee(Path(path), device, dtype)
    model, config = load_model(path, dtype)
    host = registry.host(config["host"])
    if head is None:
        return host.calculator(model, config, device)
    calculator = host.calculator(model, {**config, "head": head}, device)
    if getattr(calculator, "head", None) != head:
        raise HostError(f"head is {head!r}, but models of {config['host']} have no heads to choose from")
    return calculator


def load_model(path: str | Path, dtype: str | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """Model, on the CPU, and config of a checkpoint folder, or of a model of the zoo by its name.

    Args:
        path: the folder, or the name.
        dtype: "float32" or "float64"; as it was saved when None.

    Raises:
        CheckpointError: not a checkpoint, a changed byte, a missing file or tensor, an unsupported version, or heads, a
            solver or a response that is not installed; says what to install.
        HostError: the host it was made with is missing or of an unsupported version; says what to install. Or a dtype
            that is not one of the two.

    Warns:
        LesPluginsWarning: once in a process, the licence of the data where it restricts the use of the model.
    """
    folder = zoo.find_folder(path)
    state, config = checkpoint.read(folder)
    host = registry.host(state.host)
    _check_host_version(host.info(), state.versions, folder / checkpoint.CONFIG)
    if dtype is not None:
        state = in_precision(state, host.dtype_key, dtype)
    say_licence(folder, config)
    try:
        return _rebuilt(host, state), config
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None


def load_committee(models: Sequence[str | Path], device: str = "cpu", dtype: str | None = None) -> Committee:
    """The committee of some models, without a file of it.

    Args:
        models: checkpoint folders or names of the zoo, at least two.
        device: torch device of all.
        dtype: "float32" or "float64"; as each was saved when None.

    Raises:
        CheckpointError, HostError, DeviceError: as `load`; HostError also for models that are no committee.
        ConfigError: fewer than two.
    """
    check_device(device)
    return _of_members([Member.of(str(model)) for model in models], device, dtype)


def _committee(path: Path, device: str, dtype: str | None) -> Committee:
    return _of_members(description.read(path), device, dtype)


def _of_members(members: Sequence[Member], device: str, dtype: str | None) -> Committee:
    return Committee(
        [load_member(each, device, dtype) for each in members], [Path(each.model).name for each in members]
    )


def load_member(member: Member, device: str, dtype: str | None) -> Any:
    """The calculator of one model: of another Python where the user named one and its host is not here.

    Args:
        member: the model.
        device: torch device.
        dtype: as of `load`.

    Raises:
        HostError: the host is not installed, and no other Python is named; says which variable names it.
        CheckpointError, DeviceError: see `load`.
    """
    known = {info.name: info for info in registry.hosts()}
    info = known.get(member.host)
    if info is not None and not info.available:
        python = python_of(member.host)
        if python is None:
            raise HostError(
                f"{member.model}: {info.problem or f'{member.host} is not installed'}; where it cannot be installed "
                f"beside the other hosts, set {python_variable(member.host)} to the Python of an environment that has "
                "it and les-plugins"
            )
        return RemoteCalculator(python, str(member.folder), device, dtype)
    return load(member.folder, device, dtype=dtype)


def _sign_and_susceptibility(
    model: nn.Module, host: Host, state: HostState, frames: Sequence[Atoms]
) -> tuple[Sign, float | None]:
    """Sign of the moments and mean susceptibility; whatever goes wrong is told in the sign's reason."""
    given = state.long_range is not None and state.long_range.total_charge == "given"
    # turned charges would answer a given one with the energies and charges of its opposite, whatever frames there are
    sign, susceptibility = Sign(True, reason="of the total charges") if given else Sign(False), None
    try:
        device = next(model.parameters()).device
        # heads of the host share the moments: any of them will do
        metadata = {"head": next(iter(state.extra.get("heads", ())), None)}
        calculator = host.calculator(copy.deepcopy(model), metadata, str(device))
        sign = sign if given else read_sign(calculator, frames)
        # a model that scales given charges has its own
        susceptibility = calculator.reference_susceptibility if given else mean_susceptibility(calculator, frames)
    except Exception as error:  # the model has been written: nothing that happens here may end a training
        sign = sign if sign.decided else Sign(False, reason=f"{type(error).__name__}: {error}")
    return sign, susceptibility


def _rebuilt(host: Host, state: HostState) -> nn.Module:
    """The model of a state, made only after its description was found to be no larger than its tensors."""
    sizes = WeightSizes(state.tensors)
    for name, tensor in state.tensors.items():
        if tensor.element_size() == 1 and tensor.is_floating_point():  # PyTorch has no isfinite for these
            raise CheckpointError(f"weights: {quoted(name)} is {tensor.dtype}, which no host computes with")
        if not bool(tensor.isfinite().all()):
            raise CheckpointError(f"weights: {quoted(name)} holds NaN or infinity")
    check_description(state.model)
    if state.long_range is not None:
        sizes.width("long_range.hidden", state.long_range.hidden)
    # an adapter raises whatever a nonsense argument makes its host
    kind = f"{checkpoint.CONFIG} does not describe a model of this {state.host}"
    with raising(CheckpointError, kind), building(sizes):
        return host.rebuild(state)


def _check_host_version(info: HostInfo, versions: Mapping[str, Any], path: Path) -> None:
    """A host of another version may build another model from the same arguments."""
    saved = versions.get(info.distribution)
    try:
        fits = SpecifierSet(info.supported).contains(Version(str(saved)), prereleases=True)
    except ValueError:  # no version, or one of more digits than Python reads
        fits = False
    if not fits:
        raise CheckpointError(
            f"{path}: saved with {info.distribution} {quoted(saved)}; this adapter reads {info.supported}"
        )
