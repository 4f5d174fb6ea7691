"""NequIP and Allegro as a host of les-plugins; imports neither. The functions lie in the modules that `parts` names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from les_plugins.hosting.hookspecs import brings
from les_plugins.hosting.types import PackagedHost

if TYPE_CHECKING:
    from torch import nn


class NequIPHost(PackagedHost):
    """NequIP and Allegro, trained by `nequip-train`."""

    name = "nequip"
    distribution = "nequip"
    supported = ">=0.19,<0.20"
    extra = "nequip"
    compile_targets = ("train", "ase", "les_ase", "pair_nequip", "batch")
    dtype_key = "model_dtype"
    resume_options = ("++ckpt_path=LAST.ckpt",)
    parts: ClassVar[Mapping[str, str]] = {
        "attach": "les_plugins.adapters.nequip.model:attach_long_range",
        "calculator": "les_plugins.adapters.nequip.calculator:LesNequIPCalculator",
        "state": "les_plugins.adapters.nequip.state:take_apart",
        "rebuild": "les_plugins.adapters.nequip.state:rebuild",
        "train": "les_plugins.adapters.nequip.train:train",
        "domain_model": "les_plugins.adapters.nequip.domains:NequIPDomain",
        "pretrained": "les_plugins.adapters.nequip.pretrained:pretrained",
        "contract": "les_plugins.adapters.nequip.contract:CONTRACTS",
    }

    def is_own(self, model: nn.Module) -> bool:
        """Packaged models are of classes of another module."""
        return hasattr(model, "is_graph_model")


les_hosts = brings(NequIPHost())
