"""Tasks on several threads: order, number of threads, errors, and what is left afterwards."""

import threading
import time

import numpy as np
import pytest
import torch

from scvibridge._utils.torch_threads import in_order, one_thread, share_rows

HOST = torch.device("cpu")


@pytest.fixture(params=[1, 2, 3, 9])
def n_threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_order(n_threads):
    def work(item):
        time.sleep(0.002 * (item % 3))
        return item * item

    assert list(in_order(work, range(20), HOST)) == [item * item for item in range(20)]
    assert list(in_order(work, [], HOST)) == []
    assert torch.get_num_threads() == n_threads


def test_threads_are_shared_out(n_threads):
    def work(_):
        time.sleep(0.01)
        return torch.get_num_threads(), threading.get_ident()

    found = list(in_order(work, range(12), HOST))
    n_workers = len({ident for _, ident in found})
    if n_threads == 1:
        assert {ident for _, ident in found} == {threading.get_ident()}
        return
    assert 1 < n_workers <= min(n_threads, 4)
    assert all(of_torch * min(n_threads, 4) <= n_threads for of_torch, _ in found)


@pytest.mark.parametrize("n_rows", [0, 1, 31, 32, 65, 1000])
def test_each_row_is_in_one_part(n_threads, n_rows):
    done, threads = np.zeros(n_rows, dtype=int), set()

    def work(rows):
        threads.add(threading.get_ident())
        done[rows] += 1
        time.sleep(0.005)

    share_rows(work, n_rows, 32)
    assert (done == 1).all()
    assert len(threads) <= max(1, min(n_threads, n_rows // 32))
    if n_threads > 1 and n_rows == 1000:
        assert len(threads) > 1
    assert torch.get_num_threads() == n_threads


@pytest.mark.usefixtures("n_threads")
def test_an_error_in_a_part_is_raised():
    def work(rows):
        if rows.stop == 1000:
            raise OverflowError("the last part")

    with pytest.raises(OverflowError, match="the last part"):
        share_rows(work, 1000, 32)


def test_few_results_wait():
    begun = []
    results = in_order(begun.append, range(100), HOST)
    next(results)
    time.sleep(0.05)
    assert len(begun) <= 9
    results.close()
    assert len(begun) < 20


@pytest.mark.usefixtures("n_threads")
def test_errors_end_the_work():
    before, begun = torch.get_num_threads(), []

    def work(item):
        begun.append(item)
        if item == 3:
            raise OverflowError("item 3")
        return item

    with pytest.raises(OverflowError, match="item 3"):
        list(in_order(work, range(1000), HOST))
    assert len(begun) < 20
    assert torch.get_num_threads() == before


def test_tasks_within_one_thread_stay_there():
    with one_thread():
        found = list(in_order(lambda _: threading.get_ident(), range(4), HOST))
    assert set(found) == {threading.get_ident()}


def test_two_at_a_time_restore_the_threads():
    """They overlap without being nested, as the results of two generators do."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    first, second = (in_order(lambda item: item, range(6), HOST) for _ in range(2))
    assert next(first) == next(second) == 0
    assert list(first) == list(range(1, 6))
    assert list(second) == list(range(1, 6))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
