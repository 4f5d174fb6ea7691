"""What a host framework is to les-plugins: `Host`, and what it says, gives and takes. Imports no host and no plugin."""

from __future__ import annotations

import importlib
import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from les_plugins.errors import HostError, how_to_install

if TYPE_CHECKING:
    from torch import Tensor, nn

    from les_plugins.config import LongRangeConfig
    from les_plugins.hosting.domains import DomainModel
    from les_plugins.hosting.pretrained import Pretrained

#: Version of the interface below; a `Host` written for another one is listed with this problem and not used.
API_VERSION = 1


@dataclass(frozen=True)
class HostInfo:
    """A host framework as it is found on this machine.

    Attributes:
        name: short name, as in `les-plugins train NAME`.
        distribution: what pip calls it.
        supported: version range that the adapter was written for, as in a requirement.
        version: installed version, or None.
        problem: one line that says why it cannot be used, or None.
        extra: extra of les-plugins that installs it, or None for a third party's.
        compile_targets: what its models can be compiled to, as its adapter says; empty when eager is all there is.
    """

    name: str
    distribution: str
    supported: str
    version: str | None = None
    problem: str | None = None
    extra: str | None = None
    compile_targets: tuple[str, ...] = ()

    @property
    def available(self) -> bool:
        """Whether the host can be used."""
        return self.problem is None

    @classmethod
    def of_distribution(cls, name: str, distribution: str, supported: str, extra: str | None = None) -> HostInfo:
        """Look a distribution up in the installed packages, without importing it."""
        from packaging.specifiers import SpecifierSet

        hint = how_to_install(extra) if extra else f"pip install '{distribution}{supported}'"
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            return cls(name, distribution, supported, None, f"{distribution} is not installed: {hint}", extra)
        problem = None
        if not SpecifierSet(supported).contains(version, prereleases=True):
            problem = f"{distribution} {version} is installed, supported is {supported}: {hint}"
        return cls(name, distribution, supported, version, problem, extra)


@dataclass(frozen=True)
class HostState:
    """A model taken apart for a checkpoint.

    Attributes:
        host: name of the host.
        versions: version of the host and of what its tensors depend on, by distribution.
        model: JSON-compatible arguments that rebuild the host's own model.
        long_range: the `long_range:` section, or None for a short-range model.
        tensors: every parameter and buffer, by name.
        extra: JSON-compatible facts to be kept beside them.
        cast: whether tensors are to be cast to the floating-point type of the model that is built.
    """

    host: str
    versions: Mapping[str, str]
    model: Mapping[str, Any]
    long_range: LongRangeConfig | None
    tensors: Mapping[str, Tensor]
    extra: Mapping[str, Any] = field(default_factory=dict)
    cast: bool = False


@dataclass(frozen=True)
class Part:
    """Heads, a solver or a response, and who provides it; a checkpoint keeps one for each.

    Attributes:
        name: as in the section: `heads: NAME`, `run: {method: NAME}`, `response: {solve: NAME}`.
        provider: distribution that it comes from.
        version: of that distribution, or "?" where it has none.
    """

    name: str
    provider: str
    version: str


class Host(ABC):
    """One host framework. A plugin returns its hosts from the hook `les_hosts`; nothing here may import a host early.

    A method that a host does not implement raises HostError, which says what is missing.

    Attributes:
        api_version: version of this interface that the class was written for.
        name: short name, as in `les-plugins train NAME`.
        compile_targets: what its models can be compiled to, here or by its own commands.
        resume_options: options with which an interrupted training goes on from the host's own last state.
        resume_hint: what else has to be written for it, as the end of a sentence.
        dtype_key: key of a state's `model` with the floating-point type that the model is built in.
    """

    api_version: ClassVar[int] = 1
    name: str
    compile_targets: tuple[str, ...] = ()
    resume_options: tuple[str, ...] = ()
    resume_hint: str = ""
    dtype_key: str = "dtype"

    @abstractmethod
    def info(self) -> HostInfo:
        """Name, distribution, supported and installed version, and why the host cannot be used if it cannot.

        Called before anything else, by `les-plugins hosts` too; must not import the host.
        """

    @abstractmethod
    def attach(self, model: nn.Module, config: LongRangeConfig) -> nn.Module | None:
        """Put a long-range part behind a host model; called by `les_plugins.attach`, for each host in turn.

        Args:
            model: a model of any host.
            config: the `long_range:` section.

        Returns:
            The host's own kind of model, long-range energy in its total and per-atom energies; None for another host's.
        """

    @abstractmethod
    def calculator(self, model: nn.Module, metadata: Mapping[str, Any], device: str) -> Any:
        """The ASE calculator of a model; called by `les_plugins.load`.

        Args:
            model: a model with a long-range part, or a bare one.
            metadata: the checkpoint's config.json.
            device: name of a torch device that exists.

        Returns:
            An ASE calculator with energy, forces, stress, and the properties of `hosting.calculator`.
        """

    @abstractmethod
    def state(self, model: nn.Module) -> HostState:
        """Take a model apart for a checkpoint; called by `les_plugins.save`.

        Args:
            model: a model with a long-range part, or a bare one.

        Returns:
            JSON-compatible arguments of the host's model, all tensors with buffers, and the section.
        """

    @abstractmethod
    def rebuild(self, state: HostState) -> nn.Module:
        """Put a model together from a checkpoint; called by `les_plugins.load`. No code may come from the checkpoint.

        Args:
            state: what `state` returned, read back from disk.

        Returns:
            The model, on the CPU, in its own dtype.

        Raises:
            CheckpointError: a tensor is missing, unknown, or of another shape or type.
        """

    def train(self, config_file: Path, arguments: Sequence[str], metadata: Mapping[str, Any]) -> Path | None:
        """Train with the host's own trainer; called by `les-plugins train NAME`. Optional.

        Args:
            config_file: the host's own config file, with a `long_range:` section or without.
            arguments: further options in the host's own syntax.
            metadata: facts to keep in the checkpoint, such as the command and the licence of the data.

        Returns:
            The checkpoint that was written, or None when the host's options asked for no training.
        """
        raise self._lacks("trainer", "train")

    def compile(
        self,
        model: nn.Module,
        output: Path,
        static_cell: tuple[float, float, float] | None,
        device: str,
        metadata: Mapping[str, Any],
        target: str | None = None,
    ) -> Path:
        """Compile a model and write it to a file; called by `les-plugins compile`. Optional.

        Args:
            model: a model with a long-range part; it is not changed.
            output: the file to write.
            static_cell: longest lattice vectors to be covered, Å; None for those of the model's own section.
            device: torch device that the file is to run on.
            metadata: JSON-compatible facts to keep in the file, such as the hash of the checkpoint.
            target: one of `compile_targets`, the first when None; hosts with one target need not take the argument.

        Returns:
            The file.
        """
        raise self._lacks("compiler", "compile")

    def domain_model(self, model: nn.Module, metadata: Mapping[str, Any]) -> DomainModel:
        """The model on a part of a structure, with ghosts; called by `les-plugins lammps` on several ranks. Optional.

        Args:
            model: a model with a long-range part, or a bare one, in the dtype that it is to compute with.
            metadata: the checkpoint's config.json.

        Returns:
            What gives the energies and features of own atoms, and exchanges those of ghosts.
        """
        raise self._lacks("model of domains with ghosts", "domain_model")

    def pretrained(self, name: str, device: str, modality: str | None = None) -> Pretrained:
        """A model of the host's own, as it is; called by `les-plugins distill HOST:NAME`. Optional.

        Args:
            name: of a model whose weights lie in the host's package, or the path of a file of the host's own. Such a
                file may be a pickle, which can run any code: the name comes from the user's command line only.
            device: torch device.
            modality: level of theory, of a model that has several.

        Raises:
            HostError: no such model or modality; names those there are.
        """
        raise self._lacks("models to learn from", "pretrained")

    def contract(self) -> Sequence[type]:
        """The adapter contract on tiny models of this host; called by `les-plugins check NAME`. Optional.

        Returns:
            Subclasses of `les_plugins.testing.AdapterContract`, one for each kind of model, told apart by `model_name`.
        """
        raise self._lacks("contract", "contract")

    def offers(self, method: str) -> bool:
        """Whether the host implements one of the methods above, given by its name."""
        return getattr(type(self), method) is not getattr(Host, method)

    def _lacks(self, what: str, method: str) -> HostError:
        offered = ", ".join(name for name in METHODS if self.offers(name))
        return HostError(f"{self.name} has no {what}: its adapter does not implement {method}; it implements {offered}")


#: Methods of a host that les-plugins calls.
METHODS = (
    "info",
    "attach",
    "calculator",
    "state",
    "rebuild",
    "train",
    "compile",
    "domain_model",
    "pretrained",
    "contract",
)


class PackagedHost(Host):
    """A host that is a distribution of its own, and whose methods are functions in other modules, imported when called.

    Attributes:
        distribution: what pip calls it.
        supported: version range that the adapter was written for, as in a requirement.
        extra: extra of les-plugins that installs it, or None for a third party's.
        packages: import names of the packages that its models' classes are defined in.
        parts: method → "module:attribute". The attribute takes the arguments of the method by name; of "contract" it is
            a class or a sequence of classes.
    """

    distribution: ClassVar[str]
    supported: ClassVar[str]
    extra: ClassVar[str | None] = None
    packages: ClassVar[tuple[str, ...]] = ()
    parts: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        unknown = [name for name in cls.parts if name not in METHODS[1:]]
        if unknown:
            raise TypeError(f"{cls.__name__}.parts has {unknown[0]!r}; allowed: {', '.join(METHODS[1:])}")

    def info(self) -> HostInfo:
        """What is installed of the distribution."""
        return HostInfo.of_distribution(self.name, self.distribution, self.supported, self.extra)

    def is_own(self, model: nn.Module) -> bool:
        """Whether a model is one of this host's; by default, whether its class or a base of it is from `packages`."""
        return any(kind.__module__.partition(".")[0] in self.packages for kind in type(model).__mro__)

    def attach(self, model: nn.Module, config: LongRangeConfig) -> nn.Module | None:
        """Done by `parts`; None for a model that is not the host's own."""
        attached: nn.Module | None = self._part("attach")(model=model, config=config) if self.is_own(model) else None
        return attached

    def calculator(self, model: nn.Module, metadata: Mapping[str, Any], device: str) -> Any:
        """Done by `parts`."""
        return self._part("calculator")(model=model, metadata=metadata, device=device)

    def state(self, model: nn.Module) -> HostState:
        """Done by `parts`."""
        state: HostState = self._part("state")(model=model)
        return state

    def rebuild(self, state: HostState) -> nn.Module:
        """Done by `parts`."""
        model: nn.Module = self._part("rebuild")(state=state)
        return model

    def train(self, config_file: Path, arguments: Sequence[str], metadata: Mapping[str, Any]) -> Path | None:
        """Done by `parts`."""
        path: Path | None = self._part("train")(config_file=config_file, arguments=arguments, metadata=metadata)
        return path

    def compile(
        self,
        model: nn.Module,
        output: Path,
        static_cell: tuple[float, float, float] | None,
        device: str,
        metadata: Mapping[str, Any],
        target: str | None = None,
    ) -> Path:
        """Done by `parts`."""
        options: dict[str, Any] = {"static_cell": static_cell, "device": device, "metadata": metadata}
        if target is not None:
            options["target"] = target
        path: Path = self._part("compile")(model=model, output=output, **options)
        return path

    def domain_model(self, model: nn.Module, metadata: Mapping[str, Any]) -> DomainModel:
        """Done by `parts`."""
        made: DomainModel = self._part("domain_model")(model=model, metadata=metadata)
        return made

    def pretrained(self, name: str, device: str, modality: str | None = None) -> Pretrained:
        """Done by `parts`."""
        found: Pretrained = self._part("pretrained")(name=name, device=device, modality=modality)
        return found

    def contract(self) -> Sequence[type]:
        """Done by `parts`."""
        found = self._part("contract")
        return [found] if isinstance(found, type) else list(found)

    def offers(self, method: str) -> bool:
        """Whether the host implements a method, given by its name: in `parts`, or in a class of its own."""
        implemented = getattr(type(self), method)
        return method in self.parts or implemented not in (getattr(Host, method), _BY_PARTS.get(method))

    def _part(self, method: str) -> Any:
        if method not in self.parts:
            raise self._lacks(_WORDS.get(method, method), method)
        module, _, attribute = self.parts[method].partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except AttributeError as error:
            raise HostError(
                f"{self.name}: {type(self).__name__}.parts has {method}: {self.parts[method]!r}; expected "
                f'"module:attribute" ({error})'
            ) from error


_WORDS = {
    "train": "trainer",
    "compile": "compiler",
    "domain_model": "model of domains with ghosts",
    "pretrained": "models to learn from",
}
_BY_PARTS = {name: vars(PackagedHost)[name] for name in METHODS[1:]}
