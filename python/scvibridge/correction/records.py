"""A request for corrected counts, and the cells that effects are estimated from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from scvibridge.correction.findings import NOTHING, UNCHECKED, Found

if TYPE_CHECKING:
    import numpy as np

    from scvibridge.correction.chosen_cells import EstimationCells
    from scvibridge.correction.given_dispersion import GivenThetas
    from scvibridge.correction.residual_plan import ResidualPlan
    from scvibridge.correction.settings import CorrectionSettings
    from scvibridge.expression.records import Output, Running
    from scvibridge.models.adapters import Adapter, Target
    from scvibridge.models.cell_data import CellData


@dataclass(frozen=True)
class Request:
    """A checked request for corrected counts; see :func:`corrected_counts` for its fields."""

    adapter: Adapter
    data: CellData
    rows: np.ndarray
    genes: np.ndarray | None
    settings: CorrectionSettings
    running: Running
    output: Output
    dispersion: GivenThetas
    # The requested cells to estimate on; None for all.
    estimate_on: Any = None
    # Positions, among the model's genes, of those whose counts stay unchanged; None for none.
    genes_kept: np.ndarray | None = None
    # Entries whose parameters do not change keep their count without being computed. Computing
    # them gives the same result, which a test verifies by disabling this shortcut.
    keep_unchanged: bool = True

    @property
    def target(self) -> Target:
        """Target batches or covariate values that counts are decoded for."""
        return self.adapter.target

    @property
    def batch(self) -> np.ndarray:
        """Batch codes of the requested cells, shape ``(n,)``."""
        return self.data.covariates.batch[self.rows]

    def left_alone(self, low_detection: np.ndarray) -> np.ndarray:
        """Return which genes have no batch effect, of shape ``(n_batches, n_genes)`` as given.

        They are hardly detected, or are kept unchanged on request (`genes_kept`).
        """
        if self.genes_kept is None:
            return low_detection
        left = low_detection.copy()
        left[:, self.genes_kept] = True
        return left


@dataclass(frozen=True)
class CheckResults:
    """What the checks before any work found.

    Attributes
    ----------
    confounding
        Whether batch and condition are confounded, in a few words.
    design, corrected
        Further findings about conditions and batches, and about what can be corrected.
    residual_plan
        Effects missed by the decoder that can be estimated from the samples; None for none.
    residual
        Why these can be estimated, or why not.
    """

    confounding: str = UNCHECKED
    design: Found = NOTHING
    corrected: Found = NOTHING
    residual_plan: ResidualPlan | None = None
    residual: Found = NOTHING

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of all checks, in their order."""
        return (*self.corrected.notes, *self.design.notes, *self.residual.notes)


@dataclass(frozen=True)
class Reference:
    """The cells from which effects and depth are estimated: if possible, the model's own data.

    Attributes
    ----------
    data
        The cells.
    is_model_data
        Whether they are the model's own.
    labels, condition, samples
        Codes of the cells, -1 where missing, or None; with the names of the codes.
    whole
        The cells from which these were chosen (`estimate_on`); None if all were.
    chosen
        Which cells were chosen, and how they were requested; None if all were.
    found
        Why these cells were chosen, and whether their columns match the requested cells.
    """

    data: CellData
    is_model_data: bool
    labels: np.ndarray | None
    label_names: list[Any]
    condition: np.ndarray | None
    condition_names: list[Any]
    samples: np.ndarray | None = None
    sample_names: list[Any] = field(default_factory=list)
    whole: Reference | None = None
    chosen: EstimationCells | None = None
    found: Found = NOTHING

    @property
    def everyone(self) -> Reference:
        """All reference cells: support and what samples differ by rest on them."""
        return self if self.whole is None else self.whole

    def restricted(self, chosen: EstimationCells) -> Reference:
        """Return the chosen cells alone."""

        def taken(codes: np.ndarray | None) -> np.ndarray | None:
            return None if codes is None else codes[chosen.rows]

        return replace(
            self,
            data=self.data.take(chosen.rows),
            labels=taken(self.labels),
            condition=taken(self.condition),
            samples=taken(self.samples),
            whole=self,
            chosen=chosen,
        )

    def of_part(self, data: CellData) -> Reference:
        """Return the same cells with the counts of some genes; `data` are those of everyone."""
        part = replace(self.everyone, data=data)
        return part if self.chosen is None else part.restricted(self.chosen)

    def codes(self, argument: str) -> np.ndarray:
        """Return the codes of the column that an argument of :meth:`columns` names.

        Raises
        ------
        ValueError
            If the argument was not passed.
        """
        found, _ = self.columns()[argument]
        if found is None:
            raise ValueError(f"{argument} was not passed")
        return found

    def columns(self) -> dict[str, tuple[np.ndarray | None, list[Any]]]:
        """Return codes and names by the argument that names their column."""
        return {
            "labels_key": (self.labels, self.label_names),
            "condition_key": (self.condition, self.condition_names),
            "sample_key": (self.samples, self.sample_names),
        }
