"""What stands for SevenNet's own names while it trains, and how its checkpoints with a long-range part are read."""

from __future__ import annotations

import inspect
import json
import pickle
import threading

import pytest

pytest.importorskip("sevenn", reason="sevenn is not installed: nox -s tests-sevennet")

import torch
from sevenn import model_build
from sevenn.checkpoint import SevenNetCheckpoint
from sevenn.main.sevenn import global_config
from sevenn.scripts import processing_continue
from sevenn.scripts import train as training_script
from sevenn.train import atoms_dataset, dataload, graph_dataset

from les_plugins.adapters.sevennet.contract import model_config
from les_plugins.adapters.sevennet.model import build_model
from les_plugins.adapters.sevennet.seam import LongRangeSection, open_checkpoint, training
from les_plugins.config import LongRangeConfig
from les_plugins.errors import HostError
from les_plugins.model.outputs import long_range_part

FULL = {"response": {"charge": True, "dipole": "anisotropic"}}


def test_canary_sevennets_training_script_still_calls_the_names_that_are_substituted():
    for script in (training_script.train, training_script.train_v2):
        assert inspect.getsource(script).count("model = build_E3_equivariant_model(config)") == 1
    continued = inspect.getsource(processing_continue.processing_continue_v2)
    assert "checkpoint = util.load_checkpoint(" in continued
    assert "checkpoint.build_model()" in continued


def test_canary_every_graph_of_a_training_comes_from_the_name_that_is_substituted():
    assert "atoms_to_graph" in inspect.getsource(dataload.graph_build)
    assert "dataload.atoms_to_graph" in inspect.getsource(atoms_dataset)
    assert "dataload.graph_build(" in inspect.getsource(graph_dataset)


def test_what_a_training_substitutes_is_put_back_after_success_and_after_failure():
    names = [
        (training_script, "build_E3_equivariant_model"),
        (processing_continue, "util"),
        (dataload, "atoms_to_graph"),
    ]
    before = [getattr(module, name) for module, name in names]
    settings, readable = dict(global_config), set(torch.serialization.get_safe_globals())

    def fail_inside() -> None:
        with training(LongRangeConfig()):
            assert all(getattr(m, n) is not old for (m, n), old in zip(names, before, strict=True))
            global_config["epoch"] = 1
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert all(getattr(m, n) is old for (m, n), old in zip(names, before, strict=True))
    assert global_config == settings
    assert set(torch.serialization.get_safe_globals()) == readable


def test_without_a_section_graphs_stay_sevennets_own():
    own = dataload.atoms_to_graph
    with training(None) as built:
        assert dataload.atoms_to_graph is own
        model = training_script.build_E3_equivariant_model(model_config())
    assert long_range_part(model) is None
    assert built.model is model


def test_one_training_waits_for_another_and_other_threads_build_sevennets_own_models():
    order, inside, found = [], threading.Event(), []

    def second() -> None:
        found.append(model_build.build_E3_equivariant_model(model_config(long_range=FULL)))
        inside.set()
        with training(None):
            order.append("second")
            found.append(training_script.build_E3_equivariant_model(model_config()))

    with training(LongRangeConfig.parse(FULL, "test")) as built:
        other = threading.Thread(target=second)
        other.start()
        assert inside.wait(120)
        training_script.build_E3_equivariant_model(model_config())
        order.append("first")
    other.join(120)
    assert order == ["first", "second"]
    assert long_range_part(built.model) is not None
    assert [long_range_part(model) for model in found] == [None, None]


def test_the_section_in_a_checkpoint_of_sevennet_is_read_by_us_and_by_nobody_else(tmp_path):
    section = LongRangeConfig.parse(FULL, "test")
    model = build_model(model_config(long_range=FULL))
    closed = LongRangeSection(section.to_dict())
    config = {**model_config(), "long_range": closed}
    torch.save({"config": config, "model_state_dict": model.state_dict()}, tmp_path / "run.pth")
    alone = SevenNetCheckpoint(tmp_path / "run.pth")
    for use in (lambda: alone.config, alone.build_model, lambda: str(alone)):
        with pytest.raises(HostError, match="SevenNet alone would drop"):
            use()
    ours = open_checkpoint(tmp_path / "run.pth")
    assert ours.section == section
    assert "long_range" not in ours.config
    with pytest.raises(HostError, match="enable_oeq has not been tested"):
        ours.build_model(enable_oeq=True)
    again = ours.build_model().state_dict()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())


def test_files_written_before_name_the_function_that_restores_the_section():
    text = json.dumps(LongRangeConfig().to_dict())
    written = f"cles_plugins.adapters.sevennet.seam\nrestore_section\n(V{text}\ntR."
    assert pickle.loads(written.encode()) == LongRangeConfig().to_dict()
    assert pickle.loads(pickle.dumps(LongRangeSection(LongRangeConfig().to_dict()))) == LongRangeConfig().to_dict()
