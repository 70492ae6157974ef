"""Mixtures of RNA measured by two technologies: the batch effect is known from the other's wells.

RNA of three cell lines was mixed in seven known proportions and four amounts, and each mixture was
measured in wells by CEL-seq2 and by SORT-seq (Tian et al., Nature Methods 16, 2019). SORT-seq is
corrected to CEL-seq2 and compared with what CEL-seq2 measured: in the same wells that the model was
trained on, and in wells that were held out.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.optimize import nnls

import scvibridge as sb
from benchmarks.validity import cells as real
from benchmarks.validity import peers
from benchmarks.validity.neighbours import log_normalised
from benchmarks.validity.rows import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData

EXPERIMENT = "paired wells"
SEEDS = (1, 2, 3, 4, 5)
MIXTURES = "rnamix_celseq2_sortseq"
SOURCE, TARGET = "SORT-seq", "CEL-seq2"
LINES = ("H2228", "H1975", "HCC827")
MODELS = ("SCVI", "SCVI with dispersion by batch", "LinearSCVI")
HELD_OUT = {"wells of the training": False, "held-out wells": True}
N_GENES, EPOCHS = 3000, 300
SMALL = {"n_genes": 200, "epochs": 5}
# Of a mixture's counts in both technologies: below, log ratios are mostly noise.
MIN_COUNTS = 10
# Random groups of wells stand in for samples: wells of one technology are replicates.
N_GROUPS = 4
WRONG_SHARE = 0.25
REFERENCE = "other CEL-seq2 wells"


@dataclass(frozen=True)
class Wells:
    """Wells to correct, and the wells of the other technology that they are compared with.

    Attributes
    ----------
    trained
        All wells that the model was trained on.
    truth
        Wells of the target technology, counts of shape ``(n_wells, n_genes)``.
    others
        Further wells of the target technology, which are compared with `truth` like a method's
        result: the best that a correction can achieve. None if `truth` has all wells.
    """

    trained: AnnData
    truth: AnnData
    others: AnnData | None


def run(
    seed: int,
    work: Path,
    data: Path,
    *,
    small: bool = False,
    methods: Sequence[str] | None = None,
) -> list[Row]:
    """Train on the wells, correct, and compare, with each model and choice of the truth."""
    cells = real.load(data, MIXTURES)
    cells = real.most_expressed(cells, SMALL["n_genes"] if small else N_GENES)
    rows: list[Row] = []
    for name in MODELS[: 1 if small else None]:
        for held_out, is_held_out in HELD_OUT.items():
            wells = choose_wells(cells, seed, held_out=is_held_out)
            folder = (
                work
                / f"paired-{name.replace(' ', '_')}-{held_out.split()[0]}-{seed}{'-small' * small}"
            )
            model = trained(wells.trained, name, folder, seed, small=small)
            # ComBat-seq knows neither model nor seed.
            slow = seed == SEEDS[0] and name == MODELS[0] and not small
            rows += [
                Row(EXPERIMENT, f"{name}, {held_out}", seed, method, figure, value)
                for method, table in corrected(model, wells, seed, methods, slow=slow).items()
                for figure, value in figures(table, wells).items()
            ]
    return rows


def choose_wells(cells: AnnData, seed: int, *, held_out: bool) -> Wells:
    """Choose the wells to train on and those to compare with.

    Half of the target's wells of each mixture and amount are held out, or none.
    """
    rng = np.random.default_rng(seed)
    cells = cells.copy()
    cells.obs["mixture"] = cells.obs["mixture"].astype("category")
    cells.obs["technology"] = cells.obs["technology"].astype("category")
    group = rng.integers(N_GROUPS, size=cells.n_obs).astype(str)
    cells.obs["wells"] = pd.Categorical(cells.obs["technology"].astype(str) + " " + group)
    is_target = (cells.obs["technology"] == TARGET).to_numpy()
    if not held_out:
        return Wells(cells, truth=cells[is_target].copy(), others=None)
    held = np.zeros(cells.n_obs, dtype=bool)
    held[is_target] = real.random_half(rng, cells.obs.loc[is_target, ["mixture", "mRNA_amount"]])
    return Wells(cells[~held].copy(), cells[held].copy(), others=cells[is_target & ~held].copy())


def trained(cells: AnnData, name: str, folder: Path, seed: int, *, small: bool) -> Any:
    """Train a model, or load the one that the folder contains from an earlier run."""
    if folder.is_dir():
        return sb.load(folder, progress=False)
    epochs = SMALL["epochs"] if small else EPOCHS
    if name == "SCVI":
        return sb.train_scvi(
            cells,
            batch_key="technology",
            labels_key="mixture",
            n_top_genes=None,
            max_epochs=epochs,
            seed=seed,
            save=folder,
            progress=False,
        )
    import scvi

    scvi.settings.seed = seed
    kind = scvi.model.LinearSCVI if name == "LinearSCVI" else scvi.model.SCVI
    dispersion = "gene" if name == "LinearSCVI" else "gene-batch"
    kind.setup_anndata(cells, batch_key="technology")
    model = kind(cells, gene_likelihood="nb", dispersion=dispersion)
    model.train(
        max_epochs=epochs,
        accelerator="cpu",
        plan_kwargs={"n_epochs_kl_warmup": epochs // 4},
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
    )
    model.save(str(folder), save_anndata=True)
    return model


# -- counts by each method -------------------------------------------------------------------------


def corrected(
    model: Any,
    wells: Wells,
    seed: int,
    methods: Sequence[str] | None = None,
    *,
    slow: bool = False,
) -> dict[str, AnnData]:
    """Return the wells of the other technology with the counts of each method."""
    cells = wells.trained
    is_source = (cells.obs["technology"] == SOURCE).to_numpy()
    rng = np.random.default_rng(seed)
    wrong = cells.obs["mixture"].to_numpy().copy()
    chosen = np.flatnonzero(rng.random(cells.n_obs) < WRONG_SHARE)
    wrong[chosen] = rng.permutation(wrong[chosen])
    model.adata.obs["wrong"] = pd.Categorical(wrong)
    model.adata.obs["wells"] = cells.obs["wells"].to_numpy()
    model.adata.obs["mixture"] = cells.obs["mixture"].to_numpy()

    def ours(**arguments: Any) -> Callable[[], Any]:
        def correct() -> Any:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return sb.corrected_counts(
                    model, transform_batch=TARGET, seed=seed, progress=False, **arguments
                ).X

        return correct

    label = {"labels_key": "mixture"}

    def refitted() -> Any:
        fit = sb.calibration(model, seed=seed, progress=False)
        return ours(**label, dispersion=fit)()

    known: Mapping[str, Callable[[], Any]] = {
        "raw": lambda: cells.X,
        "quantile, label": ours(**label),
        "quantile, label, a quarter of labels wrong": ours(labels_key="wrong"),
        "quantile, label, not shrunk": ours(**label, shrinkage=0),
        "quantile, label, residual": ours(**label, sample_key="wells", residual="always"),
        "quantile, label, refitted dispersion": refitted,
        "quantile, global": ours(),
        "quantile, global, residual": ours(sample_key="wells", residual="always"),
        "quantile, cell": ours(effect="cell"),
        "sample": ours(method="sample"),
        "posterior_predictive_sample": lambda: peers.posterior_predictive(model, TARGET, seed),
    }
    if slow:
        known = {**known, "ComBat_seq, wells": lambda: _combat_seq(cells)}
    tables = {}
    for name in known if methods is None else [name for name in known if name in methods]:
        table = cells.copy()
        table.X = sp.csr_matrix(known[name]())
        tables[name] = table[is_source].copy()
    if wells.others is not None and (methods is None or REFERENCE in methods):
        tables[REFERENCE] = wells.others
    return tables


def _combat_seq(cells: AnnData) -> np.ndarray:
    """ComBat-seq, which is given the mixtures. It corrects both technologies to their mean."""
    samples = cells.obs[["technology", "mixture"]].rename(columns={"technology": "batch"})
    return np.rint(peers.combat_seq(cells.X.toarray(), samples))


# -- figures ---------------------------------------------------------------------------------------


def figures(table: AnnData, wells: Wells) -> dict[str, float]:
    """Compare wells with the truth.

    Returns
    -------
    The root mean square error of log2 pseudobulks of mixtures; the mean correlation of a well with
    wells of the target technology of the same mixture and amount; the correlation of log fold
    changes between the pure lines; the share of zeros; and how well non-negative least squares and
    three components of NMF recover the known proportions.
    """
    both, found = pseudobulks(wells.truth), pseudobulks(table)
    raw = wells.trained[(wells.trained.obs["technology"] == SOURCE).to_numpy()]
    enough = np.minimum(both, pseudobulks(raw)).min(axis=0) >= MIN_COUNTS
    error = (log2_cpm(found) - log2_cpm(both)).loc[:, enough]
    return {
        "RMSE of log2 pseudobulks": float(np.sqrt((error.to_numpy() ** 2).mean())),
        "correlation of paired wells": paired_correlation(table, wells.truth),
        "correlation of fold changes between lines": fold_change_correlation(found, both, enough),
        "share of zeros": 1 - table.X.count_nonzero() / (table.n_obs * table.n_vars),
        "deconvolution, RMSE of proportions": deconvolution_error(table, both),
        "NMF, correlation of usages": usage_correlation(table, wells.truth),
    }


def pseudobulks(table: AnnData) -> pd.DataFrame:
    """Sum the counts of each mixture, shape ``(n_mixtures, n_genes)``."""
    groups = table.obs.groupby("mixture", observed=True).indices
    sums = {name: np.asarray(table.X[rows].sum(axis=0)).ravel() for name, rows in groups.items()}
    return pd.DataFrame.from_dict(sums, orient="index", columns=table.var_names).sort_index()


def log2_cpm(bulk: pd.DataFrame) -> pd.DataFrame:
    """Log2 counts per million with half a count added (as limma's voom)."""
    return np.log2((bulk + 0.5).div(bulk.sum(axis=1) + 1, axis=0) * 1e6)


def paired_correlation(table: AnnData, truth: AnnData) -> float:
    """Mean correlation over genes of a well with the truth's wells of its mixture and amount.

    Wells that are in both tables are not compared with themselves.
    """
    ours, theirs = (log_normalised(x.X).astype(float) for x in (table, truth))
    ours, theirs = (x - x.mean(axis=1, keepdims=True) for x in (ours, theirs))
    ours, theirs = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (ours, theirs))
    correlation = ours @ theirs.T
    pair = np.ones(correlation.shape, dtype=bool)
    for column in ("mixture", "mRNA_amount"):
        pair &= table.obs[column].to_numpy()[:, None] == truth.obs[column].to_numpy()
    pair &= table.obs_names.to_numpy()[:, None] != truth.obs_names.to_numpy()
    return float(correlation[pair].mean())


def fold_change_correlation(found: pd.DataFrame, truth: pd.DataFrame, genes: np.ndarray) -> float:
    """Correlation of the log fold changes of all pairs of pure lines."""
    pure = [_mixture(found, line) for line in LINES]
    changes = []
    for table in (found, truth):
        logs = log2_cpm(table).loc[:, genes]
        pairs = [(0, 1), (0, 2), (1, 2)]
        changes.append(np.concatenate([logs.loc[pure[a]] - logs.loc[pure[b]] for a, b in pairs]))
    return float(np.corrcoef(*changes)[0, 1])


def _mixture(bulk: pd.DataFrame, line: str) -> str:
    """Name of the mixture that is one line alone."""
    name = "/".join("1.00" if line == other else "0.00" for other in LINES)
    return str(bulk.index[list(bulk.index).index(name)])


def proportions(table: AnnData) -> np.ndarray:
    """Known proportions of the lines in each well, shape ``(n_wells, 3)``, with sums of 1."""
    known = table.obs[[f"{line}_prop" for line in LINES]].to_numpy(dtype=float)
    return np.asarray(known / known.sum(axis=1, keepdims=True))


def deconvolution_error(table: AnnData, truth: pd.DataFrame) -> float:
    """Deconvolve wells by the truth's pure lines with non-negative least squares.

    Returns
    -------
    The root mean square error of the proportions.
    """
    pure = truth.loc[[_mixture(truth, line) for line in LINES]].to_numpy(dtype=float)
    reference = (pure / pure.sum(axis=1, keepdims=True)).T
    counts = table.X.toarray().astype(float)
    counts /= counts.sum(axis=1, keepdims=True)
    # Genes weigh by the inverse of their standard deviation under Poisson noise.
    weight = 1 / np.sqrt(reference.mean(axis=1) + 1e-6)
    found = np.stack([nnls(reference * weight[:, None], well * weight)[0] for well in counts])
    found /= found.sum(axis=1, keepdims=True)
    return float(np.sqrt(((found - proportions(table)) ** 2).mean()))


def usage_correlation(table: AnnData, truth: AnnData) -> float:
    """Factorise both technologies together (NMF, K = 3) and compare usages with proportions.

    Returns
    -------
    The mean over the lines of the correlation of the proportion with the usage of the component
    matched to it, over all wells.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.decomposition import NMF

    own = ~table.obs_names.isin(truth.obs_names)
    values = np.concatenate([_scaled(table)[own], _scaled(truth)])
    deviation = values.std(axis=0)
    # As cNMF does: variable genes, scaled to unit variance and not centred; spectra of equal sums.
    chosen = np.argsort(-deviation / np.sqrt(values.mean(axis=0) + 1e-9))[:1000]
    factors = NMF(3, init="nndsvda", max_iter=1000, random_state=0)
    usage = factors.fit_transform(values[:, chosen] / np.maximum(deviation[chosen], 1e-9))
    usage *= factors.components_.sum(axis=1)
    usage /= np.maximum(usage.sum(axis=1, keepdims=True), 1e-9)
    known = np.concatenate([proportions(table)[own], proportions(truth)])
    correlation = np.corrcoef(usage.T, known.T)[:3, 3:]
    return float(correlation[linear_sum_assignment(-correlation)].mean())


def _scaled(table: AnnData) -> np.ndarray:
    counts = table.X.toarray().astype(float)
    return np.asarray(counts / counts.sum(axis=1, keepdims=True) * 1e4)
