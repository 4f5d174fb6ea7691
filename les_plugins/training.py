"""`TrainingRun`: from a host's config file to a checkpoint, the steps that every trainer has in common, in order."""

from __future__ import annotations

import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

from ase import Atoms
from torch import nn

from les_plugins import api
from les_plugins.config import LongRangeConfig
from les_plugins.data.teachers import NOT_STATED, infos_of_files, licences_of, teachers_of
from les_plugins.data.training import TrainingFiles
from les_plugins.errors import ConfigError, HostError, LesPluginsWarning, in_one_line
from les_plugins.hosting.build import parse_section
from les_plugins.hosting.section_name import SECTION, refuse_near_misses
from les_plugins.io.documents import read_yaml
from les_plugins.model.frozen import freeze
from les_plugins.model.long_range import LongRange
from les_plugins.model.outputs import section_of
from les_plugins.model.response_config import RESPONSE_SECTION, ResponseLossConfig
from les_plugins.storage.checkpoint import check_target
from les_plugins.storage.licences import joined, with_start
from les_plugins.storage.training import check_keys, file_facts, fitting, plain_options, saving


class TrainingRun(ABC):
    """One `les-plugins train HOST`. An adapter says what is its host's own; `Host.train` is the class's `train`.

    Args:
        config_file: the host's own config file, with a `long_range:` section or without.
        arguments: further options in the host's own syntax.
        metadata: facts to keep in the checkpoint.

    Attributes:
        host: name of the host.
        program: its trainer, as messages call it.
        own_sections: places in the host's file where a `long_range` of the host's own may stand: "architecture.model".
        keys: keys that the host's file may have beside the section; None where the host itself checks them.
        freezes: whether the adapter calls `model.frozen.freeze` before the host trains.
        settings: the file without the section.
        long_range: the section; None for a short-range model.
        response: the `response_loss:` section of a host that reads it, or None.
        data: what the structure files hold; for a host that reads several.
        frames: the training set, or structures from all over it.
        facts: what the checkpoint keeps of the training beside the options, such as the last errors.
        folder: where the host keeps what it writes; the checkpoint is put beside it, see `target`.
        temporary: a folder that is gone afterwards, for files that the host is to read in place of the user's.
        stopped: what the host failed with after it had trained the model.
    """

    host: ClassVar[str]
    program: ClassVar[str] = "the trainer"
    own_sections: ClassVar[tuple[str, ...]] = ()
    keys: ClassVar[tuple[str, ...] | None] = None
    freezes: ClassVar[bool] = False

    def __init__(
        self, config_file: Path, arguments: Sequence[str] = (), metadata: Mapping[str, Any] | None = None
    ) -> None:
        self.config_file, self.arguments, self.metadata = Path(config_file), tuple(arguments), dict(metadata or {})
        self.settings: dict[str, Any] = {}
        self.long_range: LongRangeConfig | None = None
        self.response: ResponseLossConfig | None = None
        self.data = TrainingFiles()
        self.frames: Sequence[Atoms] = ()
        self.facts: dict[str, Any] = {}
        self.folder = self.temporary = Path()
        self.stopped: Exception | None = None

    @classmethod
    def train(
        cls, config_file: Path, arguments: Sequence[str] = (), metadata: Mapping[str, Any] | None = None
    ) -> Path | None:
        """`Host.train` of an adapter; arguments as of the class, results and errors as of `run`."""
        return cls(config_file, arguments, metadata).run()

    @final
    def run(self) -> Path | None:
        """The checkpoint that was written, or None where nothing was trained.

        Raises:
            ConfigError: a misspelt or unknown key, or a section that cannot be used; names key and file.
            CheckpointError: something else stands where the checkpoint is to be written.
            DataError: frames that cannot be used.
            DeviceError: a device that this machine does not have.
            HostError: the host's trainer failed, or the trained model could not be saved; says which files of the
                host's own hold it.

        Warns:
            LesPluginsWarning: no structure tells the sign of the charges.
        """
        self.settings = read_yaml(self.config_file)
        with tempfile.TemporaryDirectory() as folder:
            self.temporary = Path(folder)
            return self._run()

    def _run(self) -> Path | None:
        self.split()
        self._check_screening()
        self._check_frozen()
        target = self.target()
        check_target(target)  # before hours of training, not after
        self.frames = self.read_frames()
        if self.is_long_range():
            self.data.check_boundaries()
        self.data.check_charges_and_spins(self.reads_total_charge())
        self._note_licence()
        if self.frames and not self.data.unread:
            self.facts["elements"] = sorted({symbol for atoms in self.frames for symbol in atoms.symbols})
        files = file_facts(*self.files())
        with fitting(self.program, self.config_file):
            model = self.fit()
        if model is None:
            return None
        if not self.frames and any(isinstance(part, LongRange) for part in model.modules()):
            text = "the sign of the charges is not decided: no structure of the training set can be evaluated"
            warnings.warn(text, LesPluginsWarning, 4)
        training = {"host_options": plain_options(self.options()), **self.facts}
        facts = {**files, "training": training, **self.metadata}
        with saving(target, self.kept()):
            path = api.save(model, target, self.host, facts, self.frames)
        if self.stopped is not None:
            raise HostError(
                f"{self.config_file}: {self.program} stopped with {in_one_line(self.stopped)}; the training had come "
                f"to its end, and its model is in {path}"
            ) from self.stopped
        return path

    def _note_licence(self) -> None:
        """What labelled the frames, and the licences of all that the model comes from: nothing takes the place of one.

        What the user states is the licence of frames without a teacher.
        """
        infos = infos_of_files(self.files()[0]) or [atoms.info for atoms in self.frames]
        if teachers := teachers_of(infos):
            self.facts["teachers"] = teachers
        own, taught, starts = self.metadata.get("data_licence"), licences_of(infos), self.begins_with()
        if own is None and not taught and not starts:
            return
        all_taught = taught and all(info.get("teacher") for info in infos)
        licence = joined([*([] if all_taught and own in (None, NOT_STATED) else [own or NOT_STATED]), *taught])
        for name, of_start in starts.items():
            licence = with_start(licence, name, of_start)
        self.metadata["data_licence"] = licence

    def _check_screening(self) -> None:
        """Energies and forces do not see it: without labels of response it would stay where it began."""
        if self.response is None and self.long_range is not None and self.long_range.screening == "trained":
            raise ConfigError(
                f"{self.config_file}: {SECTION}.screening is trained, and the file has no {RESPONSE_SECTION} that "
                "trains it; allowed without: fixed"
            )

    def _check_frozen(self) -> None:
        """An adapter that does not read the key would train everything."""
        if self.long_range is None or self.freezes or self.long_range.run.train_only == "all":
            return
        raise ConfigError(
            f"{self.config_file}: {SECTION}.run.train_only is {self.long_range.run.train_only}, and the adapter of "
            f"{self.host} freezes nothing; allowed: all"
        )

    def split(self) -> None:
        """Take the section out of the settings, and check both; extended where a host has more sections of ours."""
        places = {"", *self.own_sections}
        refuse_near_misses(
            self.settings,
            str(self.config_file),
            lambda path, section: ".".join(path) in places,
            host_keys=self.names(),
        )
        if SECTION in self.settings:
            section = self.settings.pop(SECTION)
            self.long_range = parse_section({} if section is None else section, f"{self.config_file}: {SECTION}")
        if self.keys is not None:
            check_keys(self.settings, (*self.keys, SECTION), str(self.config_file))

    def target(self) -> Path:
        """The checkpoint folder to write; by default `folder` with `.les` behind its name."""
        return self.folder.with_name(f"{self.folder.name}.les")

    def with_long_range(
        self, model: nn.Module, last_layer: Callable[[Any], Iterable[nn.Module]], where: str
    ) -> nn.Module:
        """A new or loaded model with the part of the section, frozen as the section says.

        Args:
            model: of the host, with a long-range part or without.
            last_layer: the modules of such a model that count as its last layer.
            where: what the model was loaded by, for the message.

        Raises:
            ConfigError: the model has a part of another section, or the file has no section for it.
        """
        own = section_of(model)
        if own is None and self.long_range is not None:
            model = api.attach(model, self.long_range)
        elif own is not None and not own.same_model(self.long_range):
            raise ConfigError(f"{where} has a long-range part of another {SECTION} section: {own.to_dict()}")
        if self.long_range is not None:
            freeze(model, self.long_range.run.train_only, last_layer(model))
        return model

    @abstractmethod
    def read_frames(self) -> Sequence[Atoms]:
        """The training set, its labels checked (`data.training`); the sign of the moments is read off it."""

    @abstractmethod
    def fit(self) -> nn.Module | None:
        """Train with the host's own trainer.

        Returns:
            The model with its long-range part; None where the options ask for no training, or where another process
            of the run writes the checkpoint.
        """

    def names(self) -> Collection[str]:
        """Keys of the user's own choice in the settings, which may look like ours and are not."""
        return ()

    def is_long_range(self) -> bool:
        """Whether the model that is trained has a long-range part."""
        return self.long_range is not None

    def reads_total_charge(self) -> bool:
        """Whether the model that is trained reads the total charge of a structure."""
        return self.long_range is not None and self.long_range.total_charge == "given"

    def begins_with(self) -> Mapping[str, str | None]:
        """Models that the training begins with: name → its licence, or None where nothing states it."""
        return {}

    def files(self) -> tuple[Iterable[Path], Iterable[Path]]:
        """Files of the training set and of the validation set, whose hashes the checkpoint keeps."""
        return [*self.data.train, *self.data.unread], self.data.valid

    def options(self) -> Mapping[str, Any]:
        """What the host was told; the checkpoint keeps it, without paths."""
        return self.settings

    def kept(self) -> Iterable[Path]:
        """Files of the host's own that hold the trained model."""
        return ()

    def path(self, key: str) -> Path:
        """A file that the settings name, relative to the config file."""
        return self.config_file.parent / str(self.settings[key])
