"""Small random models of any family, with a byte tokenizer: for tests and tours."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from inspector.errors import LoadError
from inspector.model.families import FAMILIES, TINY_ALIASES, TINY_COMMON, family_of

BYTES = 256
SPECIAL = ("<pad>", "<s>", "</s>")


def tiny_config(model_type: str) -> Any:
    """The small config of a model type.

    Raises:
        LoadError: transformers does not know the type.
    """
    model_type = TINY_ALIASES.get(model_type, model_type)
    wanted = {**TINY_COMMON, "vocab_size": BYTES + len(SPECIAL), **family_of(model_type).tiny}
    try:
        known = AutoConfig.for_model(model_type)
    except ValueError as error:
        names = ", ".join(sorted(set(FAMILIES) - set(TINY_ALIASES) | set(TINY_ALIASES)))
        raise LoadError(
            f"transformers knows no model type {model_type!r}: try tiny:llama or one of {names}."
        ) from error
    # `attribute_map` lets GPT-2 take hidden_size; what a config does not know stays out of it.
    names = set(known.to_dict()) | set(known.attribute_map)
    return type(known)(**{name: value for name, value in wanted.items() if name in names})


def tiny_model(model_type: str, *, seed: int = 0, attention: str | None = None) -> PreTrainedModel:
    """A random model of the type, every parameter random, biases and norms included.

    Biases start at zero and norms at one, which would hide a forgotten one, so all are drawn anew.
    """
    config = tiny_config(model_type)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=attention
        )
        for name, parameter in model.named_parameters():
            around = 1.0 if "norm" in name.lower() or ".ln_" in name else 0.0
            around = around if parameter.dim() == 1 and not name.endswith("bias") else 0.0
            torch.nn.init.normal_(parameter, mean=around, std=0.1)
    return model.eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, after three special tokens; no beginning-of-text token is added."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    pad, begin, end = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, bos_token=begin, eos_token=end
    )
