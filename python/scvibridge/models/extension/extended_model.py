"""A model with genes added to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from scvibridge._utils.arguments import check_types
from scvibridge.models.adapters import Extended, adapter_for
from scvibridge.models.extension.extension_file import write_folder
from scvibridge.models.saved.model_folder import check_folder

if TYPE_CHECKING:
    from os import PathLike


@dataclass(frozen=True, repr=False)
class ExtendedModel(Extended):
    """A trained model with further genes; the result of :func:`extend_genes`.

    Attributes
    ----------
    model
        The trained scvi-tools model, unchanged.
    quality
        One row for each added gene: ``explained`` (held-out deviance explained beyond its share of
        each batch), ``theta`` (inverse dispersion; the mean over batches where they differ),
        ``detection_rate`` (share of cells in which it is detected) and ``flag`` (empty,
        ``"few cells"`` or ``"no gain"``: the prediction is no better than the batch alone).
    """

    @property
    def genes(self) -> pd.Index:
        """All genes: those of the model, then those added."""
        return adapter_for(self.model).genes.append(pd.Index(self.head.genes.astype(str)))

    def save(self, path: str | PathLike[str], overwrite: bool = False) -> None:
        """Write the model and its extension to a folder that :func:`scvibridge.load` can read.

        Parameters
        ----------
        path
            The folder. It is renamed into place once complete: after a failure an older one is
            unchanged.
        overwrite
            Whether to replace an older folder, if it contains only a model.

        Raises
        ------
        FileExistsError
            If the folder exists and `overwrite` is False, or it contains files that do not belong
            to a model.
        NotADirectoryError, PermissionError
            If the path is a file, or cannot be written to.
        """
        check_types(ExtendedModel.save, locals())
        write_folder(self, check_folder(path, overwrite))

    def __repr__(self) -> str:
        flags = self.quality["flag"].value_counts()
        flagged = "".join(f", {n} of them with {name}" for name, n in flags.items() if name)
        where = "its last hidden layer" if self.head.on_trunk else "its latent variables"
        return (
            f"{type(self.model).__name__} extended by {len(self.head.genes)} genes{flagged}; "
            f"fitted on {where}, ridge {self.settings['ridge']:g}, median held-out deviance "
            f"explained {self.quality['explained'].median():.3f}"
        )
