"""The proof of a GGUF file: read back and held against the muted model, and run where it can be.

What is expected of the file is worked out anew here, from the file's own key-values and from the
modules of the model, and not by the code that has written it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import align_module_device

from inspector.jobs import Progress, part, silent
from inspector.model.export.layout import kept_layers
from inspector.model.export.llamacpp import stock
from inspector.model.export.llamacpp.keys import FILE_TYPES
from inspector.model.export.llamacpp.tensors import (
    INSIDE,
    OUTSIDE,
    ROPE_FREQS,
    head_size,
    place_of,
    unpermuted,
)
from inspector.model.export.llamacpp.vocabulary import KeyValue, is_copied
from inspector.model.export.llamacpp.writing import FILE
from inspector.model.export.proof import SHAPE, TEXT, Check, ask, refuse_failed
from inspector.model.loaded import LoadedModel
from inspector.model.surgery import muted
from inspector.units import Mask, Unit

READER = "llama_cpp"
"""The module of the package llama-cpp-python, which is used where it is installed."""
EXACT = (FILE_TYPES["f32"], FILE_TYPES["f16"])
FAR = {True: 5e-3, False: 0.2}
"""The divergence that is no rounding any more, of float32 in these types and of others. On random
tokens SmolLM2-135M is off by 0.0003 in F16 and 0.03 in Q8_0 (nats a token)."""


def prove_gguf(
    loaded: LoadedModel,
    mask: Mask,
    folder: Path,
    work: Path,
    *,
    said: dict[str, KeyValue],
    progress: Progress = silent,
) -> list[Check]:
    """Check the file in the folder; see `proof.prove`.

    Args:
        loaded: the model that it was made of.
        mask: what it lacks.
        folder: where the file is.
        work: an empty folder for files on the way.
        said: the key-values that were to be written.
        progress: called after every tensor, and while llama.cpp runs; a cancel ends it.

    Raises:
        ExportError: a check failed, or llama.cpp cannot load the file; says which and why.
    """
    checks = read_back(loaded, mask, folder / FILE, said, progress=part(progress, 0, 1, 2))
    refuse_failed(checks)
    exact = loaded.dtype == torch.float32 and said["general.file_type"].value in EXACT
    far = FAR[exact]
    checks += run(loaded, mask, folder / FILE, work, far=far, progress=part(progress, 1, 1, 2))
    refuse_failed(checks)
    return checks


def read_back(
    loaded: LoadedModel,
    mask: Mask,
    file: Path,
    said: dict[str, KeyValue],
    *,
    progress: Progress = silent,
) -> list[Check]:
    """The checks that need no reader but the `gguf` package."""
    from gguf import GGUFReader

    reader = GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    sizes = block_sizes(fields)
    wanted = set(_wanted(loaded, mask, sizes))
    return [
        _check("key-values", "every key-value reads as it was meant", _as_meant(fields, said)),
        _check(
            "layers", "heads and widths of each block tell the mask", _tells(loaded, mask, sizes)
        ),
        _check(
            "tensors",
            "the tensors are those that llama.cpp asks for by the key-values, and no others",
            wanted == {each.name for each in reader.tensors},
        ),
        *_weights(loaded, mask, reader.tensors, progress),
        _check(
            "tokenizer",
            "each token has its text, and the special ones their numbers",
            _same_tokens(loaded, fields),
        ),
    ]


def block_sizes(fields: dict[str, Any]) -> list[tuple[int, int, int]]:
    """Of each block: heads, heads of keys and values, and the FFN's width."""
    arch = fields["general.architecture"]
    depth = fields[f"{arch}.block_count"]
    columns = []
    for name in ("attention.head_count", "attention.head_count_kv", "feed_forward_length"):
        found = fields[f"{arch}.{name}"]
        columns.append(found if isinstance(found, list) else [found] * depth)
    return list(zip(*columns, strict=True))


def _as_meant(fields: dict[str, Any], said: dict[str, KeyValue]) -> bool:
    own = {name for name in fields if not name.startswith("GGUF.")} - {"general.architecture"}
    return own == set(said) and all(
        _plain(fields[name], value.type, value.items)
        == _plain(value.value, value.type, value.items)
        for name, value in said.items()
    )


def _plain(value: Any, kind: str, items: str | None) -> Any:
    """A value in the precision that it has in the file."""
    if "FLOAT32" in (kind, items):
        return np.asarray(value, dtype=np.float32).tolist()
    return value


def _tells(loaded: LoadedModel, mask: Mask, sizes: list[tuple[int, int, int]]) -> bool:
    """Whether the sizes are the model's where a unit is on, and a stub's where it is off."""
    config: Any = loaded.model.config
    whole = (config.num_attention_heads, config.num_key_value_heads, config.intermediate_size)
    kept = kept_layers(mask)
    if len(sizes) != len(kept):
        return False
    for number, (layer, found) in enumerate(zip(kept, sizes, strict=True)):
        attends, thinks = (Unit(layer, kind) not in mask for kind in ("attn", "ffn"))
        heads = whole[:2] if attends else ((0, 0) if number else (1, 1))
        if found[:2] != heads or (found[2] == whole[2]) != thinks or not found[2]:
            return False
    return True


def _wanted(loaded: LoadedModel, mask: Mask, sizes: list[tuple[int, int, int]]) -> Iterator[str]:
    """The names that llama.cpp asks for: weights by the sizes, biases where the model has them."""
    kept = kept_layers(mask)
    for number, (heads, _, width) in enumerate(sizes):
        for module, name in INSIDE.items():
            of_attention = name.startswith("attn_")
            if not (heads if of_attention else width):
                continue
            yield f"blk.{number}.{name}.weight"
            unit = Unit(kept[number], "attn" if of_attention else "ffn")
            place = loaded.layers[kept[number]].get_submodule(module)
            if getattr(place, "bias", None) is not None and unit not in mask:
                yield f"blk.{number}.{name}.bias"
    tied = loaded.model.config.tie_word_embeddings
    yield from (f"{name}.weight" for name in OUTSIDE.values() if name != "output" or not tied)
    if float((_rope(loaded) - 1).abs().max()) > 1e-6:
        yield ROPE_FREQS


def _weights(
    loaded: LoadedModel, mask: Mask, found: list[Any], progress: Progress
) -> Iterator[Check]:
    """Every tensor against the model's: exactly, or by as much as its type may be off."""
    from gguf import dequantize

    kept, apart, right, stubs = kept_layers(mask), 0.0, True, []
    total = sum(each.n_bytes for each in found)
    done = 0
    for each in found:
        ours = torch.from_numpy(np.array(dequantize(each.data, each.tensor_type)))
        theirs = _of_the_model(loaded, mask, kept, each.name)
        if theirs is None:
            stubs.append(not ours.any())
        elif ours.shape != theirs.shape:
            right = False
        else:
            if ".attn_q." in each.name or ".attn_k." in each.name:
                ours = torch.from_numpy(unpermuted(ours.numpy(), head_size(loaded.model.config)))
            apart = max(apart, float((ours - theirs.float()).abs().max()))
            right = right and _as_rounded(ours, theirs, each.tensor_type.name)
        done += each.n_bytes
        progress(done, total, "reading the file back")
    said = "every tensor, put back into order, is the muted model's in the file's precision"
    yield _check("weights", said, right, apart, exact=apart == 0)
    if stubs:
        yield _check("stubs", "what stands in the place of removed units is all zeros", all(stubs))


def _of_the_model(
    loaded: LoadedModel, mask: Mask, kept: list[int], name: str
) -> torch.Tensor | None:
    """The tensor of the model that one of the file must be; None for a stub's."""
    if name == ROPE_FREQS:
        return _rope(loaded)
    block, path, key = place_of(name)
    if block is None:
        module = loaded.model.get_submodule(path)
    else:
        layer = kept[block]
        kind = "attn" if path.startswith("self_attn.") else "ffn"
        if Unit(layer, kind) in mask and not path.endswith("_layernorm"):
            return None
        module = loaded.layers[layer].get_submodule(path)
    with align_module_device(module):
        return getattr(module, key).detach().cpu()


def _rope(loaded: LoadedModel) -> torch.Tensor:
    """What llama.cpp's frequencies are to be divided by, from the model's own and theta."""
    config: Any = loaded.model.config
    own: Any = loaded.model.get_submodule("model.rotary_emb")
    pairs = torch.arange(len(own.inv_freq), dtype=torch.float64) / len(own.inv_freq)
    plain = float(config.rope_parameters["rope_theta"]) ** -pairs
    return (plain / own.inv_freq.cpu().double()).float()


def _as_rounded(ours: torch.Tensor, theirs: torch.Tensor, kind: str) -> bool:
    """Whether a tensor is the other one in the precision of the type.

    Q8_0 has 32 weights a block and one scale in half precision, 1/127 of the largest: half a step,
    and 127 times what the scale is rounded by, 2^-11 of it or, below 2^-14, 2^-25.
    """
    if kind in ("F32", "F16", "BF16"):
        dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
        return torch.equal(ours, theirs.to(dtype).float())
    blocks = theirs.float().reshape(-1, 32)
    step = blocks.abs().amax(dim=1, keepdim=True) / 127
    off = (ours.reshape(-1, 32) - blocks).abs()
    return kind == "Q8_0" and bool((off <= step * (0.5 + 127 / 2**11) + 127 / 2**25).all())


def _same_tokens(loaded: LoadedModel, fields: dict[str, Any]) -> bool:
    tokenizer = loaded.tokenizer
    tokens = fields["tokenizer.ggml.tokens"]
    own = tokenizer.convert_ids_to_tokens(list(range(len(tokens))))  # None where there is none
    same = all(text in (None, found) for text, found in zip(own, tokens, strict=True))
    for name in ("bos", "eos"):
        number = fields.get(f"tokenizer.ggml.{name}_token_id")
        same = same and number in (None, getattr(tokenizer, f"{name}_token_id"))
    return same and len(tokens) == loaded.model.config.vocab_size


def run(
    loaded: LoadedModel,
    mask: Mask,
    file: Path,
    work: Path,
    *,
    far: float,
    progress: Progress = silent,
) -> list[Check]:
    """What llama.cpp computes with the file against the muted model, where it is installed.

    `far` is the mean KL divergence, in nats a token, that is no rounding any more.
    """
    if importlib.util.find_spec(READER) is None:
        return [stock.check("llama.cpp", stock.NOT_DONE, passed=None)]
    ids = torch.randint(
        3, loaded.model.config.vocab_size, SHAPE, generator=torch.Generator().manual_seed(1)
    )
    with muted(loaded, mask), torch.no_grad():
        logits = loaded.model(input_ids=ids.to(loaded.device), use_cache=False).logits
    request = {
        "file": str(file),
        "far": far,
        "threads": torch.get_num_threads(),
        "text": TEXT,
        # transformers does not read every way of cutting a text from a GGUF file.
        "tokens": None if is_copied(loaded) else list(loaded.tokenizer(TEXT)["input_ids"]),
    }
    expected = {"ids": ids, "logits": logits.float().cpu().contiguous()}
    return ask(stock.__file__, work, expected, request, progress=progress)


def _check(
    name: str, said: str, passed: bool, apart: float | None = None, *, exact: bool | None = None
) -> Check:
    return stock.check(name, said, passed=passed, difference=apart, exact=exact)
