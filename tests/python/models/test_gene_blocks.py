"""Counts of added genes, in blocks of genes and passes over the cells; threads for the blocks."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from extension import QUIET
from numpy.testing import assert_array_equal

import scvibridge as sb
from scvibridge._utils.torch_threads import side_by_side
from scvibridge.models.cell_data import CountsInMemory
from scvibridge.models.extension import gene_blocks

N_CELLS, N_GENES = 70, 23


@pytest.fixture
def counts():
    rng = np.random.default_rng(0)
    dense = rng.poisson(0.4, (N_CELLS, N_GENES))
    dense[3, 5], dense[41, 20] = 70_000, 65_535
    dense[:, 11] = 0
    dense[17] = 0
    return dense


def in_memory(dense):
    return CountsInMemory(sp.csr_matrix(dense.astype(np.int32)))


@pytest.mark.parametrize("n_bytes", [1, 1_200, 2_000, 10**9], ids=str)
def test_blocks_are_the_counts_however_many_passes_there_are(counts, monkeypatch, n_bytes):
    monkeypatch.setattr(gene_blocks, "GENES_PER_BLOCK", 4)
    monkeypatch.setattr(gene_blocks, "_BYTES_PER_PASS", n_bytes)
    monkeypatch.setattr("scvibridge.models.cell_data.ENTRIES_PER_READ", 10 * N_GENES)
    seen = (counts > 0).sum(axis=0)
    passes = list(gene_blocks.gene_blocks(in_memory(counts), seen, progress=False))
    found = [block for blocks in passes for block in blocks]
    assert [block.shape[1] for block in found] == [4] * 5 + [3]
    assert_array_equal(np.hstack([block.toarray() for block in found]), counts)
    expected = {1: 6, 10**9: 1}.get(n_bytes)
    assert 1 < len(passes) < 6 if expected is None else len(passes) == expected
    for blocks in passes:
        # What is held at a time: one block at least, else no more than is allowed.
        held = sum(block.nnz for block in blocks) * 6
        assert len(blocks) == 1 or held <= n_bytes


def test_some_genes_are_read_in_their_order(counts):
    some = np.array([2, 5, 6, 20])
    (found,) = gene_blocks.read_columns(in_memory(counts), [some], (counts > 0).sum(axis=0), False)
    assert_array_equal(found.toarray(), counts[:, some])


def test_the_fit_is_the_same_on_any_number_of_threads(simulate, train):
    cells = simulate(n_cells=150, n_genes=60, seed=3)
    model = train(cells[:, :20].copy(), labels_key=None, max_epochs=2)
    found = []
    before = torch.get_num_threads(), gene_blocks.GENES_PER_BLOCK
    gene_blocks.GENES_PER_BLOCK = 16
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(sb.extend_genes(model, cells, max_epochs=4, **QUIET))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before[0])
        gene_blocks.GENES_PER_BLOCK = before[1]
    one, three = found
    assert_array_equal(one.head.weights, three.head.weights)
    assert_array_equal(one.head.log_theta, three.head.log_theta)
    assert one.settings == three.settings


def test_results_come_in_order_and_the_first_error_ends_the_rest():
    host = torch.device("cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        doubled = side_by_side(lambda x, _: 2 * x, list(range(9)), host, "Doubling", False)
        assert doubled == [0, 2, 4, 6, 8, 10, 12, 14, 16]
        started, ended = [], threading.Event()

        def work(item, stop):
            started.append(item)
            if item == 0:
                raise ValueError("item 0 cannot be done")
            if stop.wait(timeout=60):
                ended.set()
            return item

        with pytest.raises(ValueError, match="item 0 cannot be done"):
            side_by_side(work, list(range(50)), host, "Working", False)
        assert ended.is_set()
        assert len(started) < 50
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_numba_leaves_the_number_of_torchs_threads_alone(simulate, train, tmp_path):
    # numba's own threads are started once in a process: one of its own.
    cells = simulate(n_cells=80, n_genes=30, seed=4)
    model = train(cells, labels_key=None, max_epochs=1)
    model.save(str(tmp_path / "model"), save_anndata=True)
    code = (
        "import torch, scvibridge as sb\n"
        "torch.set_num_threads(1)\n"
        f"model = sb.load({str(tmp_path / 'model')!r}, device='cpu')\n"
        "sb.corrected_counts(model, transform_batch='V2', device='cpu', progress=False)\n"
        "print(torch.get_num_threads())\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == "1"
