"""Tiny models from scratch: a word-level tokenizer and a bidirectional Llama of a few layers."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from unmask.models.settings import TinyArchitecture

SPECIAL_TOKENS = ("<pad>", "<eos>", "<mask>", "<unk>", "<answer>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<answer>{% endif %}"
)


def build_tokenizer(symbols: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer with one token per symbol, longest match first, spaces between tokens ignored.

    Args:
        symbols: the vocabulary besides the special tokens.

    Raises:
        ValueError: if a symbol repeats, is empty, or is a special token.
    """
    return PreTrainedTokenizerFast(
        tokenizer_object=word_level(SPECIAL_TOKENS, symbols, "<unk>"),
        pad_token="<pad>",
        eos_token="<eos>",
        mask_token="<mask>",
        unk_token="<unk>",
        additional_special_tokens=["<answer>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def word_level(special: Sequence[str], symbols: Sequence[str], unknown: str) -> Tokenizer:
    """The part of a tokenizer that splits text: one token per symbol, longest match first.

    Args:
        special: tokens that come first in the vocabulary and are no symbols.
        symbols: the rest of the vocabulary.
        unknown: of `special`, for all other text.

    Raises:
        ValueError: if a symbol repeats, is empty, or is a special token.
    """
    vocabulary = [*special, *symbols]
    if len(set(vocabulary)) != len(vocabulary) or not all(symbols):
        raise ValueError("symbols must be distinct, not empty and no special token")
    longest_first = sorted(symbols, key=len, reverse=True)
    pattern = "|".join(re.escape(symbol) for symbol in longest_first)
    tokenizer = Tokenizer(
        models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token=unknown)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        ]
    )
    return tokenizer


def build_network(
    architecture: TinyArchitecture, tokenizer: PreTrainedTokenizerFast, seed: int
) -> LlamaForCausalLM:
    """A randomly initialised bidirectional Llama, the same for the same seed.

    Args:
        architecture: its shape.
        tokenizer: decides the vocabulary and the mask, EOS and pad tokens.
        seed: of the weights; the global generator is left as it was.
    """
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=architecture.hidden_size,
        intermediate_size=architecture.intermediate_size,
        num_hidden_layers=architecture.num_layers,
        num_attention_heads=architecture.num_heads,
        num_key_value_heads=architecture.num_heads,
        max_position_embeddings=architecture.max_length,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": architecture.rope_theta},
        initializer_range=architecture.initializer_range,
    )
    config.is_causal = False
    config.mask_token_id = tokenizer.mask_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
