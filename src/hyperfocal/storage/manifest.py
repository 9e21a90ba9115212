"""The manifest of a run, its last file: a checksum of each of the others except the report and checkpoints."""

from __future__ import annotations

from hyperfocal.errors import RunError
from hyperfocal.storage.run_folder import CHECKPOINT, FILES, MANIFEST, RunFolder, checksum_of_file


def unfinish(run: RunFolder) -> None:
    """Remove the manifest, so that the run counts as unfinished until `write_manifest`.

    Raises:
        RunError: it cannot be removed.
    """
    try:
        (run.path / MANIFEST).unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {run.path / MANIFEST}: {error}. Choose another folder") from error


def write_manifest(run: RunFolder) -> None:
    """Write the checksums of a run's files; the report and the checkpoints contain their own."""
    listed = {*FILES} - {"checkpoints", "report.html", MANIFEST}
    files = [path.relative_to(run.path) for path in sorted(run.path.rglob("*")) if path.is_file()]
    names = [file.as_posix() for file in files if file.parts[0] in listed]
    run.write_json(MANIFEST, {"files": {name: checksum_of_file(run.path / name) for name in names}})


def read_manifest(run: RunFolder) -> dict[str, str]:
    """Return name -> checksum of the files of a finished run.

    Raises:
        RunError: there is no manifest; it is damaged, or names a file outside of the run.
    """
    if not run.has(MANIFEST):
        raise RunError(
            f"run {run.path}: {MANIFEST} is missing, so `fit` has not finished. Continue it with `resume=True`"
        )
    manifest = run.read_json(MANIFEST)
    with run.guard(MANIFEST):
        files = {str(name): str(checksum) for name, checksum in manifest["files"].items()}
        for name in files:
            if not name.isprintable() or name.startswith("/") or ".." in name.split("/"):
                raise ValueError(f"{name[:80]!r} is no name of a file in a run")
    return files


def is_as_written(run: RunFolder, name: str) -> bool:
    """Return whether the manifest lists this file with its present checksum."""
    return run.has(MANIFEST) and read_manifest(run).get(name) == checksum_of_file(run.path / name)


def verify_files(run: RunFolder) -> dict[str, str]:
    """Return the faults of the manifest's files and the checkpoints: name -> "missing", "changed" or the error.

    Raises:
        RunError: there is no manifest, or it is damaged.
    """
    faults = {}
    for name, checksum in read_manifest(run).items():
        if not run.has(name):
            faults[name] = "missing"
        elif checksum_of_file(run.path / name) != checksum:
            faults[name] = "changed"
    for path in sorted((run.path / CHECKPOINT).parent.glob("[!.]*.safetensors")):
        name = path.relative_to(run.path).as_posix()
        try:
            run.read_tensors(name)
        except RunError as error:
            faults[name] = str(error)
    return faults
