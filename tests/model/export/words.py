"""Tokenizers of the kinds that a GGUF file can say, small, and tiny models that have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
)
from transformers.convert_slow_tokenizer import TikTokenConverter

from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.model.tiny import SPECIAL, tiny_config

TEXT = (
    "The cat sat on the mat, and 1234 other cats sat on 56 mats; it's what they'll do. "
    "Naïve café-goers don't mind:\n\tthe mats   were red, the cats were not.\n\n"
) * 3
SIZE = 400
KINDS = ("gpt-2", "smollm", "llama-bpe", "qwen2", "llama")
"""As llama.cpp calls the ways to cut a text; `llama` is SentencePiece's."""


def alone(folder: Path) -> Path:
    """The file of a GGUF export, taken out of its folder to where nothing tells what it lacks."""
    place = folder.with_name(f"{folder.name}-alone")
    place.mkdir()
    return (folder / "model.gguf").rename(place / "other.gguf")


def tokenizer(kind: str) -> Any:
    """A tokenizer of a kind, trained on TEXT, with no more than SIZE tokens."""
    return _sentencepiece() if kind == "llama" else _bytes(kind)


def _bytes(kind: str) -> Any:
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # What Llama 3 has is the pattern of transformers' own converter.
    llama3 = pre_tokenizers.Split(Regex(TikTokenConverter("").pattern), "isolated")
    steps: dict[str, Any] = {
        "gpt-2": level,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level]),
        "llama-bpe": pre_tokenizers.Sequence(
            [llama3, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        ),
        "qwen2": level,
    }
    made = Tokenizer(models.BPE(ignore_merges=kind == "llama-bpe"))
    made.pre_tokenizer = steps[kind]
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([TEXT], trainer)
    pad, begin, end = SPECIAL
    names: dict[str, Any] = {"pad_token": pad, "bos_token": begin, "eos_token": end}
    if kind == "qwen2":
        parts = json.loads(made.to_str())["model"]
        merges: Any = [tuple(pair) for pair in parts["merges"]]
        return Qwen2Tokenizer(vocab=parts["vocab"], merges=merges, **names)
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def _sentencepiece() -> LlamaTokenizer:
    """Pieces by how often they are in TEXT, and every pair of pieces that makes one a merge."""
    text = "▁" + TEXT.replace(" ", "▁")
    count = {
        piece: text.count(piece)
        for size in (2, 3, 4)
        for piece in {text[at : at + size] for at in range(len(text) - size)}
    }
    letters = sorted(set(text))
    room = SIZE - len(letters) - 256 - 3
    known = set(letters)
    pieces: list[str] = []
    for piece in sorted(count, key=lambda each: (-count[each], each)):
        if len(pieces) < room and any(
            piece[:at] in known and piece[at:] in known for at in range(1, len(piece))
        ):
            pieces.append(piece)
            known.add(piece)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    vocab = {token: number for number, token in enumerate([*tokens, *letters])}
    merges = [
        (piece[:at], piece[at:])
        for piece in pieces
        for at in range(1, len(piece))
        if piece[:at] in known and piece[at:] in known
    ]
    pairs: Any = merges
    return LlamaTokenizer(vocab=vocab, merges=pairs)


def model(
    folder: Path, kind: str = "gpt-2", model_type: str = "llama", **changes: Any
) -> LoadedModel:
    """A random model with a tokenizer of a kind, from files; changes are fields of its config."""
    config = tiny_config(model_type)
    for name, value in {"vocab_size": SIZE + 8, "sliding_window": None, **changes}.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in made.named_parameters():
        one = 1.0 if "norm" in name else 0.0
        torch.nn.init.normal_(parameter, mean=one, std=0.1)
    made.save_pretrained(folder)
    words = tokenizer(kind)
    words.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    words.save_pretrained(folder)
    return load(str(folder), dtype="fp32", device="cpu")
