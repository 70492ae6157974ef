"""Names of columns that scvibridge and scvi-tools write, which data must not use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd


PREFIX = "scvibridge_"

# What scvi-tools writes to obs when it registers data.
PREFIX_OF_SCVI = "_scvi_"

# Column of obs that replaces the batch if other covariates were changed.
STRATUM = "scvibridge_stratum"

# Column names of results in obs and var, without the prefix.
_OF_OBS = (
    "depth_ratio",
    "effect_fallback",
    "effect_group",
    "empty",
    "stratum",
    "support",
    "supported",
)

_OF_VAR = ("added", "detection_rate", "explained", "flag", "low_detection", "theta")

_WRITTEN = frozenset(f"{PREFIX}{name}" for name in (*_OF_OBS, *_OF_VAR))


def is_reserved(name: Any) -> bool:
    """Return whether scvibridge or scvi-tools writes a column with this name."""
    return name in _WRITTEN or str(name).startswith(PREFIX_OF_SCVI)


def without_reserved(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table without the columns of an earlier result, which do not apply to a new one."""
    return table.drop(columns=[name for name in table.columns if is_reserved(name)])


def check_keys(keys: Mapping[str, Any], *, registers: bool = False) -> None:
    """Raise an error for columns that would be overwritten.

    Parameters
    ----------
    keys
        Columns of ``obs``, or lists of them, by the argument that names them.
    registers
        Whether scvi-tools registers the data, and writes its columns.

    Raises
    ------
    ValueError
        If the name of a column is reserved.
    """
    for argument, given in keys.items():
        for name in _listed(given):
            is_of_scvi = name.startswith(PREFIX_OF_SCVI)
            if registers if is_of_scvi else is_reserved(name):
                owner = "scvi-tools" if is_of_scvi else "scvibridge"
                raise ValueError(
                    f"{argument}={name!r} is a column that {owner} would overwrite: give it "
                    f"another name, adata.obs['name'] = adata.obs[{name!r}], and name that"
                )


def _listed(given: Any) -> Iterable[str]:
    names = [given] if isinstance(given, str) else given or ()
    return (name for name in names if isinstance(name, str))
