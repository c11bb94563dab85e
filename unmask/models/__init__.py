"""Checkpoints -> a `Policy` around a `Denoiser`: families, tokenizers, adapters, tiny models."""
