"""The command ``scvibridge extend``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scvibridge.cli import options
from scvibridge.cli.options import (
    check_files,
    check_not_input,
    check_table,
    plain_warnings,
    read_gene_list,
    tell,
    write_table,
)

if TYPE_CHECKING:
    import argparse
    from pathlib import Path


TEXT = "add genes that the model was not trained on, so that they can be corrected as well"

EXAMPLES = """\
examples:
  scvibridge extend model_dir --adata all_genes.h5ad --out extended_dir
  scvibridge extend model_dir --adata all_genes.h5ad --out extended_dir --gene-list genes.txt \\
      --quality quality.csv
  scvibridge correct extended_dir --adata all_genes.h5ad --transform-batch V3 \\
      --out corrected.h5ad

The model itself is unchanged: the output folder contains a copy of it and the extension.
The matrix of --adata stays on disk."""


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "extend", description=f"{TEXT[0].upper()}{TEXT[1:]}.", epilog=EXAMPLES
    )
    options.add_model(command)
    options.add_files(command, "the training cells by all genes, .h5ad or .zarr", required=True)
    command.add_argument(
        "--gene-list",
        metavar="FILE",
        help="genes to add, one name per line (default: all genes that the model does not have)",
    )
    command.add_argument(
        "--labels-key",
        metavar="COLUMN",
        help="column of obs with cell types, from each of which cells for evaluation are chosen "
        "if the model held out none",
    )
    command.add_argument(
        "--max-epochs",
        type=int,
        default=20,
        metavar="N",
        help="maximum number of passes through the cells (default: 20)",
    )
    command.add_argument(
        "--ridge",
        type=options.number_or_name,
        default="auto",
        metavar="NUMBER",
        help="weight of the penalty, or auto: selected using held-out cells (default)",
    )
    output = command.add_argument_group("output")
    output.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    options.add_overwrite(output)
    output.add_argument(
        "--quality", metavar="FILE", help="CSV file for the table that shows which genes to trust"
    )
    options.add_running(command, seed="seed of the order of the cells (default: 0)")


def run(options: argparse.Namespace) -> Path:
    """Extend the model and write it; return the folder.

    Raises
    ------
    ValueError, TypeError, OSError
        If an option is out of range, or a file is missing or cannot be read or written. Nothing is
        written in that case.
    """
    import scvibridge
    from scvibridge.models.load import load_apart

    with plain_warnings(options):
        out, quality, genes = _check(options)
        tell(options, f"reading the model in {options.model_dir}")
        model, _ = load_apart(
            options.model_dir, options.adata, options.device, options.trust, options.prefix
        )
        extended = scvibridge.extend_genes(
            model,
            options.adata,
            gene_list=genes,
            labels_key=options.labels_key,
            max_epochs=options.max_epochs,
            ridge=options.ridge,
            seed=options.seed,
            device=options.device,
            progress=not options.quiet,
        )
        extended.save(out, overwrite=options.overwrite)
        if quality is not None:
            write_table(
                extended.quality.rename_axis("gene"),
                quality,
                index=True,
                overwrite=options.overwrite,
            )
        tell(options, f"written {out}: {extended}")
    return out


def _check(options: argparse.Namespace) -> tuple[Path, Path | None, list[str] | None]:
    """Check everything that can be checked before the model is loaded.

    Returns
    -------
    The folder to write, the file of the table, and the genes to add; None for those not requested.
    """
    from scvibridge._utils import devices
    from scvibridge.io import scratch
    from scvibridge.models.extension import extend_genes
    from scvibridge.models.saved import model_folder

    out = model_folder.check_folder(options.out, options.overwrite, "--out")
    if out.resolve() == scratch.behind_links(options.model_dir):
        raise ValueError(f"--out {out} is the folder of the model itself: choose another folder")
    check_not_input(options, options.out, "--out")
    quality = check_table(options, "quality")
    check_files(options.adata, "--adata")
    genes = None if options.gene_list is None else read_gene_list(options.gene_list)
    extend_genes.check_settings(options.max_epochs, options.ridge, options.seed)
    devices.resolve_device(options.device)
    return out, quality, genes
