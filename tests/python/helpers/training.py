"""Trainings that write no record of their losses."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from unittest.mock import patch

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def without_record() -> Iterator[None]:
    """Let scvi-tools and Lightning compute and log no metrics while a model is trained.

    They take more than half of the time of a small training. The weights are the same to the last
    bit, as long as nothing looks at the metrics (as stopping early does).
    """
    from lightning.pytorch import LightningModule
    from scvi.train import SemiSupervisedTrainingPlan, TrainingPlan

    with ExitStack() as patches:
        for name in ("log", "log_dict"):
            patches.enter_context(patch.object(LightningModule, name, _nothing))
        for plan in (TrainingPlan, SemiSupervisedTrainingPlan):
            patches.enter_context(patch.object(plan, "compute_and_log_metrics", _nothing))
        yield


def _nothing(*_: object, **__: object) -> None:
    pass
