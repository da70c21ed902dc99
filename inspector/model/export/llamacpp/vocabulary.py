"""The tokenizer of a GGUF file: from transformers', or as it stands in the GGUF file of the source.

Two kinds can be said: BPE on bytes, whose way to cut a text before has a name in llama.cpp, and
SentencePiece's BPE with bytes for unknown characters. llama.cpp normalises nothing, so that a
tokenizer with NFC (Qwen2) is the same on text that is in that form already.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspector.errors import ExportError
from inspector.model.loaded import LoadedModel
from inspector.model.sources import BUNDLED, bundled_file

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Token types of GGUF (`llama_token_type` in `llama.h`)."""
SPACE = "▁"
BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
PREFIX = "tokenizer."
IDS = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""Special tokens, to what GGUF calls them."""
INSTEAD = "use compact"
NEVER_A_PRODUCT = -1e6
"""The score of a SentencePiece token that no merge makes."""

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS: dict[str, tuple[list[tuple[Any, ...]], bool]] = {
    "gpt-2": ([("ByteLevel", True)], False),
    "smollm": ([("Digits", True), ("ByteLevel", True)], False),
    "llama-bpe": ([("Split", _WORDS % r"\p{N}{1,3}"), ("ByteLevel", False)], True),
    "qwen2": ([("Split", _WORDS % r"\p{N}"), ("ByteLevel", False)], False),
    "tekken": ([("Split", _TEKKEN), ("ByteLevel", False)], True),
}
"""llama.cpp's name, to the steps of transformers' tokenizer that do the same, and whether a word
that is a token is taken before its merges (the original expressions in `llama-vocab.cpp`)."""


@dataclass(frozen=True)
class KeyValue:
    """A value of a GGUF file, with the names of its type and, in an array, of its items' type."""

    value: Any
    type: str
    items: str | None = None


def problem(loaded: LoadedModel) -> str:
    """Why its tokenizer cannot be written; empty where it can. Quick: nothing long is read."""
    if _source_file(loaded) is not None:
        return ""
    backend = getattr(loaded.tokenizer, "backend_tokenizer", None)
    if backend is None or type(getattr(backend, "model", None)).__name__ != "BPE":
        return f"its tokenizer is no BPE that GGUF has a place for, so {INSTEAD}"
    if not _kind(backend):
        return f"its tokenizer cuts texts in a way that llama.cpp has no name for, so {INSTEAD}"
    if loaded.tokenizer.eos_token_id is None:
        return "its tokenizer has no end-of-text token, without which llama.cpp takes any: set one"
    if len(loaded.tokenizer) > loaded.model.config.vocab_size:
        return f"its tokenizer has more tokens than the model has embeddings, so {INSTEAD}"
    return ""


def vocabulary(loaded: LoadedModel) -> dict[str, KeyValue]:
    """The key-values of the tokenizer.

    Raises:
        ExportError: the tokenizer cannot be written after all.
    """
    file = _source_file(loaded)
    return _copied(file) if file is not None else _made(loaded)


def is_copied(loaded: LoadedModel) -> bool:
    """Whether the tokenizer is taken from the source's GGUF file."""
    return _source_file(loaded) is not None


def _source_file(loaded: LoadedModel) -> Path | None:
    """The GGUF file that the model came from."""
    if loaded.source == BUNDLED:
        return bundled_file()
    return Path(loaded.source).expanduser() if loaded.source.endswith(".gguf") else None


def _copied(file: Path) -> dict[str, KeyValue]:
    from gguf import GGUFReader

    found = {}
    for name, field in GGUFReader(file).fields.items():
        if name.startswith(PREFIX):
            kinds = [kind.name for kind in field.types]
            items = kinds[-1] if kinds[0] == "ARRAY" else None
            found[name] = KeyValue(field.contents(), kinds[0], items)
    return found


def _kind(backend: Any) -> str:
    """`llama` for SentencePiece's, the name of the way to cut for bytes', empty for others."""
    model = backend.model
    if model.dropout or model.continuing_subword_prefix or model.end_of_word_suffix:
        return ""
    steps = list(_steps(_state(backend.pre_tokenizer), "pretokenizers"))
    normal = list(_steps(_state(backend.normalizer), "normalizers"))
    if model.byte_fallback:
        return "llama" if _space_prefix(steps, normal) is not None else ""
    if any(kind != ("NFC",) for kind in normal):
        return ""
    wanted = (steps, bool(model.ignore_merges))
    return next((name for name, row in PRE_TOKENIZERS.items() if row == wanted), "")


def _state(part: Any) -> dict[str, Any]:
    """A part of a tokenizer as data."""
    return {} if part is None else json.loads(part.__getstate__())


def _steps(state: dict[str, Any], inner: str) -> Iterable[tuple[Any, ...]]:
    """The steps of a part of a tokenizer, each with what tells it from others of its kind."""
    kind = state.get("type")
    if kind == "Sequence":
        for each in state[inner]:
            yield from _steps(each, inner)
    elif kind == "ByteLevel" and not state["add_prefix_space"]:
        yield kind, state.get("use_regex", True)
    elif kind == "Digits":
        yield kind, state["individual_digits"]
    elif kind == "Split" and state["behavior"] == "Isolated" and not state["invert"]:
        yield kind, state["pattern"].get("Regex")
    elif kind == "Metaspace" and state["replacement"] == SPACE and not state.get("split", True):
        yield kind, state["prepend_scheme"]
    elif kind == "Prepend":
        yield kind, state["prepend"]
    elif kind == "Replace":
        yield kind, state["pattern"].get("String"), state["content"]
    elif kind:
        yield (kind,)


def _space_prefix(steps: list[tuple[Any, ...]], normal: list[tuple[Any, ...]]) -> bool | None:
    """Whether a SentencePiece tokenizer puts a space before a text; None where it is none."""
    replace = ("Replace", " ", SPACE)
    if not steps and normal in ([("Prepend", SPACE), replace], [replace]):
        return len(normal) == 2
    if not normal and len(steps) == 1 and steps[0][0] == "Metaspace":
        return steps[0][1] != "never"
    return None


def _made(loaded: LoadedModel) -> dict[str, KeyValue]:
    tokenizer, backend = loaded.tokenizer, loaded.tokenizer.backend_tokenizer
    data = json.loads(backend.to_str())
    pairs = [tuple(m.split(" ", 1) if isinstance(m, str) else m) for m in data["model"]["merges"]]
    kind = _kind(backend)
    tokens, types = _tokens(data, loaded.model.config.vocab_size, spm=kind == "llama")
    found = {
        "ggml.model": KeyValue("llama" if kind == "llama" else "gpt2", "STRING"),
        "ggml.pre": KeyValue("default" if kind == "llama" else kind, "STRING"),
        "ggml.tokens": KeyValue(tokens, "ARRAY", "STRING"),
        "ggml.token_type": KeyValue(types, "ARRAY", "INT32"),
    }
    if kind == "llama":
        prefix = _space_prefix(
            list(_steps(_state(backend.pre_tokenizer), "pretokenizers")),
            list(_steps(_state(backend.normalizer), "normalizers")),
        )
        found["ggml.scores"] = KeyValue(_scores(tokens, types, pairs), "ARRAY", "FLOAT32")
        found["ggml.add_space_prefix"] = KeyValue(bool(prefix), "BOOL")
    else:
        # llama.cpp wants a list that has something in it; two special tokens never meet in a word.
        merges = [" ".join(pair) for pair in pairs] or [" ".join(tokens[:2])]
        found["ggml.merges"] = KeyValue(merges, "ARRAY", "STRING")
    for name, called in IDS.items():
        number = getattr(tokenizer, f"{name}_token_id", None)
        if number is not None:
            found[f"ggml.{called}_token_id"] = KeyValue(number, "UINT32")
    for name, added in _added_around(tokenizer).items():
        found[f"ggml.add_{name}_token"] = KeyValue(added, "BOOL")
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    if template:
        found["chat_template"] = KeyValue(template, "STRING")
    return {PREFIX + name: value for name, value in found.items()}


def _tokens(data: dict[str, Any], size: int, *, spm: bool) -> tuple[list[str], list[int]]:
    """The text and the type of each token; embeddings that no token has get one that is unused."""
    texts = {number: text for text, number in data["model"]["vocab"].items()}
    added = {each["id"]: each for each in data["added_tokens"]}
    unknown = data["model"].get("unk_token")
    tokens, types = [], []
    for number in range(size):
        text, kind = texts.get(number), NORMAL
        if number in added:
            text = added[number]["content"]
            kind = CONTROL if added[number]["special"] else USER_DEFINED
        if text is None:
            text, kind = f"[PAD{number}]", UNUSED
        elif spm and text == unknown:
            kind = UNKNOWN
        elif spm and kind == NORMAL and BYTE_TOKEN.fullmatch(text):
            kind = BYTE
        tokens.append(text)
        types.append(kind)
    if len(set(tokens)) < size:
        raise ExportError(f"the tokenizer has a token twice, which llama.cpp refuses: {INSTEAD}.")
    return tokens, types


def _scores(tokens: list[str], types: list[int], pairs: list[tuple[str, ...]]) -> list[float]:
    """SentencePiece's scores from merges: it joins the pair whose product has the highest one.

    Raises:
        ExportError: the merges say more than scores can: a product that is made early from one
            pair and late from another, or from one pair and not from another.
    """
    first: dict[str, int] = {}
    last = ""
    for number, pair in enumerate(pairs):
        product = "".join(pair)
        if product != last and product in first:
            raise ExportError(
                f"the tokenizer's merges make {product!r} twice, which SentencePiece's scores "
                f"cannot say: {INSTEAD}."
            )
        first.setdefault(product, number)
        last = product
    normal = {text for text, kind in zip(tokens, types, strict=True) if kind == NORMAL}
    known = set(pairs)
    for text in normal:
        for at in range(1, len(text)):
            pair = (text[:at], text[at:])
            if pair[0] in normal and pair[1] in normal and pair not in known:
                raise ExportError(
                    f"the tokenizer does not merge {pair}, which SentencePiece's scores cannot "
                    f"say: {INSTEAD}."
                )
    return [float(-first[text]) if text in first else NEVER_A_PRODUCT for text in tokens]


def _added_around(tokenizer: Any) -> dict[str, bool]:
    """Which of its tokens a tokenizer puts before and after every text; asked, not read.

    Raises:
        ExportError: others than one at the beginning and one at the end.
    """
    inner = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    for bos in (False, True):
        for eos in (False, True):
            before = [tokenizer.bos_token_id] if bos else []
            if whole == before + inner + ([tokenizer.eos_token_id] if eos else []):
                return {"bos": bos, "eos": eos}
    raise ExportError(
        f"the tokenizer puts tokens around a text that GGUF has no place for: {INSTEAD}."
    )
