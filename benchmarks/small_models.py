"""Models of every host's own factory with conserved charges, for benchmarks where the zoo has none: random weights.

Settings are the host's defaults or its packaged weights, but for Allegro and the SevenNet of two layers, which are of
the size of the zoo's NequIP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from les_plugins import api
from les_plugins.hosting import registry

#: As those of the zoo's MAPbI3 models, all on edges.
SECTION: dict[str, Any] = {
    "multipoles": ["charge", "dipole", "quadrupole"],
    "response": {"dipole": "isotropic"},
    "heads": "edge",
    "total_charge": "conserved",
    "net_charge_warning": None,
}
ELEMENTS = ("H", "O")
CUTOFF = 4.5


def calculator_of(name: str) -> Any:
    """ASE calculator of a model of `MODELS`, in float32."""
    host, make = MODELS[name]
    torch.manual_seed(0)
    model = api.attach(make(), SECTION).eval()
    return registry.host(host).calculator(model, {}, "cpu")


def _nequip() -> nn.Module:
    return _of_nequip(
        _target_="nequip.model.NequIPGNNModel",
        num_layers=3,
        num_features=32,
        radial_mlp_depth=1,
        radial_mlp_width=64,
    )


def _allegro() -> nn.Module:
    import allegro.model  # noqa: F401

    embedding = {
        "_target_": "allegro.nn.TwoBodyBesselScalarEmbed",
        "num_bessels": 8,
        "bessel_trainable": False,
        "polynomial_cutoff_p": 6,
    }
    return _of_nequip(
        _target_="allegro.model.AllegroModel",
        num_layers=2,
        num_scalar_features=32,
        num_tensor_features=16,
        allegro_mlp_hidden_layers_width=64,
        scalar_embed_mlp_hidden_layers_width=64,
        readout_mlp_hidden_layers_width=32,
        radial_chemical_embed=embedding,
    )


def _of_nequip(**settings: Any) -> nn.Module:
    import nequip.model  # noqa: F401 (registers its builders)
    from nequip.utils.global_state import set_global_state

    from les_plugins.adapters.nequip.builder import LongRangeModel

    set_global_state()
    common = {
        "seed": 0,
        "model_dtype": "float32",
        "type_names": list(ELEMENTS),
        "r_max": CUTOFF,
        "l_max": 1,
        "avg_num_neighbors": 40.0,
        "per_type_energy_shifts": {"H": -1.0, "O": -3.0},
        "per_type_energy_scales": {"H": 1.0, "O": 1.0},
    }
    return LongRangeModel({**common, **settings})


def _mace() -> nn.Module:
    from les_plugins.adapters.mace.contract import tiny_mace

    return tiny_mace(
        dtype=torch.float32,
        hidden_irreps="16x0e+16x1o",
        MLP_irreps="16x0e",
        num_bessel=8,
        max_ell=3,
        r_max=CUTOFF,
        avg_num_neighbors=40.0,
    )


def _sevennet() -> nn.Module:
    from les_plugins.adapters.sevennet.contract import tiny_model

    return tiny_model(
        dtype=torch.float32, channel=32, num_convolution_layer=2, lmax=2, cutoff=CUTOFF, conv_denominator=40.0
    )


def _pretrained(host: str, name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model: nn.Module = registry.host(host).pretrained(name, "cpu").calculator.model
        return model

    return make


def _matgl(architecture: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from matgl.apps.pes import Potential

        from les_plugins.adapters.matgl.architectures import ARCHITECTURES

        more = {"use_warp": False} if architecture == "TensorNet" else {}
        model = ARCHITECTURES[architecture].kind(is_intensive=False, element_types=ELEMENTS, cutoff=CUTOFF, **more)
        potential: nn.Module = Potential(model, calc_stresses=True)
        return potential

    return make


def _metatrain(architecture: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from metatrain.utils.architectures import get_default_hypers, import_architecture
        from metatrain.utils.data import DatasetInfo
        from metatrain.utils.data.target_info import get_energy_target_info

        from les_plugins.adapters.metatrain.state import read_tensor_maps

        energy = get_energy_target_info("energy", {"quantity": "energy", "unit": "eV"}, True, True)
        info = DatasetInfo("angstrom", [1, 8], {"energy": energy})
        model = import_architecture(architecture).__model__(get_default_hypers(architecture)["model"], info)
        read_tensor_maps(model)
        return model  # type: ignore[no-any-return]

    return make


#: Host, and what makes the bare model.
MODELS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "mace": ("mace", _mace),
    "nequip": ("nequip", _nequip),
    "allegro": ("nequip", _allegro),
    "sevennet": ("sevennet", _sevennet),
    "7net-0": ("sevennet", _pretrained("sevennet", "7net-0")),
    "tensornet": ("matgl", _matgl("TensorNet")),
    "m3gnet": ("matgl", _matgl("M3GNet")),
    "chgnet": ("chgnet", _pretrained("chgnet", "0.3.0")),
    "pet": ("metatrain", _metatrain("pet")),
    "soap_bpnn": ("metatrain", _metatrain("soap_bpnn")),
}
