"""A model's setup as recorded by scvi-tools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge.models.adapters.trained_names import with_trained_names
from scvibridge.models.obs_columns import codes_of, numbers_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


@dataclass(frozen=True)
class Registry:
    """The registry of a model.

    Attributes
    ----------
    setup
        Arguments of ``setup_anndata`` or ``setup_mudata``.
    fields
        Registered fields, by name.
    is_mudata
        Whether the model was set up with a MuData.
    registration
        Identifies the registration of the model's data; None without data.
    """

    setup: dict[str, Any]
    fields: dict[str, Any]
    is_mudata: bool
    registration: str | None = None

    @staticmethod
    def of(model: Any) -> Registry:
        """Read the registry of a model, with or without its data."""
        manager = getattr(model, "adata_manager", None)
        registry = model.registry_ if manager is None else manager.registry
        return Registry(
            dict(registry["setup_args"]),
            with_trained_names(model, dict(registry["field_registries"])),
            registry.get("setup_method_name") == "setup_mudata",
            getattr(manager, "id", None),
        )

    def state(self, name: str) -> dict[str, Any]:
        """Return what scvi-tools recorded about the values of a field."""
        state: dict[str, Any] = self.fields.get(name, {}).get("state_registry", {})
        return state

    def place(self, name: str) -> dict[str, Any]:
        """Return where a field is: ``attr_name``, ``attr_key`` and, in a MuData, ``mod_key``."""
        place: dict[str, Any] = self.fields.get(name, {}).get("data_registry", {})
        return place

    def attribute(self, name: str) -> str:
        """Return the key of a field in ``obs`` or ``obsm``."""
        return str(self.place(name)["attr_key"])

    def key(self, name: str) -> str | None:
        """Return the column that the user chose for the batch or the labels, or None."""
        key: str | None = self.setup.get(f"{name}_key")
        return key

    def categories(self, name: str) -> list[Any]:
        """Return the values of the batch or of the labels, in the order of their codes."""
        return list(self.state(name).get("categorical_mapping", [0]))

    def registered(self, own: AnnData, *, labels: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return what scvi-tools registered for the model's data, `own`, and what they hold now.

        By column of ``obs``, with categories as codes; of labels only on request. Empty if the data
        are not registered, or were since registered for another model.
        """
        if self.registration is None or own.uns.get("_scvi_manager_uuid") != self.registration:
            return {}
        obs, found = own.obs, {}
        for name in ("batch", "labels") if labels else ("batch",):
            key, place = self.key(name), self.place(name).get("attr_key")
            if key is not None and key in obs and place in obs:
                found[key] = np.asarray(obs[place]), codes_of(obs, key, self.categories(name))
        former = own.obsm.get("_scvi_extra_categorical_covs", {})
        for key, values in self.categorical.items():
            if key in former:
                found[key] = np.asarray(former[key]), codes_of(obs, key, values)
        former = own.obsm.get("_scvi_extra_continuous_covs", {})
        for key in self.continuous:
            if key in former:
                found[key] = np.asarray(former[key], dtype=float), numbers_of(obs, key)
        return found

    @property
    def layer(self) -> str | None:
        """The layer with the counts; None for X and for the AnnData built from a MuData."""
        return None if self.is_mudata else self.setup.get("layer")

    @property
    def categorical(self) -> dict[str, list[Any]]:
        """Values of the additional categorical covariates, by column."""
        mappings = self.state("extra_categorical_covs").get("mappings") or {}
        return {str(key): list(values) for key, values in mappings.items()}

    @property
    def continuous(self) -> list[str]:
        """Columns of the continuous covariates."""
        columns = self.state("extra_continuous_covs").get("columns")
        return [] if columns is None else [str(column) for column in columns]

    def categorical_codes(self, obs: pd.DataFrame) -> np.ndarray | None:
        """Return the codes of the categorical covariates, one column each; None without any."""
        known = self.categorical
        if not known:
            return None
        return np.stack([codes_of(obs, key, values) for key, values in known.items()], axis=1)

    def continuous_values(self, obs: pd.DataFrame) -> np.ndarray | None:
        """Return the continuous covariates, one column each; None without any."""
        known = self.continuous
        if not known:
            return None
        return np.stack([numbers_of(obs, key) for key in known], axis=1).astype(np.float32)

    @property
    def size_factors(self) -> list[str]:
        """Columns of the size factors: one, or for MULTIVI those of the RNA and of the regions."""
        key = self.setup.get("size_factor_key")
        given = [] if key is None else [key] if isinstance(key, str) else key
        return [str(column) for column in given]

    @property
    def names_beside(self) -> dict[str, str]:
        """Key in ``uns`` with the names of the proteins in ``obsm``, by their key there."""
        key = self.setup.get("protein_expression_obsm_key")
        place = self.setup.get("protein_names_uns_key")
        return {} if key is None or place is None else {str(key): str(place)}

    @property
    def columns(self) -> list[str]:
        """Columns of ``obs`` that the model was set up with."""
        keys = [self.key("batch"), self.key("labels")]
        return [str(key) for key in keys if key is not None] + [
            *self.size_factors,
            *self.categorical,
            *self.continuous,
        ]
