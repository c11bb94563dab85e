"""Tiny random policies for tests: built in memory, or saved as any checkpoint is."""

from pathlib import Path

from unmask.models.denoiser import Denoiser
from unmask.models.families import recognise
from unmask.models.policy import Policy
from unmask.models.settings import TinyArchitecture
from unmask.models.tiny import build_network, build_tokenizer

# Weights this wide give distributions that are far from uniform.
SHAPE = TinyArchitecture(
    num_layers=2,
    hidden_size=32,
    intermediate_size=48,
    num_heads=2,
    max_length=64,
    initializer_range=0.25,
)


def tiny_policy(
    symbols: str = "123456789", *, seed: int = 0, shift: bool = False, chunk_size: int = 2048
) -> Policy:
    """A random bidirectional Llama of two layers, with a tokenizer of single characters."""
    tokenizer = build_tokenizer(list(symbols))
    network = build_network(SHAPE, tokenizer, seed).eval()
    family = recognise(network.config.to_dict(), "test")
    denoiser = Denoiser(
        network, mask_token_id=family.mask_token_id, shift=shift, chunk_size=chunk_size
    )
    return Policy(denoiser, tokenizer, family, None)


def saved(folder: Path, symbols: str = "123456789", *, seed: int = 0) -> Path:
    """The folder of such a policy."""
    tiny_policy(symbols, seed=seed).save(folder)
    return folder
