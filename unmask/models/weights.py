"""Safetensors files -> a network on transformers' own classes, one tensor at a time, and back.

Pickles are never opened. Every stored tensor must have its place and every place its tensor.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from unmask.models.tensors import Piece

INDEX = "model.safetensors.index.json"
FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class StoredTensors:
    """The tensors of a folder's safetensors files, read when asked for.

    Args:
        folder: with `model.safetensors`, or shards and their index.
        source: for error messages.

    Raises:
        ValueError: if there are none, or a file is missing or cut off.
    """

    def __init__(self, folder: Path, source: str) -> None:
        self._source = source
        self._files = {file: self._open(file) for file in self._find(folder)}
        self._home: dict[str, Path] = {}
        for file, opened in self._files.items():
            self._home |= dict.fromkeys(opened.keys(), file)

    @property
    def names(self) -> frozenset[str]:
        """All tensors but rotary frequencies, which are computed."""
        return frozenset(n for n in self._home if not n.endswith("rotary_emb.inv_freq"))

    def shape(self, name: str) -> torch.Size:
        """Shape of a tensor, which is not read."""
        return torch.Size(self._files[self._home[name]].get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """A tensor as it is stored, on the CPU."""
        try:
            return self._files[self._home[name]].get_tensor(name)
        except SafetensorError as error:
            raise self._broken(self._home[name], error) from error

    def dtype(self, name: str) -> torch.dtype:
        """Dtype of a tensor.

        Raises:
            ValueError: if it is none that weights are computed in, as in a quantised checkpoint.
        """
        kind = self._files[self._home[name]].get_slice(name).get_dtype()
        if kind not in FLOATS:
            raise ValueError(
                f"{self._source} stores {name} as {kind}, which is no dtype to compute in: give "
                "the checkpoint before it was quantised"
            )
        return FLOATS[kind]

    def forget(self, name: str) -> None:
        """Leave a tensor out, as if it were not stored."""
        self._home.pop(name, None)

    def _find(self, folder: Path) -> list[Path]:
        index, whole = folder / INDEX, folder / "model.safetensors"
        if whole.is_file():
            return [whole]
        if index.is_file():
            try:
                shards = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
                files = [folder / shard for shard in shards]
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise self._broken(index, error) from error
            for file in files:
                if file.parent != folder or not file.is_file():
                    raise ValueError(
                        f"{self._source} has no {file.name}, which its {INDEX} names: give a whole "
                        "checkpoint"
                    )
            return files
        files = [f for f in sorted(folder.glob("*.safetensors")) if f.name[:8] != "adapter_"]
        if not files:
            pickles = sorted(file.name for end in PICKLES for file in folder.glob(end))
            only = f", only {pickles[0]}, a pickle that can run code when read" if pickles else ""
            raise ValueError(
                f"{self._source} has no *.safetensors{only}: save the model in that format"
            )
        return files

    def _open(self, file: Path) -> Any:
        try:
            return safe_open(file, framework="pt", device="cpu")
        except (SafetensorError, OSError) as error:
            raise self._broken(file, error) from error

    def _broken(self, file: Path, error: Exception) -> ValueError:
        return ValueError(
            f"{self._source} cannot be loaded: {file.name} is cut off or damaged "
            f"({' '.join(str(error).split())}); give a whole checkpoint"
        )


def fill(
    network: nn.Module,
    stored: StoredTensors,
    plan: Mapping[str, list[Piece]],
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    source: str,
) -> None:
    """Give a network on the meta device the weights of a plan.

    Parameters come in `dtype`; saved buffers (biases of a router) keep the network's own.

    Args:
        network: built on the meta device.
        stored: the files.
        plan: see `unmask.models.tensors.plan_tensors`.
        dtype: of the parameters.
        device: where they go.
        source: for error messages.

    Raises:
        ValueError: if tensors are missing, left over, of another shape, of no dtype to compute in,
            or not finite.
    """
    wanted = {n: v for n, v in network.state_dict(keep_vars=True).items() if n in plan}
    _require_fit(wanted, stored, plan, source)
    state = {}
    for name, target in wanted.items():
        kind = dtype if isinstance(target, nn.Parameter) else target.dtype
        state[name] = _assemble(target.shape, plan[name], stored, kind, device)
        _require_finite(state[name], name, source)
    network.load_state_dict(state, assign=True, strict=False)


def originals(
    state: Mapping[str, Tensor], plan: Mapping[str, list[Piece]]
) -> Iterator[tuple[str, Tensor]]:
    """The stored tensors that a network's tensors make up: the reverse of `fill`.

    Args:
        state: the network's tensors.
        plan: see `unmask.models.tensors.plan_tensors`.
    """
    parts: dict[str, list[tuple[int, Tensor]]] = {}
    for name, pieces in plan.items():
        for piece in pieces:
            start = 0 if piece.rows is None else piece.rows.start
            value = state[name][piece.at] if piece.at else state[name]
            parts.setdefault(piece.source, []).append((start, value))
    for source, found in parts.items():
        ordered = [value for _, value in sorted(found, key=lambda part: part[0])]
        yield source, (ordered[0] if len(ordered) == 1 else torch.cat(ordered))


def save_shards(
    tensors: Iterator[tuple[str, Tensor]], folder: Path, max_bytes: int = 5 * 10**9
) -> None:
    """Write safetensors of at most `max_bytes` each, with an index if there are several.

    Args:
        tensors: by name.
        folder: exists.
        max_bytes: of one file, unless a single tensor is larger.
    """
    shards: list[list[str]] = []
    pending: dict[str, Tensor] = {}
    size = total = 0

    def write() -> None:
        shards.append(list(pending))
        save_file(pending, folder / f"part-{len(shards)}", {"format": "pt"})
        pending.clear()

    for name, value in tensors:
        kept = value.detach().cpu()
        count = kept.numel() * kept.element_size()
        if not kept.is_contiguous() or kept.untyped_storage().nbytes() != count:
            # A part of another tensor, of which a file must not hold the rest.
            kept = kept.clone(memory_format=torch.contiguous_format)
        if pending and size + count > max_bytes:
            write()
            size = 0
        pending[name] = kept
        size, total = size + count, total + count
    write()
    if len(shards) == 1:
        (folder / "part-1").rename(folder / "model.safetensors")
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"part-{number}").rename(folder / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _assemble(
    shape: torch.Size,
    pieces: list[Piece],
    stored: StoredTensors,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Tensor:
    if len(pieces) == 1 and not pieces[0].at:
        value = stored.read(pieces[0].source)
        if pieces[0].rows is not None:
            value = value[pieces[0].rows].clone()
        return value.to(device, dtype)
    result = torch.empty(shape, dtype=dtype, device=device)
    for piece in pieces:
        result[piece.at] = stored.read(piece.source).to(device, dtype)
    return result


def _require_fit(
    wanted: Mapping[str, Tensor],
    stored: StoredTensors,
    plan: Mapping[str, list[Piece]],
    source: str,
) -> None:
    needed = {piece.source for pieces in plan.values() for piece in pieces}
    _refuse("missing keys", needed - stored.names, source)
    _refuse("unexpected keys", stored.names - needed, source)
    for name in needed:
        stored.dtype(name)
    rows: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, pieces in plan.items():
        for piece in pieces:
            # On the meta device an index costs nothing.
            part = tuple(wanted[name][piece.at].shape if piece.at else wanted[name].shape)
            rows[piece.source] = rows.get(piece.source, 0) + (part[0] if part else 0)
            shapes[piece.source] = part
    mismatched = {
        name
        for name, part in shapes.items()
        if tuple(stored.shape(name)) != ((rows[name], *part[1:]) if part else part)
    }
    _refuse("mismatched keys", mismatched, source)


def _require_finite(value: Tensor, name: str, source: str) -> None:
    # NaN spreads to both; several times faster than looking at every value.
    ends = torch.stack(value.aminmax()) if value.numel() else value
    if not ends.isfinite().all():
        raise ValueError(
            f"{source} has weights that are NaN or infinite in {name}: they have diverged, or "
            f"{str(value.dtype).removeprefix('torch.')} is too narrow for them; use an earlier "
            "checkpoint or model.dtype=float32"
        )


def _refuse(kind: str, names: set[str] | frozenset[str], source: str) -> None:
    if names:
        shown = ", ".join(sorted(names)[:3]) + (" …" if len(names) > 3 else "")
        raise ValueError(
            f"{source} does not fit its config.json, {kind}: {shown}; "
            "the weights are of another architecture or incomplete"
        )
