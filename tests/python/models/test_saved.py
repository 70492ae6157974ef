"""Models that several versions of scvi-tools have saved: they load, and decode as they did.

`saved/make_saved.py` made them.
"""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import families
import numpy as np
import pytest
import scvi
from numpy.testing import assert_allclose, assert_array_equal
from packaging.version import Version

import scvibridge as sb

PARAMETER = "log_per_batch_efficiency"
HERE = Path(__file__).parents[1] / "data" / "saved"
SAVED = sorted(file.parent for file in HERE.glob("*/*/model.pt"))
# Those that the scvi-tools installed cannot load itself, and what it says: TOTALVI got a parameter
# in 1.3, and SCANVI an argument.
if Version(scvi.__version__) >= Version("1.3"):
    UNREADABLE = {HERE / saved / "TOTALVI": PARAMETER for saved in ("1.1.6", "1.2.2")}
else:
    LATER = ("1.3.3", "1.4.2", "1.5.1")
    UNREADABLE = {HERE / saved / "TOTALVI": PARAMETER for saved in LATER}
    UNREADABLE |= {HERE / saved / "SCANVI": "datamodule" for saved in LATER}
QUIET = {"progress": False}
pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_versions_are_there():
    found = {(folder.parent.name, folder.name) for folder in SAVED}
    versions = {"1.1.6", "1.2.2", "1.3.3", "1.4.2", "1.5.1"}
    classes = {"SCVI", "LinearSCVI", "SCANVI", "AUTOZI", "TOTALVI"}
    assert {(version, name) for version in versions for name in classes} <= found


def named(folder):
    return f"{folder.parent.name}-{folder.name}"


@pytest.mark.parametrize("folder", UNREADABLE, ids=named)
def test_a_model_that_scvi_tools_cannot_load_is_refused_with_its_version(folder):
    cells = ad.read_h5ad(HERE / "cells.h5ad")
    with pytest.raises(ValueError, match=f"which scvi-tools {folder.parent.name} saved"):
        sb.load(folder, adata=cells)
    # numpy 1 cannot read the pickles of numpy 2, which scvi-tools meets first.
    reasons = f"{UNREADABLE[folder]}|numpy._core"
    with pytest.raises((RuntimeError, TypeError, ModuleNotFoundError), match=reasons):
        getattr(scvi.model, folder.name).load(str(folder), adata=cells.copy())


@pytest.mark.parametrize("folder", [f for f in SAVED if f not in UNREADABLE], ids=named)
def test_a_model_of_another_version_is_what_it_was(folder):
    cells = ad.read_h5ad(HERE / "cells.h5ad")
    model = sb.load(folder, adata=cells)
    assert type(model).__name__ == folder.name
    latent = np.load(folder / "latent.npy", allow_pickle=False)
    assert_allclose(model.get_latent_representation(), latent, rtol=1e-4, atol=1e-5)
    ours = sb.normalized_expression(model, transform_batch="b", **QUIET)
    assert_allclose(ours.obsm["X_scvi"], latent, rtol=1e-4, atol=1e-5)
    theirs = families.parameters(model, 1)["scale"]
    assert_allclose(ours.X, 1e4 * theirs, rtol=3e-5, atol=1e-8)
    counts = sb.corrected_counts(model, transform_batch="b", effect="cell", **QUIET)
    home = (cells.obs["batch"] == "b").to_numpy()
    assert_array_equal(counts.X[home].toarray(), cells.X[home].toarray())
