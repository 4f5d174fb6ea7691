"""The host on 2 and 4 ranks of LAMMPS: energies and forces of its own calculator."""

import pytest
from on_ranks import SIZES, check_host_on_ranks


@pytest.mark.parametrize("size", SIZES)
def test_domains_give_what_the_calculator_gives(size, tmp_path):
    check_host_on_ranks("nequip", size, tmp_path)
