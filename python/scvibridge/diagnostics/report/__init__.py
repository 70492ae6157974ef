"""The report: one HTML file about a corrected-counts result.

given       checks of precomputed results passed in
reading     the result, opened and checked
tallies     statistics from one pass over all cells
evidence    what was changed, and the remaining batch effect
measures    measures shared with the demo
support     whether cells have target cells near them
modelled    what needs the model
markers     genes that distinguish cell types
added       genes that the model was not trained on
provenance  settings, and how to reproduce the result
verdict     the conclusions, in words
sections    the sections of the page
figures     its figures, rendered by drawing in the colours of palette
blocks      elements of sections
page        the template, filled and written
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scvibridge import _version
from scvibridge._utils.arguments import check_types
from scvibridge.diagnostics.report import added, depth_section, evidence, page, sections
from scvibridge.diagnostics.report.blocks import plain
from scvibridge.diagnostics.report.findings import Evidence
from scvibridge.diagnostics.report.given import check_parts, check_same_model
from scvibridge.diagnostics.report.modelled import Model
from scvibridge.diagnostics.report.palette import BATCH_COLOURS, TYPE_COLOURS, colours_of
from scvibridge.diagnostics.report.reading import MISSING, open_result
from scvibridge.diagnostics.report.support import support_of
from scvibridge.diagnostics.report.tallies import tally
from scvibridge.diagnostics.report.verdict import judge
from scvibridge.io.opened_files import check_not_source
from scvibridge.io.paths import check_output, named
from scvibridge.likelihood.cpu.philox import check_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from os import PathLike

    import pandas as pd
    from anndata import AnnData

    from scvibridge.diagnostics.report.blocks import Section
    from scvibridge.diagnostics.report.reading import Result


REPORT_ENDINGS = (".html", ".htm")

_NEEDED = ("jinja2", "matplotlib")

_NO_SUPPORT = (
    "The support of the cells in the target batch is unknown: pass model= (--model), or support=, "
    "the result of batch_support(model)."
)

_NOT_CALIBRATED = (
    "The fit of the model was not checked: pass model= (--model), or calibration=, the result of "
    "calibration(model), in R scvi_calibration(model)."
)


def report(
    result: AnnData | str | PathLike[str],
    out: str | PathLike[str] | None = None,
    model: Any = None,
    adata: AnnData | str | PathLike[str] | Sequence[str | PathLike[str]] | None = None,
    labels_key: str | None = None,
    condition_key: str | None = None,
    support: Any = None,
    calibration: Any = None,
    damage: pd.DataFrame | None = None,
    title: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Write a report about corrected counts: one HTML file to read, print and send.

    It describes what was done and whether the counts can be used, and for what: support of the
    cells, batches before and after, the batch effect of each gene, depth, zeros, mean and variance,
    the calibration of the model, and markers. For anything that could not be computed, it names the
    argument to pass.

    Parameters
    ----------
    result
        The result of :func:`scvibridge.corrected_counts`: an AnnData, or the path of an h5ad file
        or a zarr folder, which is read block by block.
    out
        The HTML file to write. By default ``NAME_report.html`` next to `result` if that is a file.
    model
        The model that the result was computed with (extended, if that was). It is used for support,
        calibration and normalized expression that are neither passed nor in the result.
    adata
        The model's data, if it was loaded without them.
    labels_key, condition_key
        Columns of ``obs`` with cell types and the condition of interest; by default those used to
        compute the result.
    support
        The result of :func:`scvibridge.batch_support`.
    calibration
        The result of :func:`scvibridge.calibration`; False to leave it out although there is a
        model.
    damage
        The result of :func:`scvibridge.damage`.
    title
        Heading of the page.
    seed
        Seed of the layouts and of the shuffled batches, 0 to 2**32 - 1. The same result and seed
        produce the same file.
    overwrite
        Whether to replace `out` if it exists.
    progress
        Whether to show progress on standard error.

    Returns
    -------
    pathlib.Path
        The path of the file.

    Raises
    ------
    ImportError
        If jinja2 or matplotlib is not installed.
    TypeError, FileNotFoundError, ValueError
        If `result` is not a corrected-counts result, contains no raw counts (like 10x files), or is
        of another model than `model`, `support` or `calibration`; if a column is missing; or if
        `out` cannot be written or is an input file. Nothing is written in that case.
    FileExistsError
        If `out` exists and `overwrite` is False.

    Examples
    --------
    >>> scvibridge.report("corrected.h5ad", "report.html")  # doctest: +SKIP
    """
    check_types(report, locals())
    check_parts(support, calibration, damage)
    check_available()
    seed = int(check_seed(seed))
    path = check_report(out, result, model, adata, overwrite=bool(overwrite))
    opened = open_result(result, labels_key, condition_key)
    check_same_model(opened, model, support, calibration)
    known = None if model is None else Model(model, adata, progress)
    reasons = {"support": _NO_SUPPORT, "fit": _NOT_CALIBRATED}
    if support is None and known is not None and opened.flag("supported") is None:
        support = _ask(lambda: known.support(opened), "support", reasons)
    if calibration is None and known is not None:
        calibration = _ask(lambda: known.calibration(seed), "fit", reasons)
    found = _evidence(opened, support, calibration or None, seed, progress)
    parts = _sections(opened, found, known, reasons, damage)
    html = page.render(
        title=plain(title or "Corrected counts: can they be used?", 200),
        subtitle=_subtitle(opened),
        verdict=judge(found),
        sections=parts,
        colours=_colours(opened),
        version=_version.__version__,
    )
    page.write(html, path, overwrite=bool(overwrite))
    return path


def check_available() -> None:
    """Check that the packages required by the report are installed.

    Raises
    ------
    ImportError
        If one of them is missing.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"a report needs {' and '.join(missing)}: pip install 'scvibridge[report]'"
        )


def check_report(out: Any, result: Any, *sources: Any, overwrite: bool = False) -> Path:
    """Check the path of the report, or derive it from the path of the result.

    Raises
    ------
    ValueError, TypeError, FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError
        As for `scvibridge.io.paths.check_output`; also if `out` is the result itself, or
        another input file.
    """
    if out is None:
        if not isinstance(result, str | Path):
            raise ValueError("pass out=, the HTML file to write: the result is not a file")
        source = Path(result).expanduser()
        out = source.with_name(f"{source.stem}_report.html")
    if isinstance(out, str | os.PathLike):
        check_not_source(named(out), result, *sources)
    return check_output(out, REPORT_ENDINGS, overwrite=overwrite)


def _ask(question: Callable[[], Any], about: str, reasons: dict[str, str]) -> Any:
    """Compute something from the model, or record why it cannot be (e.g. no held-out cells)."""
    try:
        return question()
    except ValueError as error:
        reasons[about] = f"The {about} cannot be computed from the model: {error}."
        return None


def _evidence(
    result: Result, support: Any, calibration: Any, seed: int, progress: bool
) -> Evidence:
    checked = support_of(result, support)
    tallies = tally(result, seed, progress)
    folds = evidence.batch_folds(result, tallies)
    spread = evidence.spread(evidence.pooled(folds))
    plane = evidence.lay_out(result, seed)
    return Evidence(result, tallies, folds, spread, plane, checked, calibration)


def _colours(result: Result) -> tuple[Any, Any]:
    n_targets = sum(name in result.targets for name in result.batch.names)
    return (
        colours_of(result.batch, "batch", BATCH_COLOURS, first=n_targets),
        colours_of(result.types, "cell type", TYPE_COLOURS, without=MISSING),
    )


def _sections(
    result: Result,
    found: Evidence,
    model: Model | None,
    reasons: dict[str, str],
    damage: pd.DataFrame | None,
) -> list[Section]:
    batches, types = _colours(result)
    return [
        sections.done(result),
        sections.supported(result, found.support, reasons["support"]),
        sections.plane(result, found.plane, batches, types),
        sections.genes(result, found.folds, found.tallies, batches),
        depth_section.depth(result, found.tallies, batches),
        sections.calibrated(found.calibration, reasons["fit"], damage),
        *added.added_genes(result, found.calibration),
        sections.marker_genes(result, model, types),
        sections.what_for(result),
    ]


def _subtitle(result: Result) -> str:
    where = f"{plain(result.path.name, 80)}: " if result.path else ""
    return f"{where}{result.n_cells:,} cells, {result.raw.shape[1]:,} genes"
