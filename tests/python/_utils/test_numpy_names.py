"""Names of columns that are numpy's texts, as those of numpy arrays are."""

import anndata as ad
import numpy as np

from scvibridge.io import storage
from scvibridge.io.h5ad import write_h5ad


def test_a_column_named_by_numpy_is_stored(tmp_path):
    adata = ad.AnnData(np.ones((3, 2), dtype=np.float32))
    adata.obs[np.str_("score")] = [1.0, 2.0, 3.0]
    storage.check_tables(adata)
    stored = ad.read_h5ad(write_h5ad(adata, tmp_path / "x.h5ad"))
    assert stored.obs["score"].tolist() == [1.0, 2.0, 3.0]
