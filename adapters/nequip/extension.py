"""Imported by every `import nequip` (entry point `init_always`): tells NequIP of our outputs. Must not fail."""

import contextlib

with contextlib.suppress(Exception):
    from nequip.data import register_fields

    register_fields(
        graph_fields=["long_range_energy"],
        node_fields=["latent_charges", "latent_dipoles", "latent_quadrupoles"],
        cartesian_tensor_fields={"latent_quadrupoles": "ij=ji"},
    )

with contextlib.suppress(Exception):
    from nequip.scripts._package_utils import register_libraries_as_external_for_packaging

    # a packaged model runs where les-plugins is installed
    register_libraries_as_external_for_packaging(extern_modules=["les_plugins"])
