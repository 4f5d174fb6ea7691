"""Atoms of one structure on 2 and 4 processes: the same numbers as on one, and no more bytes than stated."""

import copy
import pickle

import pytest
import rank_worker
import torch
from rank_processes import run_ranks
from rank_worker import ANSWERS, COUNTED, PAIRS, SETTINGS, atoms_of, long_structures, two_structures

from les_plugins import LatentElectrostatics
from les_plugins.electrostatics.parallel.reduction import Ranks

SIZES = pytest.mark.parametrize("size", [2, 4])
SAME = {"rtol": 1e-10, "atol": 1e-11}  # sums in another order; atol is for components that are small by cancellation
WHOLE = ("energy", "virial", "loss in scale")  # each rank has the whole; the scale multiplies the energy
PARTS = ("virial_part", "loss in strain, part")  # sum up over the ranks


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What every rank found, by the number of ranks: four processes that start once."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(rank_worker.work, 4, str(folder))
    return {
        size: [torch.load(folder / f"{size}-{rank}.pt", weights_only=True) for rank in range(size)] for size in (2, 4)
    }


KINDS = {
    "step": (two_structures, {}),
    "shifted": (two_structures, {"neutralize": "shift"}),
    "mesh": (two_structures, {"method": "mesh"}),
    "long mesh": (long_structures, {"method": "mesh"}),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    """What kind of step the ranks did, and one process's numbers for it."""
    structures, settings = KINDS[request.param]
    layer = LatentElectrostatics(**SETTINGS, **settings)
    return request.param, rank_worker.training_step(structures(), layer)


@pytest.fixture(scope="module")
def alone():
    return rank_worker.training_step(two_structures(), LatentElectrostatics(**SETTINGS))


def gathered(name, steps):
    """One process's tensor from those of the ranks."""
    values = [step[name] for step in steps]
    if name in WHOLE:
        return values[0]
    if name in PARTS:
        return torch.stack(values).sum(0)
    together = torch.empty(12, *values[0].shape[1:], dtype=torch.float64)
    for rank, value in enumerate(values):
        together[atoms_of(rank, len(steps))] = value
    return together


@SIZES
def test_step_on_several_ranks_is_that_of_one_process(size, kind, found):
    name_of_step, alone = kind
    steps = [rank[name_of_step] for rank in found[size]]
    for name, expected in alone.items():
        torch.testing.assert_close(
            gathered(name, steps), expected, **SAME, msg=lambda text, name=name: f"{name}: {text}"
        )


@SIZES
@pytest.mark.parametrize("answer", ANSWERS)
def test_self_consistent_step_on_several_ranks_is_that_of_one_process(size, answer, found):
    layer = LatentElectrostatics(**ANSWERS[answer])
    steps = [rank["self_consistent"][answer] for rank in found[size]]
    for name, expected in rank_worker.training_step(two_structures(), layer).items():
        torch.testing.assert_close(
            gathered(name, steps), expected, **SAME, msg=lambda text, name=name: f"{name}: {text}"
        )


@SIZES
@pytest.mark.parametrize("response", PAIRS)
def test_flow_over_pairs_of_several_ranks_is_that_of_one_process(size, response, found):
    steps = [rank["pairs"][response] for rank in found[size]]
    alone = rank_worker.training_step(two_structures(), LatentElectrostatics(**PAIRS[response]), rank_worker.run_pairs)
    for name, expected in alone.items():
        torch.testing.assert_close(
            gathered(name, steps), expected, **SAME, msg=lambda text, name=name: f"{name}: {text}"
        )


@SIZES
def test_pairs_that_one_rank_refuses_raise_an_error_on_all(size, found):
    for rank in range(size):
        said = found[size][rank]["refused pairs"]
        own = "pair_softness.neighbor holds 12…12; allowed: 0…11, the atoms"
        assert said == (
            own if rank == 1 else "another rank of the process group refuses its pairs; its own message says why"
        )


@SIZES
def test_ranks_start_from_the_last_solution_together_or_not_at_all(size, found):
    counts = [rank["warm"] for rank in found[size]]
    assert counts == [[counts[0][0], counts[0][0], 0]] * size
    assert counts[0][0] > 0


@SIZES
def test_energy_and_virial_are_the_same_on_every_rank_to_the_last_bit(size, found):
    for name in WHOLE[:2]:
        for rank in found[size]:
            assert torch.equal(rank["step"][name], found[size][0]["step"][name])


@SIZES
def test_atomic_energies_of_all_ranks_give_the_forces_too(size, found, alone):
    # that of the step is scaled
    steps = [{"forces": 1.3 * rank["forces_of_atomic_energies"]} for rank in found[size]]
    torch.testing.assert_close(gathered("forces", steps), alone["forces"], **SAME)


@SIZES
def test_charge_channels_on_several_ranks_are_those_of_one_process(size, found):
    system = two_structures()
    channels = system.charge[:, None] * torch.tensor([1.0, 0.5])
    bare = {"dipole": None, "quadrupole": None, "softness": None, "polarizability": None}
    expected = rank_worker.run(LatentElectrostatics(**SETTINGS), system, charge=channels, **bare).energy
    for rank in found[size]:
        torch.testing.assert_close(rank["channel_energy"], expected, **SAME)


@SIZES
@pytest.mark.parametrize("kind", COUNTED)
def test_bytes_of_a_step_are_as_stated_on_every_rank(size, kind, found):
    for rank in found[size]:
        for sent, stated in rank["bytes"][kind]:
            assert sent == stated


@SIZES
def test_what_answers_sends_more(size, found):
    sent = {kind: steps[0][0] for kind, steps in found[size][0]["bytes"].items()}
    assert sent["energy"] == sent["no response"] < sent["one shot"] < sent["self-consistent"]
    assert sent["mesh"] < sent["mesh, one shot"] < sent["mesh, self-consistent"]


@SIZES
def test_given_total_charges_on_several_ranks_are_those_of_one_process(size, found):
    expected = rank_worker.given_charge_step(two_structures(), LatentElectrostatics(**SETTINGS))
    steps = [rank["given charge"] for rank in found[size]]
    for name, value in expected.items():
        torch.testing.assert_close(gathered(name, steps), value, **SAME, msg=lambda text, name=name: f"{name}: {text}")


@SIZES
def test_total_charges_that_differ_between_ranks_are_refused_on_all(size, found):
    for rank, values in enumerate(found[size]):
        other, wrong = values["given charge, refused"]
        assert other.startswith(f"total_charge: not the same on all {size} ranks")
        assert ("total_charge has shape (1,)" if rank == 1 else "another rank of the process group refuses") in wrong


@SIZES
def test_what_one_rank_refuses_all_refuse_in_words(size, found):
    first, second, *others = (rank["refusals"] for rank in found[size])
    assert "positions holds NaN" in second["NaN on one rank"]
    for rank in (first, *others):
        assert "another rank of the process group refuses" in rank["NaN on one rank"]
    for rank in (first, second, *others):
        assert rank["other cell"].startswith(f"cell: not the same on all {size} ranks")
        assert rank["no softness"].startswith(f"softness, requires_grad: not the same on all {size} ranks")
        assert rank["gradient on one"].startswith(f"requires_grad: not the same on all {size} ranks")
        assert "structure 0 is periodic and carries a net charge of 0.7 e" in rank["charged"]  # 7 atoms of 0.1 e
        assert "process_group with pbc [False, False, False] of structure 1" in rank["open"]


def test_copies_share_the_group_and_pickles_leave_it_out(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        layer = LatentElectrostatics(process_group=torch.distributed.group.WORLD)
        assert isinstance(layer.ranks, Ranks)
        assert layer.ranks.size == 1
        assert copy.deepcopy(layer).ranks is layer.ranks
        assert pickle.loads(pickle.dumps(layer)).ranks is None
        system = two_structures()
        torch.testing.assert_close(
            rank_worker.run(layer, system).energy, rank_worker.run(LatentElectrostatics(), system).energy, **SAME
        )
    finally:
        torch.distributed.destroy_process_group()
