"""Values of ghosts on three processes, one without atoms: their owners', and derivatives that go back to these."""

import halo_worker
import pytest
import torch
from halo_worker import GHOSTS, OWN, values_of
from rank_processes import run_ranks


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("halo")
    run_ranks(halo_worker.work, 3, str(folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(3)]


def copies(atom: int) -> int:
    """Of an atom on all ranks, itself among them."""
    return 1 + sum(ghosts.count(atom) for ghosts in GHOSTS)


@pytest.mark.parametrize("rank", range(3))
def test_ghosts_have_what_their_owners_have(rank, found):
    expected = values_of(OWN[rank] + GHOSTS[rank])
    torch.testing.assert_close(found[rank]["everywhere"], expected, rtol=0, atol=0)
    torch.testing.assert_close(found[rank]["forward"], expected, rtol=0, atol=0)


@pytest.mark.parametrize("rank", range(3))
def test_what_ghosts_have_goes_back_to_their_owners(rank, found):
    n = torch.tensor([float(copies(atom)) for atom in OWN[rank]], dtype=torch.float64)[:, None]
    x = values_of(OWN[rank])
    torch.testing.assert_close(found[rank]["here"], n * x)
    torch.testing.assert_close(
        found[rank]["reverse"], torch.cat([n * torch.ones_like(x), torch.zeros(len(GHOSTS[rank]), 2).double()])
    )
    # loss Σ over all copies of x³, then Σ over own atoms of (3 n x²)²
    torch.testing.assert_close(found[rank]["gradient"], 3 * n * x**2)
    torch.testing.assert_close(found[rank]["second"], 36 * n**2 * x**3)


def test_a_ghost_without_an_owner_is_refused_on_every_rank(found):
    assert {one["refused"] for one in found} == {"ghost atoms without an owner: an atom was lost"}
