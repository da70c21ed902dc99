"""From arguments to what a measurement takes: a loaded model, a mask, windows of text."""

from __future__ import annotations

import argparse
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector.errors import LoadError, MaskError
from inspector.units import Mask

if TYPE_CHECKING:
    from inspector.cli.progress import Meter
    from inspector.measure.corpus import Windows
    from inspector.model.loaded import LoadedModel


def loaded_model(args: argparse.Namespace, meter: Meter) -> tuple[LoadedModel, Mask]:
    """The model of the arguments, in memory, and their mask.

    Raises:
        LoadError: the model cannot be found, read, supported or fitted.
        MaskError: the mask cannot be read or does not fit the model.
    """
    hush()
    from inspector.model.loading import load

    offload = getattr(args, "offload", None)
    if offload and args.ranks.size > 1:
        raise LoadError("--offload works in one process: start one, or leave it out.")
    progress = meter.phase(f"loading {args.model}")
    where = {"device": _device(args), "dtype": args.dtype, "offload": offload}
    loaded = load(args.model, **where, progress=progress)
    meter.clear()
    return loaded, loaded.check(read_mask(args.mask, loaded.depth))


def _device(args: argparse.Namespace) -> str:
    """The device asked for; each of several processes on a machine takes a GPU of its own."""
    if args.ranks.size > 1 and args.device in ("auto", "cuda"):
        import torch

        if torch.cuda.is_available():
            return f"cuda:{args.ranks.local}"
    return args.device


def read_mask(text: str, depth: int) -> Mask:
    """The mask of ``--mask``: its text, ``@FILE``, or a path that ends in ``.json``.

    Raises:
        MaskError: it cannot be read, or is for another depth.
    """
    data = read_json(text)
    return Mask.parse(text, depth) if data is None else Mask.from_json(data, depth)


def read_json(text: str) -> Any:
    """What is in the file of ``--mask``; None where it is no file but the mask itself.

    Raises:
        MaskError: it cannot be read, or is no JSON.
    """
    if not text.startswith("@") and not text.endswith(".json"):
        return None
    path = text.removeprefix("@")
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise MaskError(f"cannot read the mask {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise MaskError(f"the mask {path} is not JSON: {error}.") from error


def search_text(args: argparse.Namespace, loaded: LoadedModel, meter: Meter) -> Windows:
    """The windows to search and compare units on.

    Raises:
        CorpusError: the text cannot be had, or is too short.
    """
    from inspector.measure.corpus import DEFAULT_LENGTH, DEFAULT_SAMPLES, DEFAULT_SEARCH

    spec = args.corpus or DEFAULT_SEARCH
    return _windows(spec, args, loaded, meter, samples=DEFAULT_SAMPLES, length=DEFAULT_LENGTH)


def check_text(
    args: argparse.Namespace,
    loaded: LoadedModel,
    meter: Meter,
    *,
    spec: str | None,
    stride: int | None = None,
) -> Windows:
    """The windows to measure perplexity on, of the text `spec` or the default one.

    Raises:
        CorpusError: the text cannot be had, or is too short.
    """
    from inspector.measure.corpus import CHECK_LENGTH, CHECK_SAMPLES, DEFAULT_CHECK

    return _windows(
        spec or DEFAULT_CHECK,
        args,
        loaded,
        meter,
        samples=CHECK_SAMPLES,
        length=CHECK_LENGTH,
        stride=stride,
    )


def hush() -> None:
    """Keep the libraries' own logging and progress bars off stderr: the command says what matters.

    Sets process-wide state, hence not at import.
    """
    # Read when tqdm and datasets are imported, and neither is yet: some bars have no other switch.
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as hf_logging

    logging.getLogger("accelerate").setLevel(logging.ERROR)
    disable_progress_bars()
    hub_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()


def _windows(
    spec: str,
    args: argparse.Namespace,
    loaded: LoadedModel,
    meter: Meter,
    *,
    samples: int,
    length: int,
    stride: int | None = None,
) -> Windows:
    from inspector.measure.corpus import windows

    longest = loaded.max_length
    found = windows(
        loaded.tokenizer,
        spec,
        length=min(length, longest or length) if args.length is None else args.length,
        samples=samples if args.samples is None else args.samples,
        seed=args.seed,
        stride=stride,
        max_length=longest,
        progress=meter.phase(f"reading {spec}"),
    )
    meter.clear()
    return found
