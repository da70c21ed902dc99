"""What is computed of a model to compare it with another; as a script, the check of a folder.

The checking process runs this file by its path and cannot import this project: what it loads is
what anybody gets who has the folder, torch and transformers.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import torch

STEPS = 8
"""New tokens of the greedy continuation."""
PADDED = ((0, 0, None), (1, 0, 9), (0, 5, 8))
"""Rows of the padded batch: a row of the ids, and from where to where."""
NEVER = 10**9
"""No such token: nothing ends early."""


@torch.no_grad()
def passes(model: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """One model's answers to ids [n, T], n at least 2 and T at least 12, each on the CPU.

    The ids are where the model runs, which one with offloaded weights does not know of itself.
    `logits` [n, T, V] in one pass; `cached` the same with a cache, a prefill and then token by
    token; `chunked` the same in three pieces; `greedy` [1, t] the tokens that follow the first row;
    `padded` [3, t, V] the logits of what follows rows of different lengths, padded on the left,
    and `padded_tokens` [3, t].
    """
    length = ids.shape[1]
    rows = padded_rows(ids)
    batch = ids.new_zeros((len(rows), length))
    real = torch.zeros_like(batch)
    for index, row in enumerate(rows):
        batch[index, length - len(row) :] = row
        real[index, length - len(row) :] = 1
    one = continued(model, ids[:1], torch.ones_like(ids[:1]), STEPS)
    many = continued(model, batch, real, STEPS // 2)
    found = {
        "logits": model(input_ids=ids, use_cache=False).logits,
        "cached": _in_pieces(model, ids, [length - 4, 1, 1, 1, 1]),
        "chunked": _in_pieces(model, ids, [length // 3, length // 2, -1]),
        "greedy": one.sequences[:, length:],
        "padded": torch.stack(many.logits, dim=1),
        "padded_tokens": many.sequences[:, length:],
    }
    return {name: value.cpu().contiguous() for name, value in found.items()}


def padded_rows(ids: torch.Tensor) -> list[torch.Tensor]:
    """The rows of the padded batch without their padding."""
    return [ids[row, start:stop] for row, start, stop in PADDED]


def _in_pieces(model: Any, ids: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """The logits of ids fed through one cache in pieces of these sizes; -1 is the rest."""
    from transformers import DynamicCache

    sizes = [size if size > 0 else ids.shape[1] - sum(s for s in sizes if s > 0) for size in sizes]
    cache = DynamicCache(config=model.config)
    pieces = [
        model(input_ids=piece, past_key_values=cache, use_cache=True).logits
        for piece in ids.split(sizes, dim=1)
    ]
    return torch.cat(pieces, dim=1)


def continued(model: Any, ids: torch.Tensor, real: torch.Tensor, tokens: int) -> Any:
    """The greedy continuation, whatever the model's own settings; they are put back."""
    from transformers import GenerationConfig

    own = model.generation_config
    model.generation_config = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        use_cache=True,
        eos_token_id=NEVER,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    try:
        return model.generate(input_ids=ids, attention_mask=real)
    finally:
        model.generation_config = own


def runs_on(model: Any) -> Any:
    """The device that a model runs on, which one whose weights are on disk does not know itself."""
    hook = getattr(model, "_hf_hook", None)
    return model.device if hook is None else hook.execution_device


def near(ours: torch.Tensor, theirs: torch.Tensor, *, roundings: int = 32) -> bool:
    """Equal up to the rounding of another order of computation, relative to the largest value.

    A cache whose positions are off moves logits by about their own size.
    """
    tolerance = max(1e-3, roundings * torch.finfo(theirs.dtype).eps)
    return difference(ours, theirs) <= tolerance * float(theirs.float().abs().max())


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference."""
    return float((ours.float() - theirs.float()).abs().max())


def compared(
    model: Any, ids: torch.Tensor, reference: dict[str, torch.Tensor]
) -> list[dict[str, Any]]:
    """The checks of a model against another's `passes`, and of its cache against no cache."""
    ids = ids.to(runs_on(model))
    ours = passes(model, ids)
    checks = [
        _same(name, f"{said} equal the muted model's", ours[name], reference[name])
        for name, said in (
            ("logits", "logits in one pass"),
            ("cached", "logits token by token with a cache"),
            ("chunked", "logits in pieces with a cache"),
            ("padded", "logits after rows padded on the left"),
            ("greedy", "tokens of the greedy continuation"),
        )
    ]
    for name, said in (("cached", "token by token"), ("chunked", "in pieces")):
        apart = difference(ours[name], ours["logits"])
        checks.append(
            _check(
                f"{name}-uncached",
                f"logits {said} equal those in one pass, up to rounding",
                near(ours[name], ours["logits"]),
                apart,
            )
        )
    checks.append(_padded_alone(model, ids, ours))
    return checks


@torch.no_grad()
def _padded_alone(model: Any, ids: torch.Tensor, ours: dict[str, torch.Tensor]) -> dict[str, Any]:
    passed, apart = True, 0.0
    for index, row in enumerate(padded_rows(ids)):
        new = ours["padded_tokens"][index].to(ids.device)
        whole = torch.cat([row, new])[None, :-1]
        alone = model(input_ids=whole, use_cache=False).logits[0, len(row) - 1 :].cpu()
        passed = passed and near(ours["padded"][index], alone)
        apart = max(apart, difference(ours["padded"][index], alone))
    said = "logits after padded rows equal those of each row alone, up to rounding"
    return _check("padded-alone", said, passed, apart)


def _same(name: str, said: str, ours: torch.Tensor, theirs: torch.Tensor) -> dict[str, Any]:
    if ours.shape != theirs.shape:
        return _check(name, said, passed=False, apart=float("inf"))
    # The same computation in the same order: on one machine even the bits are most often the same.
    exact = torch.equal(ours, theirs)
    passed = exact or (theirs.is_floating_point() and near(ours, theirs, roundings=2))
    return _check(name, said, passed, difference(ours, theirs), exact=exact)


def _check(
    name: str, said: str, passed: bool, apart: float | None = None, *, exact: bool | None = None
) -> dict[str, Any]:
    """A row of the report: what was checked, whether it held, and by how much it was off."""
    apart = None if apart is None or apart != apart or apart == float("inf") else apart
    return {"name": name, "what": said, "passed": passed, "exact": exact, "difference": apart}


def load(folder: str, request: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model in a folder and what did not fit, as anybody would load it.

    With `offload` in the request, its weights stay in the folder and come in layer by layer.
    """
    from transformers import AutoModelForCausalLM

    places: dict[str, Any] = {"device_map": {"": request["device"]}}
    if request["offload"]:
        places = {"device_map": {"": "disk"}, "offload_folder": request["offloaded"]}
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, request["dtype"]),
        **places,
        attn_implementation=request["attention"],
        use_safetensors=True,
        local_files_only=True,
        # The folder's own code, where it has any, was generated by whoever runs this check.
        trust_remote_code=request["own_code"],
        output_loading_info=True,
    )
    return loaded


def main(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Every check of the folder that the request names."""
    from safetensors.torch import load_file

    torch.set_num_threads(request["threads"])
    reference = load_file(request["reference"])
    ids = reference.pop("ids")
    checks = []
    if request["own_code"]:
        checks.append(_refused(request))
    checks.append(_tokenizer(request))
    model, report = load(request["folder"], request)
    lacking = [str(key) for kind in report.values() for key in kind]
    said = "every weight has its place, and every place its weight"
    checks.append(_check("weights", said + (f" ({lacking[0]})" if lacking else ""), not lacking))
    checks += compared(model.eval(), ids, reference)
    with torch.no_grad():
        before = model(input_ids=ids.to(runs_on(model)), use_cache=False).logits.cpu()
    model.save_pretrained(request["again"])
    del model
    gc.collect()
    model, _ = load(request["again"], request)
    with torch.no_grad():
        after = model.eval()(input_ids=ids.to(runs_on(model)), use_cache=False).logits.cpu()
    said = "saved and loaded once more, the logits stay as they were"
    checks.append(_check("round-trip", said, torch.equal(before, after), difference(before, after)))
    return checks


def _refused(request: dict[str, Any]) -> dict[str, Any]:
    """Without leave to run the folder's code, transformers refuses it, rather than guess."""
    from transformers import AutoModelForCausalLM

    try:
        AutoModelForCausalLM.from_pretrained(
            request["folder"], local_files_only=True, trust_remote_code=False
        )
        refused = False
    except ValueError:
        refused = True
    return _check("refused", "without trust_remote_code it is refused with an error", refused)


def _tokenizer(request: dict[str, Any]) -> dict[str, Any]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        request["folder"], local_files_only=True, trust_remote_code=request["own_code"]
    )
    same = tokenizer(request["text"])["input_ids"] == request["tokens"]
    same = same and tokenizer.chat_template == request["chat_template"]
    return _check("tokenizer", "the tokenizer gives the same tokens, with the same template", same)


if __name__ == "__main__":
    sys.modules["inspector"] = None  # pyright: ignore[reportArgumentType] - cannot be imported
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    found = main(asked)
    Path(asked["report"]).write_text(json.dumps(found), encoding="utf-8")
