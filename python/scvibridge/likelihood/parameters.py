"""Parameters of the count likelihoods for a block of cells, from the decoder to the kernels."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from scvibridge.likelihood.cpu import rows_of_counts

if TYPE_CHECKING:
    from collections.abc import Callable

FloatArray = npt.NDArray[np.floating[Any]]

# Matrices of cells by genes, and everything else. Matrices are tensors on the model's device, where
# the decoder computes them; everything else is on the host until a kernel needs it.
Dense = TypeVar("Dense", npt.NDArray[Any], torch.Tensor)
Table = TypeVar("Table", npt.NDArray[Any], torch.Tensor)


@dataclass(frozen=True)
class GroupShift(Generic[Table]):
    """Change of parameters shared by the cells of a group, stored once per group.

    Attributes
    ----------
    ratio
        Factor on the means of each gene, shape (R, G), float64, finite and not negative.
    zi_shift
        Added to the logits of the dropout probability, shape (R, G), float64; nothing if None.
    shift_row
        Row of both that each cell uses, shape (n,), integers.
    """

    ratio: Table
    zi_shift: Table | None
    shift_row: Table


@dataclass(frozen=True)
class CountParameters(Generic[Dense, Table]):
    """Parameters of the counts of n cells and G genes: Poisson, NB or ZINB.

    The mean of an entry is ``rate * factor``, times ``ratio[shift_row]`` if there is a shift. It is
    computed in double precision where it is used, to avoid a second matrix. The functions that
    compute counts check the arrays.

    Attributes
    ----------
    rate
        Frequencies of the decoder, shape (n, G), float32 or float64, finite and not negative.
    factor
        Factor on the rates of each cell, shape (n,), float64: library, depth, renormalisation.
    theta
        Inverse dispersion, shape (K, G), float64, above 0: the variance is
        mean + mean**2 / theta, and infinity is the Poisson. None for a Poisson throughout. A matrix
        of the decoder if it computes a value for each cell.
    theta_row
        Row of `theta` that each cell uses, shape (n,), integers.
    zi_logits
        Logit of the dropout probability, shape (n, G), float32 or float64. None without zero
        inflation.
    shift
        Change of the means and logits of groups of cells, or None.
    """

    rate: Dense
    factor: Table
    theta: Dense | Table | None
    theta_row: Table
    zi_logits: Dense | None
    shift: GroupShift[Table] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of cells and genes."""
        return self.rate.shape[0], self.rate.shape[1]

    def arrays(self) -> dict[str, Any]:
        """Return the arrays by name, those of the shift included, without those that are None."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        shift = own.pop("shift")
        held = own if shift is None else {**own, **vars(shift)}
        return {name: values for name, values in held.items() if values is not None}

    def map(self, function: Callable[[str, Any], Any]) -> CountParameters[Any, Any]:
        """Return the parameters after applying a function to the name and values of each array."""
        made = {name: function(name, values) for name, values in self.arrays().items()}
        shift: GroupShift[Any] | None = None
        if self.shift is not None:
            shift = GroupShift(made["ratio"], made.get("zi_shift"), made["shift_row"])
        return CountParameters(
            made["rate"],
            made["factor"],
            made.get("theta"),
            made["theta_row"],
            made.get("zi_logits"),
            shift,
        )

    def of_genes(self, genes: np.ndarray | None) -> CountParameters[Dense, Table]:
        """Return the parameters of some genes, in the given order; of all if None."""
        if genes is None:
            return self
        is_tensor = isinstance(self.rate, torch.Tensor)
        on_device = torch.as_tensor(genes, device=self.rate.device) if is_tensor else genes

        def chosen(name: str, values: Any) -> Any:
            if name in _OF_CELLS:
                return values
            return values[:, on_device if isinstance(values, torch.Tensor) else genes]

        return self.map(chosen)

    def of_rows(self, rows: slice) -> CountParameters[Dense, Table]:
        """Return the parameters of some consecutive cells; tables are shared."""

        def chosen(name: str, values: Any) -> Any:
            return values[rows] if name in _OF_CELLS or name in _MATRICES else values

        return self.map(chosen)

    def numpy(self) -> HostParameters:
        """Return the parameters on the host."""
        return self.map(lambda _, values: values.cpu().numpy() if _is_tensor(values) else values)

    def to(
        self, device: torch.device, table: Callable[[Any], torch.Tensor] | None = None
    ) -> DeviceParameters:
        """Return the parameters on a device.

        Parameters
        ----------
        device
            The device; matrices that are tensors stay where they are.
        table
            Copies a table of dispersions, ratios or shifts to the device; several blocks may share
            the copy.
        """

        def moved(name: str, values: Any) -> torch.Tensor:
            if _is_tensor(values):
                return values
            if table is not None and name in _TABLES:
                return table(values)
            tensor = torch.as_tensor(values, device=device)
            return tensor.long() if name in _ROWS else tensor.double()

        return self.map(moved)


# What has an entry for each cell and gene, for each cell, and for each gene and group of cells.
_MATRICES = frozenset({"rate", "zi_logits"})
_ROWS = frozenset({"theta_row", "shift_row"})
_OF_CELLS = _ROWS | {"factor"}
_TABLES = frozenset({"theta", "ratio", "zi_shift"})

HostParameters = CountParameters[npt.NDArray[Any], npt.NDArray[Any]]

"""On the host, for the compiled kernels."""

BlockParameters = CountParameters[torch.Tensor, npt.NDArray[Any]]

"""As decoded: matrices on the model's device, everything else on the host."""

DeviceParameters = CountParameters[torch.Tensor, torch.Tensor]

"""On one device, for the kernels of a GPU."""


def _is_tensor(values: Any) -> bool:
    return isinstance(values, torch.Tensor)


def check_status(status: npt.NDArray[np.int8]) -> None:
    """Refuse invalid parameters or counts.

    Parameters
    ----------
    status
        A code of `scvibridge.likelihood.cpu.draw` for each row, shape (n,).

    Raises
    ------
    ValueError
        If a mean is negative or not finite, or a logit is NaN.
    OverflowError
        If a count is above 2**31 - 1.
    """
    if np.any(status == rows_of_counts.INVALID):
        row = int(np.argmax(status == rows_of_counts.INVALID))
        raise ValueError(
            "the model's means must be finite and not negative, and its dropout logits must not be "
            f"NaN, but those of row {row} of this block are not. Check that the training finished "
            "without NaN losses"
        )
    if np.any(status == rows_of_counts.TOO_LARGE):
        row = int(np.argmax(status == rows_of_counts.TOO_LARGE))
        raise OverflowError(
            f"a count in row {row} of this block is above 2**31 - 1 = {2**31 - 1}, the largest "
            "that int32 and R's integers can hold; use a smaller library_size"
        )
