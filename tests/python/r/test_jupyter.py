"""R in a notebook: the cells of docs/python.md run in IPython, and give what they should."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import scvibridge as sb

pytestmark = pytest.mark.r

PAGE = Path(__file__).resolve().parents[3] / "docs" / "python.md"
if not PAGE.is_file():
    pytest.skip("the pages are not part of the installed package", allow_module_level=True)

CELLS = re.findall(r"^```ipython\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def counts(folder_of_docs):
    """The result that docs/python.md has made where its cells begin."""
    model = sb.load(folder_of_docs / "model_dir", adata=folder_of_docs / "data.h5ad")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sb.corrected_counts(
            model, transform_batch="V3", labels_key="cell_type", normalized=True, progress=False
        )


@pytest.fixture(scope="module")
def shell(run_r, tmp_path_factory):
    """A shell as Jupyter's kernel has one, with a folder of its own."""
    pytest.importorskip("rpy2.rinterface_lib", reason="needs rpy2")
    pytest.importorskip("IPython", reason="needs IPython")
    run_r("", needs=("Seurat", "SingleCellExperiment"))
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        config = Config()
        config.HistoryManager.enabled = False
        made = InteractiveShell.instance(config=config)
        yield made
        InteractiveShell.clear_instance()


@pytest.fixture(scope="module")
def notebook(shell, counts):
    """What the cells leave: the shell's names, and what they displayed."""
    from IPython.utils.capture import capture_output
    from rpy2.robjects import conversion

    shell.push({"sb": sb, "counts": counts})
    before = conversion.get_conversion()
    displayed = []
    for cell in CELLS:
        with capture_output() as captured, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome = shell.run_cell(cell)
        outcome.raise_error()
        displayed.append(captured)
    assert conversion.get_conversion() is before
    return shell.user_ns, displayed


def test_a_value_of_r_comes_back_as_a_table(notebook, counts):
    """Seurat's shares and fold changes of the corrected counts, against numpy's."""
    markers = notebook[0]["markers"]
    assert isinstance(markers, pd.DataFrame)
    own = (counts.obs["cell_type"] == "CD19+ B").to_numpy()
    dense = pd.DataFrame(counts.X.toarray(), columns=seurat_names(counts.var_names))
    dense = dense[markers.index]
    totals = np.asarray(counts.X.sum(axis=1))
    scaled = 1e4 * dense / totals
    fold = np.log2((scaled[own].sum() + 1) / own.sum()) - np.log2(
        (scaled[~own].sum() + 1) / (~own).sum()
    )
    assert len(markers) > 20
    np.testing.assert_allclose(markers["pct.1"], (dense[own] > 0).mean(), atol=5.001e-4)
    np.testing.assert_allclose(markers["pct.2"], (dense[~own] > 0).mean(), atol=5.001e-4)
    np.testing.assert_allclose(markers["avg_log2FC"], fold, rtol=1e-9)


def seurat_names(names: pd.Index) -> list[str]:
    return [name.replace("_", "-") for name in names]


def test_a_plot_of_r_is_displayed(notebook):
    number = next(i for i, cell in enumerate(CELLS) if "DotPlot" in cell)
    images = [o.data["image/png"] for o in notebook[1][number].outputs if "image/png" in o.data]
    assert len(images) == 1
    assert len(images[0]) > 5000


def test_an_object_of_r_comes_back_as_anndata(notebook, counts):
    names, _ = notebook
    found = names["few_genes"]
    genes = list(names["markers"].index[:20])
    assert sorted(found.var_names) == sorted(genes)
    expected = pd.DataFrame(counts.X.toarray(), columns=seurat_names(counts.var_names))
    np.testing.assert_array_equal(found.X.toarray(), expected[list(found.var_names)])
    assert list(found.obs_names) == list(counts.obs_names)
    np.testing.assert_array_equal(found.obsm["X_scvi"], counts.obsm["X_scvi"])
