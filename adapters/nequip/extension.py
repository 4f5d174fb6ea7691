"""Imported by every `import nequip` (entry point `init_always`): tells NequIP of our outputs. Must not fail."""

import contextlib

_OF_STRUCTURES = ["long_range_energy"]
_OF_ATOMS = [
    "latent_charges",
    "latent_dipoles",
    "latent_quadrupoles",
    "latent_polarizability",
    "latent_born_charges",
    "latent_polarization_charges",
    "latent_polarization_moments",
]
#: Of structures, for `response_loss:`; Born charges have a field of NequIP's own.
_LABELS = ["total_dipole", "polarization_dipole", "polarizability"]

with contextlib.suppress(Exception):
    from nequip.data import register_fields

    register_fields(
        graph_fields=[*_OF_STRUCTURES, "les_all_latent", *_LABELS],
        node_fields=_OF_ATOMS,
        cartesian_tensor_fields={
            "latent_quadrupoles": "ij=ji",
            "latent_polarizability": "ij=ji",
            "latent_born_charges": "ij",
            "polarizability": "ij",
        },
    )

with contextlib.suppress(Exception):
    from nequip.scripts._package_utils import register_libraries_as_external_for_packaging

    # A packaged model carries the parts of les-plugins that it runs on (the other entry points of nequip.extension name
    # them) and runs where les-plugins is not installed. What builds models is not among them: the class of the section
    # is imported when it is asked for. SciPy, which e3nn needs too, has the constants.
    register_libraries_as_external_for_packaging(extern_modules=["les_plugins.config", "scipy"])

with contextlib.suppress(Exception):
    import torch
    from nequip.scripts._compile_utils import ASE_TARGET, register_compile_targets

    def _asking_for_all(data):
        return {**ASE_TARGET["data_settings"](data), "les_all_latent": torch.ones(1, 1)}

    # for LesCompiledCalculator: pbc is known, and so is everything that the calculator gives
    register_compile_targets(
        {
            "les_ase": {
                **ASE_TARGET,
                "input": [*ASE_TARGET["input"], "pbc", "les_all_latent"],
                "data_settings": _asking_for_all,
                "output": [*ASE_TARGET["output"], *_OF_STRUCTURES, *_OF_ATOMS],
            }
        }
    )
