"""`TrainingRun`: from a host's config file to a checkpoint, the steps that every trainer has in common, in order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

from ase import Atoms
from torch import nn

from les_plugins import api
from les_plugins.config import LongRangeConfig
from les_plugins.hosting.build import parse_section
from les_plugins.hosting.section_name import SECTION, refuse_near_misses
from les_plugins.io.documents import read_yaml
from les_plugins.storage.checkpoint import check_target
from les_plugins.storage.training import check_keys, file_facts, plain_options, saving


class TrainingRun(ABC):
    """One `les-plugins train HOST`. An adapter says what is its host's own; `Host.train` returns `run()`.

    Args:
        config_file: the host's own config file, with a `long_range:` section or without.
        arguments: further options in the host's own syntax.
        metadata: facts to keep in the checkpoint.

    Attributes:
        host: name of the host.
        keys: keys that the host's file may have beside the section; None where the host itself checks them.
        settings: the file without the section.
        long_range: the section; None for a short-range model.
        frames: the training set.
        facts: what the checkpoint keeps of the training beside the options, such as the last errors.
    """

    host: ClassVar[str]
    keys: ClassVar[tuple[str, ...] | None] = None

    def __init__(
        self, config_file: Path, arguments: Sequence[str] = (), metadata: Mapping[str, Any] | None = None
    ) -> None:
        self.config_file, self.arguments, self.metadata = Path(config_file), tuple(arguments), dict(metadata or {})
        self.settings: dict[str, Any] = {}
        self.long_range: LongRangeConfig | None = None
        self.frames: Sequence[Atoms] = ()
        self.facts: dict[str, Any] = {}

    @final
    def run(self) -> Path | None:
        """The checkpoint that was written, or None where nothing was trained.

        Raises:
            ConfigError: a misspelt or unknown key, or a section that cannot be used; names key and file.
            CheckpointError: something else stands where the checkpoint is to be written.
            DataError: frames that cannot be used.
            HostError: the trained model could not be saved; says which files of the host's own hold it.
        """
        self.settings = read_yaml(self.config_file)
        self.split()
        target = self.target()
        check_target(target)  # before hours of training, not after
        self.frames = self.read_frames()
        files = file_facts(*self.files())
        model = self.fit()
        if model is None:
            return None
        training = {"host_options": plain_options(self.options()), **self.facts}
        facts = {**files, "training": training, **self.metadata}
        with saving(target, self.kept()):
            return api.save(model, target, self.host, facts, self.frames)

    def split(self) -> None:
        """Take the section out of the settings, and check both; extended where a host has more sections of ours."""
        refuse_near_misses(self.settings, str(self.config_file), host_keys=self.names())
        if SECTION in self.settings:
            section = self.settings.pop(SECTION)
            self.long_range = parse_section({} if section is None else section, f"{self.config_file}: {SECTION}")
        if self.keys is not None:
            check_keys(self.settings, (*self.keys, SECTION), str(self.config_file))

    @abstractmethod
    def target(self) -> Path:
        """The checkpoint folder to write."""

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

    def files(self) -> tuple[Iterable[Path], Iterable[Path]]:
        """Files of the training set and of the validation set, whose hashes the checkpoint keeps."""
        return (), ()

    def options(self) -> Mapping[str, Any]:
        """What the host was told; the checkpoint keeps it, without paths."""
        return self.settings

    def kept(self) -> Iterable[Path]:
        """Files of the host's own that hold the trained model."""
        return ()

    def path(self, key: str) -> Path:
        """A file that the settings name, relative to the config file."""
        return self.config_file.parent / str(self.settings[key])
