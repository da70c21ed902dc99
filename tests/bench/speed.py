"""Prefill with attentions and FFNs muted, against the share of the arithmetic that remains.

Both models take turns on the same random prompt, the head on its last token alone. Multiply-adds
are counted per prompt: a unit's weights once a token, the pairs of tokens that causal attention
scores (T (T + 1) / 2, once with the keys and once with the values, each as wide as the queries),
and the output matrix for one token. Printed is measured time over that share of the untouched
model's time.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from inspector.measure.speed import speed
from inspector.model.loaded import LoadedModel
from inspector.model.loading import load
from inspector.units import Mask, Unit


def main() -> None:
    options = _options()
    loaded = load(options.model, dtype=options.dtype)
    units = _spread(loaded.depth, "attn", options.attn) + _spread(loaded.depth, "ffn", options.ffn)
    mask = loaded.check(loaded.empty().mute(units))
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.model}, "
        f"{loaded.dtype}, {loaded.device}, a prompt of {options.length} tokens, muted: {mask}"
    )
    left, whole = (_multiply_adds(loaded, each, options.length) for each in (mask, loaded.empty()))
    share = left / whole
    print(f"multiply-adds: {left / 1e9:.2f} of {whole / 1e9:.2f} billion, a share of {share:.3f}")
    found = speed(loaded, mask, prompt_length=options.length, new_tokens=1, rounds=options.rounds)
    ratios = []
    for run, base in zip(found.runs, found.baseline_runs, strict=True):
        here, untouched = (options.length / each.prefill for each in (run, base))
        ratios.append(here / untouched)
        print(f"{here:.3f} s muted, {untouched:.3f} s untouched, ratio {ratios[-1]:.3f}")
    time = statistics.median(ratios)
    print(f"measured time {time:.3f} of the untouched one's, over the share: {time / share:.3f}")


def _spread(depth: int, kind: str, count: int) -> list[Unit]:
    """So many units, evenly over the depth."""
    count = min(count, depth)
    return [Unit((2 * number + 1) * depth // (2 * count), kind) for number in range(count)]


def _multiply_adds(loaded: LoadedModel, mask: Mask, tokens: int) -> float:
    """Of one prompt, where a unit uses all its weights for every token: no mixture of experts."""
    config = loaded.model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    pairs = config.num_attention_heads * width * tokens * (tokens + 1)  # keys and values
    on = [info for info in loaded.units if info.unit not in mask]
    weights = sum(info.parameters for info in on) * tokens
    attentions = sum(info.unit.kind == "attn" for info in on)
    return weights + attentions * pairs + config.vocab_size * config.hidden_size


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--attn", type=int, default=8, help="attentions muted")
    parser.add_argument("--ffn", type=int, default=4, help="FFNs muted")
    parser.add_argument("--rounds", type=int, default=9)
    return parser.parse_args()


if __name__ == "__main__":
    main()
