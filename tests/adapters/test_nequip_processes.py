"""Lightning's `ddp` with NequIP and Allegro on CPUs: two processes make the step of one, one checkpoint is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nequip", reason="nequip is not installed: nox -s tests-nequip")

import torch
import yaml
from nequip_models import HOST_SECTIONS, training_settings
from two_processes import RESPONSE, SECTION, assert_same_gradients, assert_same_weights, write_frames

from les_plugins import api

#: NequIP's own strategy, which a model with train-time compilation needs, and Lightning's.
SIMPLE = "++trainer.strategy={_target_:nequip.train.SimpleDDPStrategy}"
LIGHTNING = "++trainer.strategy=ddp"


def written(architecture: str) -> None:
    found = training_settings(
        Path("."),
        {
            "_target_": "les_plugins.adapters.nequip.LongRangeModel",
            "model": {**HOST_SECTIONS[architecture], "model_dtype": "float64"},
            "long_range": SECTION,
            "response_loss": RESPONSE,
        },
    )
    found["trainer"].update(max_epochs=2, check_val_every_n_epoch=1)
    found["trainer"]["callbacks"][0].update(save_top_k=-1, filename="best-{step}")
    found["data"]["train_dataloader"] = {**found["data"]["train_dataloader"], "batch_size": 2}
    found["data"]["val_dataloader"] = {**found["data"]["val_dataloader"], "batch_size": 1}
    Path("water.yaml").write_text(yaml.safe_dump(found), encoding="utf-8")


def train(folder: str, *overrides: str) -> str:
    command = [sys.executable, "-m", "les_plugins", "train", "nequip", "--config", "water.yaml"]
    done = subprocess.run(
        [*command, f"hydra.run.dir={folder}", *overrides],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stderr


def kept(folder: str, step: int) -> Any:
    return torch.load(Path(folder, f"best-step={step}.ckpt"), weights_only=False)


def tensors(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Of the model and of its moving average; NequIP keeps settings beside them."""
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


@pytest.mark.training
@pytest.mark.parametrize(("architecture", "strategy"), [("nequip", LIGHTNING), ("allegro", SIMPLE)])
def test_two_processes_make_the_steps_of_one_and_the_first_writes_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, strategy: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_frames()
    written(architecture)
    train("one")
    said = train("two", "++trainer.devices=2", strategy, "data.train_dataloader.batch_size=1")
    assert "MEMBER: 2/2" in said
    for step in (1, 2):
        one, two = kept("one", step), kept("two", step)
        assert_same_gradients(one["optimizer_states"][0]["state"], two["optimizer_states"][0]["state"])
        assert_same_weights(*(tensors(run["state_dict"]) for run in (one, two)), 1e-9)
    assert [path.name for path in Path().rglob("*.les")].count("water.les") == 2  # of both runs
    assert api.load_model("two/water.les")[1]["metadata"]["training"]["host_checkpoint"] == "best-step=2.ckpt"
