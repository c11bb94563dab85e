"""Where a model is: a local folder, a packaged model, or the hub. Needs no torch."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def resolve_model_path(path: str) -> Path:
    """The folder of a model: a local path, a packaged model's name, or a hub id to download.

    Raises:
        ValueError: if it is none of these.
    """
    folder = find_local_model(path)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    # Weights and text files only: no pickles, no code.
    wanted = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model"]
    try:
        return Path(snapshot_download(path, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{_missing(path)}; the hub answered: {reason}") from error


def is_local_model(path: str) -> bool:
    """Whether this is a folder or the name of a packaged model."""
    return bool(path) and (Path(path).expanduser().is_dir() or (_packaged() / path).is_dir())


def find_local_model(path: str) -> Path | None:
    """The folder of a local or packaged model; None where only the hub can have it.

    Raises:
        ValueError: if it is no folder, no packaged model, and cannot be a hub id.
    """
    if is_local_model(path):
        local = Path(path).expanduser()
        return local.resolve() if local.is_dir() else _packaged() / path
    if path.count("/") != 1 or path.startswith((".", "/", "~")):
        raise ValueError(_missing(path))
    return None


def _packaged() -> Path:
    return Path(str(files("unmask") / "checkpoints"))


def _missing(path: str) -> str:
    names = ", ".join(sorted(file.parent.name for file in _packaged().glob("*/config.json")))
    return (
        f"model.path={path!r} is neither a folder nor a packaged model ({names}): "
        "give one of these, or a hub id such as org/name"
    )
