"""Small truths about files that every reader needs: is it there, is it whole, which case is it."""

from __future__ import annotations

from pathlib import Path

from fedloop.errors import DataError

TILE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
SLIDE_SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif")
VOLUME_SUFFIXES = (".nii", ".nii.gz")
IMAGE_SUFFIXES = (*TILE_SUFFIXES, *SLIDE_SUFFIXES, *VOLUME_SUFFIXES)
LABEL_SUFFIXES = (".png", ".tif", ".tiff", *VOLUME_SUFFIXES, ".xml")


def suffix_of(name: str, known: tuple[str, ...]) -> str:
    """Return the longest of the ``known`` suffixes that ends ``name`` (lower case), or ``""``."""
    lower = name.lower()
    return max((s for s in known if lower.endswith(s)), key=len, default="")


def stem_of(name: str) -> str:
    """File name without its image or label suffix; ``a.b.nii.gz`` becomes ``a.b``."""
    suffix = suffix_of(name, (*IMAGE_SUFFIXES, ".xml"))
    return name[: len(name) - len(suffix)] if suffix else name


def require_file(path: Path) -> None:
    """Refuse what cannot be an image before a reader trips over it.

    Raises:
        DataError: ``path`` is missing, a folder, a broken or circular link, or has no bytes.
    """
    try:
        if not path.is_file():
            kind = "is a folder" if path.is_dir() else "is missing, a broken link or a link loop"
            raise DataError(f"{path} {kind}: an image or label file is needed")
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty (0 bytes): copy the file again")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {one_line(error)}") from error


def stamp(path: Path) -> tuple[str, int, int]:
    """Identity of a file's content for caches: path, size in bytes, time of change in ns.

    Raises:
        DataError: the file is gone.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {one_line(error)}") from error
    return str(path), status.st_size, status.st_mtime_ns


def one_line(error: BaseException) -> str:
    """Text of a library's exception on one line; its class name where it has no text."""
    return " ".join(str(error).split()) or type(error).__name__
