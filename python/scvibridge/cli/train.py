"""The command ``scvibridge train``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scvibridge.cli import options
from scvibridge.cli.options import check_files, listed, plain_warnings, read_gene_list, tell
from scvibridge.cli.parsing import add_several

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

TEXT = "train an SCVI model on raw counts, and save it with its data"
EXAMPLES = """\
examples:
  scvibridge train data.h5ad --batch-key batch --labels-key cell_type --out model_dir
  scvibridge choose-batch model_dir --labels-key cell_type
  scvibridge correct model_dir --transform-batch V3 --labels-key cell_type \\
      --out corrected.h5ad

The batch should be the technology, the site or the run, and not the donor if donors are compared
later: correction would remove the condition. The folder holds the data, so that the other commands
need no --adata."""


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "train", description=f"{TEXT[0].upper()}{TEXT[1:]}.", epilog=EXAMPLES
    )
    options.add_raw_data(command)
    _add_columns(command.add_argument_group("columns of obs"))
    _add_genes(command.add_argument_group("which counts"))
    _add_model(command.add_argument_group("model and training"))
    output = command.add_argument_group("output")
    output.add_argument("--out", required=True, metavar="FOLDER", help="folder for the model")
    options.add_overwrite(output)
    options.add_running(command, seed="seed of the training, 0 to 2^32 - 1 (default: 0)")


def _add_columns(group: Any) -> None:
    group.add_argument("--batch-key", metavar="COLUMN", help="the batches")
    group.add_argument(
        "--labels-key",
        metavar="COLUMN",
        help="cell types, which are stored with the model; SCVI itself does not use them",
    )
    for kind in ("categorical", "continuous"):
        add_several(group, f"--{kind}-covariate-keys", metavar="COLUMN", help=f"{kind} covariates")


def _add_genes(group: Any) -> None:
    group.add_argument(
        "--layer", metavar="LAYER", help="layer with the raw counts, raw for adata.raw (default: X)"
    )
    which = group.add_mutually_exclusive_group()
    which.add_argument(
        "--n-top-genes",
        type=int,
        default=2000,
        metavar="N",
        help="number of variable genes to train on (default: 2000)",
    )
    which.add_argument("--all-genes", action="store_true", help="train on all genes")
    which.add_argument("--gene-list", metavar="FILE", help="genes to train on, one name per line")


def _add_model(group: Any) -> None:
    group.add_argument(
        "--n-latent",
        type=int,
        default=10,
        metavar="N",
        help="number of latent dimensions (default: 10)",
    )
    group.add_argument(
        "--n-layers",
        type=int,
        default=1,
        metavar="N",
        help="number of hidden layers of encoder and decoder (default: 1)",
    )
    group.add_argument(
        "--gene-likelihood",
        choices=("nb", "zinb", "poisson"),
        default="nb",
        help="distribution of the counts (default: nb)",
    )
    group.add_argument(
        "--max-epochs",
        type=int,
        metavar="N",
        help="number of training epochs (default: scvi-tools' default for the number of cells)",
    )
    group.add_argument(
        "--n-epochs-kl-warmup",
        type=int,
        metavar="N",
        help="number of epochs until the prior has its full weight (default: a quarter of the "
        "epochs, at most 400)",
    )
    group.add_argument(
        "--no-early-stopping",
        action="store_true",
        help="train for all epochs (default: stop once held-out cells have not improved for 45)",
    )


# ---- work ------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> Path:
    """Train a model and save it; return the folder.

    Raises
    ------
    ValueError, TypeError, OSError
        If an option is out of range, a file is missing or cannot be read, or the folder exists or
        cannot be written.
    """
    from pathlib import Path

    import scvibridge
    from scvibridge.models.training.saving import check_saving, is_saved

    with plain_warnings(options):
        check_files(options.data, "DATA")
        check_saving(options.out, options.data, overwrite=options.overwrite, argument="--out")
        genes = _genes(options)
        tell(options, f"training on {listed(options.data)}")
        model = scvibridge.train_scvi(
            options.data,
            batch_key=options.batch_key,
            labels_key=options.labels_key,
            categorical_covariate_keys=options.categorical_covariate_keys,
            continuous_covariate_keys=options.continuous_covariate_keys,
            layer=options.layer,
            n_top_genes=genes,
            n_latent=options.n_latent,
            n_layers=options.n_layers,
            gene_likelihood=options.gene_likelihood,
            max_epochs=options.max_epochs,
            n_epochs_kl_warmup=options.n_epochs_kl_warmup,
            early_stopping=not options.no_early_stopping,
            seed=options.seed,
            device=options.device,
            save=options.out,
            overwrite=options.overwrite,
            progress=not options.quiet,
        )
        folder = Path(options.out).expanduser()
        if not is_saved(model, folder):
            raise OSError(f"the model was trained, but could not be saved to {folder}")
        tell(options, f"written {folder}: {_described(model)}")
    return folder


def _genes(options: argparse.Namespace) -> int | Sequence[str] | None:
    if options.all_genes:
        return None
    if options.gene_list is not None:
        return read_gene_list(options.gene_list)
    return int(options.n_top_genes)


def _described(model: Any) -> str:
    """Return the size of a model and how long it was trained."""
    n_epochs = len(model.history["elbo_train"])
    return f"{model.adata.n_obs} cells, {model.adata.n_vars} genes, {n_epochs} epochs"
