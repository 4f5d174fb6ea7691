"""The default dtype of torch among threads."""

import threading
import time

import pytest
import torch

from les_plugins.precision import default_dtype


def test_a_thread_that_leaves_does_not_change_the_dtype_of_one_that_is_inside():
    assert torch.get_default_dtype() is torch.float32
    seen = []

    def work(first: float, last: float) -> None:
        time.sleep(first)
        with default_dtype(torch.float64):
            time.sleep(last)
            seen.append(torch.tensor(0.1).dtype)

    # without the wait the second enters while the first is inside, and the first puts float32 back under it
    threads = [threading.Thread(target=work, args=times) for times in ((0.0, 0.1), (0.05, 0.2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [torch.float64, torch.float64]
    assert torch.get_default_dtype() is torch.float32


def test_it_nests_and_puts_the_former_dtype_back_after_an_error():
    def fail() -> None:
        with default_dtype(torch.float64), default_dtype(torch.float32):
            assert torch.tensor(0.1).dtype is torch.float32
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.get_default_dtype() is torch.float32
