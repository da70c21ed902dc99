"""The layer inspector: see, toggle, prune and check the sublayers of a language model.

source ──load──> LoadedModel ──.units──> Unit[] ──click / text / JSON──> Mask
                     │                                     │
                     └────────────── muted(loaded, mask) ──┤
   corpus ──windows──> batches ────────────────────────────┤
        ┌────────────┬─────────┬──────────┬────────────────┴─┬───────────┬──────────┐
    similarity     sweep    pruning   perplexity         benchmark   generation   export ──> folder
        └────────────┴─────────┴── results/ (numpy + provenance) ────────┘
                                    │ view/figures.py
                                go.Figure ──> view/ (Gradio) and cli
"""

__version__ = "0.1.0"
