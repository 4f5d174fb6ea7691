"""`TrainingRun`: the steps of a training in their order, and what each says when it fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from ase import Atoms
from torch import nn
from toy_host import ToyHost

from les_plugins import LongRangeConfig, api
from les_plugins.errors import CheckpointError, ConfigError, DataError, HostError
from les_plugins.hosting.build import build_long_range
from les_plugins.hosting.types import HostState
from les_plugins.model.features import FeatureLayout, LayerLayout
from les_plugins.storage.checkpoint import read_config, sha256
from les_plugins.training import TrainingRun


class ShortRange(ToyHost):
    def state(self, model: nn.Module) -> HostState:
        return HostState("toy", {"toy": "1.0"}, {"width": 3}, None, model.state_dict())


#: What a teacher writes into a frame.
TAUGHT = {"teacher": "zoo-model", "teacher_version": "x 1", "teacher_licence": "MIT"}


class Training(TrainingRun):
    """Notes what is called, and makes a model of nothing."""

    host = "toy"
    keys = ("data", "epochs", "checkpoint")
    steps: ClassVar[list[str]] = []
    trains = True
    training_set: ClassVar[list[Atoms]] = []

    def target(self) -> Path:
        self.steps.append("target")
        return self.path("checkpoint")

    def read_frames(self) -> Sequence[Atoms]:
        self.steps.append("frames")
        if not self.path("data").exists():
            raise DataError(f"{self.path('data')}: no such file")
        return self.training_set

    def files(self) -> tuple[list[Path], list[Path]]:
        return [self.path("data")], []

    def fit(self) -> nn.Module | None:
        self.steps.append("fit")
        self.facts["loss"] = 0.25
        return nn.Linear(3, 1) if self.trains else None

    def kept(self) -> list[Path]:
        return [Path("host.pt")]


@pytest.fixture
def config(tmp_path: Path, with_plugins: Callable[..., None]) -> Callable[..., Path]:
    with_plugins(toy=ShortRange())
    Training.steps = []

    def write(**settings: Any) -> Path:
        (tmp_path / "water.xyz").write_text("no structure", encoding="utf-8")
        given = {"data": "water.xyz", "epochs": 3, "checkpoint": "water.les", **settings}
        (tmp_path / "toy.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
        return tmp_path / "toy.yaml"

    return write


def test_the_checkpoint_keeps_data_options_and_facts(config: Callable[..., Path]) -> None:
    path = config()
    folder = Training(path, ("--seed", "3"), {"data_licence": "CC0"}).run()
    assert folder == path.parent / "water.les"
    assert Training.steps == ["target", "frames", "fit"]
    assert read_config(folder)["metadata"] == {
        "training_data": [{"file": "water.xyz", "sha256": sha256(path.parent / "water.xyz")}],
        "validation_data": [],
        "training": {
            "host_options": {"data": "water.xyz", "epochs": 3, "checkpoint": "water.les"},
            "loss": 0.25,
        },
        "data_licence": "CC0",
    }


def test_the_section_is_taken_out_of_the_settings(config: Callable[..., Path]) -> None:
    training = Training(config(long_range={"sigma": 1.5}))
    training.run()
    assert training.long_range == LongRangeConfig(sigma=1.5)
    assert "long_range" not in training.settings
    empty = Training(config(long_range=None))
    empty.run()
    assert empty.long_range == LongRangeConfig()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"long_rang": {}}, "toy.yaml: unknown key 'long_rang' .did you mean 'long_range'"),
        (
            {"epoch": 1},
            "toy.yaml: unknown key 'epoch' .did you mean 'epochs'.*; allowed: data, epochs, checkpoint",
        ),
        ({"long_range": {"sigme": 1.0}}, "toy.yaml: long_range: unknown key 'sigme'"),
        ({"long_range": {"method": "mehs"}}, "toy.yaml: long_range: run\\.method is 'mehs' .did you mean 'mesh'"),
    ],
)
def test_a_wrong_key_is_an_error_before_anything_is_read(
    config: Callable[..., Path], settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        Training(config(**settings)).run()
    assert Training.steps == []


def test_a_host_that_freezes_nothing_says_so_before_anything_is_read(config: Callable[..., Path]) -> None:
    frozen = {"run": {"train_only": "long_range"}}
    with pytest.raises(ConfigError, match=r"long_range\.run\.train_only is long_range, and the adapter of toy freezes"):
        Training(config(long_range=frozen)).run()
    assert Training.steps == []


def test_a_place_that_is_taken_is_an_error_before_the_training(config: Callable[..., Path]) -> None:
    path = config()
    (path.parent / "water.les").write_text("something else", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"water\.les exists and is not a checkpoint"):
        Training(path).run()
    assert Training.steps == ["target"]


def test_where_nothing_is_trained_nothing_is_written(config: Callable[..., Path], monkeypatch: Any) -> None:
    monkeypatch.setattr(Training, "trains", False)
    path = config()
    assert Training(path).run() is None
    assert not (path.parent / "water.les").exists()


def test_a_model_that_cannot_be_saved_is_an_error_that_says_where_it_is(
    config: Callable[..., Path], monkeypatch: Any
) -> None:
    def fails(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(api, "save", fails)
    with pytest.raises(HostError, match=r"water\.les: the trained model could not be saved: disk full; .*: host\.pt"):
        Training(config()).run()


def test_a_trainer_that_fails_after_its_end_keeps_the_model_and_says_where_it_is(config: Callable[..., Path]) -> None:
    class StopsLate(Training):
        program = "toy train"

        def fit(self) -> nn.Module | None:
            self.stopped = ZeroDivisionError("in the table")
            assert self.temporary.is_dir()
            self.folders.append(self.temporary)
            return super().fit()

        folders: ClassVar[list[Path]] = []

    path = config()
    words = r"toy\.yaml: toy train stopped with ZeroDivisionError: in the table; .* its model is in .*water\.les"
    with pytest.raises(HostError, match=words):
        StopsLate.train(path)
    assert read_config(path.parent / "water.les")["metadata"]["training"]["loss"] == 0.25
    assert not StopsLate.folders[0].exists()


@pytest.mark.parametrize(
    ("given", "infos", "licence"),
    [
        ({}, [TAUGHT, TAUGHT], "MIT"),
        ({"data_licence": "not stated"}, [TAUGHT], "MIT"),
        ({"data_licence": "mine"}, [TAUGHT], "mine; MIT"),
        ({"data_licence": "not stated"}, [TAUGHT, {}], "not stated; MIT"),
        ({"data_licence": "CC0"}, [TAUGHT, {}], "CC0; MIT"),
        ({}, [TAUGHT, {}], "not stated; MIT"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*the sign of the charges")
def test_the_checkpoint_says_who_labelled_its_data_and_under_what_licence(config, monkeypatch, given, infos, licence):
    monkeypatch.setattr(Training, "training_set", [Atoms("Ar", info=info) for info in infos])
    metadata = read_config(Training.train(config(), metadata=given))["metadata"]
    assert metadata["training"]["teachers"] == [{**TAUGHT, "frames": infos.count(TAUGHT)}]
    assert metadata["data_licence"] == licence


@pytest.mark.parametrize(
    ("given", "starts", "licence"),
    [
        ({}, {}, None),
        ({"data_licence": "CC0"}, {"big": "CC BY-NC 4.0"}, "CC0; CC BY-NC 4.0 (big)"),
        ({"data_licence": "not stated"}, {"big": "MIT"}, "not stated; MIT (big)"),
        ({}, {"file.pth": None}, "not stated; not stated (file.pth)"),
        ({"data_licence": "MIT"}, {"big": "MIT"}, "MIT"),
    ],
)
def test_the_licence_of_a_model_that_the_training_begins_with_goes_on(config, monkeypatch, given, starts, licence):
    monkeypatch.setattr(Training, "begins_with", lambda self: starts)
    metadata = read_config(Training.train(config(), metadata=given))["metadata"]
    assert metadata.get("data_licence") == licence


class HostWithAKeyOfOurName(Training):
    keys = ("data", "epochs", "checkpoint", "model")
    own_sections = ("model",)


def test_a_key_of_the_host_that_is_called_as_our_section_stays_where_it_is(config: Callable[..., Path]) -> None:
    run = HostWithAKeyOfOurName(config(model={"long_range": {"enable": True}}))
    run.run()
    assert run.settings["model"] == {"long_range": {"enable": True}}
    assert run.long_range is None
    with pytest.raises(ConfigError, match=r"long_rang.* under model"):
        HostWithAKeyOfOurName(config(model={"long_rang": {}})).run()
    with pytest.raises(ConfigError, match=r"stands under model\.deep"):
        HostWithAKeyOfOurName(config(model={"deep": {"long_range": {}}})).run()


def test_elements_of_the_training_set_are_kept(config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Training, "training_set", [Atoms("OHH"), Atoms("NaCl")])
    path = Training.train(config())
    assert path is not None
    assert read_config(path)["metadata"]["training"]["elements"] == ["Cl", "H", "Na", "O"]


class Attached(nn.Module):
    """A map with a long-range part, as a host's model has one."""

    def __init__(self, inner: nn.Module, section: LongRangeConfig) -> None:
        super().__init__()
        self.first, self.last = inner, nn.Linear(1, 1)
        self.long_range = build_long_range(FeatureLayout((LayerLayout(4, 2),)), section)


class Attaches(ShortRange):
    def attach(self, model: nn.Module, config: LongRangeConfig) -> nn.Module | None:
        return Attached(model, config) if isinstance(model, nn.Linear) else None


@pytest.mark.parametrize("train_only", ["all", "last_layer", "long_range"])
def test_a_part_is_attached_or_kept_and_the_rest_frozen_as_the_section_says(
    train_only: str, config: Callable[..., Path], with_plugins: Callable[..., None]
) -> None:
    with_plugins(toy=Attaches())
    run = Training(config())
    run.long_range = LongRangeConfig.parse({"sigma": 1.5, "run": {"train_only": train_only}})
    new = run.with_long_range(nn.Linear(3, 1), lambda model: [model.last], "model.load")
    assert isinstance(new, Attached)
    assert run.with_long_range(new, lambda model: [model.last], "model.load") is new
    moved = {name.partition(".")[0] for name, value in new.named_parameters() if value.requires_grad}
    assert (
        moved
        == {
            "all": {"first", "last", "long_range"},
            "last_layer": {"last", "long_range"},
            "long_range": {"long_range"},
        }[train_only]
    )


@pytest.mark.parametrize("section", [None, LongRangeConfig(sigma=1.3)])
def test_a_loaded_part_of_another_section_is_an_error(section: LongRangeConfig | None) -> None:
    run = Training(Path("toy.yaml"))
    run.long_range = section
    loaded = Attached(nn.Linear(3, 1), LongRangeConfig())
    with pytest.raises(ConfigError, match=r"model\.load has a long-range part of another long_range section: "):
        run.with_long_range(loaded, lambda model: [], "model.load")
    short = nn.Linear(3, 1)
    run.long_range = None
    assert run.with_long_range(short, lambda model: [], "model.load") is short


def test_the_checkpoint_is_beside_the_folder_of_the_host() -> None:
    run = Training(Path("toy.yaml"))
    run.folder = Path("runs/a.b")
    assert TrainingRun.target(run) == Path("runs/a.b.les")
