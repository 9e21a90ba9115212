"""The command `export`. Heavy imports are inside, so that --help answers at once."""

from __future__ import annotations

from pathlib import Path

import click

from hyperfocal.cli.wording import echo
from hyperfocal.errors import ConfigError

FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("run", type=FOLDER)
@click.option("--onnx", type=FOLDER, help="Folder to write: model.onnx, and a predict.py that needs no torch.")
@click.option("--safetensors", type=FOLDER, help="Folder to write: plain weights, and a README with their formulas.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier export in the folder.")
def export(run: Path, onnx: Path | None, safetensors: Path | None, overwrite: bool) -> None:
    """Write the model of RUN, of either job, as files that need neither hyperfocal nor torch.

    \b
    hyperfocal export run --onnx model
    echo '["C12", "C7"]' | python model/predict.py 3
    """
    if onnx is None and safetensors is None:
        raise ConfigError("nothing to export. Give --onnx DIR, --safetensors DIR, or both")
    if onnx is not None and safetensors is not None and onnx.resolve() == safetensors.resolve():
        raise ConfigError(f"--onnx and --safetensors are both {onnx}. Give two different folders")
    from hyperfocal.export.export import check_export_place, export_onnx, export_plain

    for folder in (onnx, safetensors):
        if folder is not None:
            check_export_place(folder, overwrite)
    if onnx is not None:
        for note in export_onnx(run, onnx, overwrite=overwrite):
            echo(note)
        echo(f"ONNX: {onnx}. Read {onnx / 'README.md'}, or run python {onnx / 'predict.py'}")
    if safetensors is not None:
        for note in export_plain(run, safetensors, overwrite=overwrite):
            echo(note)
        echo(f"Weights: {safetensors}. The formulas are in {safetensors / 'README.md'}")
