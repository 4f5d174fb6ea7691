"""`les-plugins compile --json`: one JSON object on standard output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from command_line import Done
from torch import nn
from toy_host import ToyHost

import les_plugins
from les_plugins.storage import checkpoint


class Compiled(ToyHost):
    """The toy host with a compiler that writes one word."""

    def compile(self, model, output, static_cell, device, metadata):
        output.write_text("compiled", encoding="utf-8")
        return output


def test_the_summary_names_the_file_that_was_written(
    tmp_path: Path, with_plugins: Callable[..., None], les_plugins_command: Callable[..., Done]
) -> None:
    with_plugins(toy=Compiled())
    model = les_plugins.save(nn.Linear(3, 1), tmp_path / "m.les", "toy")
    code, printed, errors = les_plugins_command("compile", model, tmp_path / "m.pt", "--json")
    assert code == 0, errors
    report = json.loads(printed)
    assert report["output"] == {"path": str(tmp_path / "m.pt"), "sha256": checkpoint.sha256(tmp_path / "m.pt")}
    assert report["model"]["weights_sha256"] == checkpoint.sha256(model / checkpoint.WEIGHTS)
