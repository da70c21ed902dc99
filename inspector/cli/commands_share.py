"""Rows of the commands that carry results and models elsewhere, and serve the page."""

from __future__ import annotations

from inspector.cli import (
    comparing,
    exchanging,
    exporting,
    showing,
)
from inspector.cli.arguments import (
    DEVICE,
    DTYPE,
    JSON,
    MASK,
    MODEL,
    OFFLOAD,
    OUTPUT,
    Command,
    argument,
)
from inspector.measure.foreign import FORMATS

SHARE: tuple[Command, ...] = (
    Command(
        "export",
        "write the model without the muted units as a folder that transformers or llama.cpp loads",
        exporting.export,
        (
            argument("model", metavar="MODEL", nargs="?", help=f"{MODEL.help}; or --recipe"),
            argument(
                "-o",
                "--output",
                dest="folder",
                metavar="DIR",
                help="the folder to write, which must not exist; without it, what the mask allows, "
                "what each format saves, and who can load it",
            ),
            argument(
                "--format",
                metavar="NAME",
                default="auto",
                help="auto (the first that is possible and smaller; default), blocks (whole layers "
                "cut out), moe-stub (FFNs alone, in Llama, Mistral and Qwen2), compact (a small "
                "modelling file comes along), zeroed (saves nothing) or gguf (for llama.cpp; in "
                "Llama, Mistral and Qwen2; F16, or gguf:bf16, gguf:f32, gguf:q8_0)",
            ),
            argument("--force", action="store_true", help="replace an earlier export of that name"),
            argument(
                "--recipe",
                metavar="FILE",
                help="take model, mask, dtype, format and checks from the recipe.json of an export",
            ),
            argument(
                "--checks",
                metavar="FILE",
                nargs="+",
                default=[],
                help="what perplexity or bench wrote with -o of this model and mask: goes into the "
                "recipe and the model card",
            ),
            argument(
                "--push-to-hub",
                dest="repository",
                metavar="REPO",
                help="then upload the folder as a new, private repository, with the hub's login",
            ),
            argument("--public", action="store_true", help="make that repository public"),
            MASK,
            DEVICE,
            DTYPE,
            OFFLOAD,
            JSON,
        ),
    ),
    Command(
        "plot",
        "draw saved results into one HTML file that needs nothing else",
        showing.plot,
        (
            argument("results", metavar="RESULT", nargs="+", help="files that -o wrote"),
            argument("-o", "--output", metavar="OUT.html", required=True, help="where to"),
        ),
    ),
    Command(
        "compare",
        "several pruning runs of one model: perplexity, or any check, by parameters removed, and "
        "where they agree",
        comparing.compare,
        (
            argument(
                "runs",
                metavar="RUN",
                nargs="+",
                help="files that prune wrote with -o, and results of bench, perplexity or speed "
                "on masks of their steps",
            ),
            argument(
                "--by",
                metavar="CHECK",
                default="",
                help="what to compare by: perplexity, the runs' own, or the beginning of a "
                "check's name, such as arc_easy; default: the first check among the files, else "
                "perplexity",
            ),
            argument(
                "--at",
                metavar="P",
                help="compare their masks at this share of parameters removed: 10% or 0.1; "
                "default: the largest that all runs reach",
            ),
            argument(
                "-o", "--output", metavar="OUT.html", help="write the figure into one HTML file"
            ),
        ),
    ),
    Command(
        "import",
        "read a mask, or an order of removal, from another tool's file",
        exchanging.import_file,
        (
            argument(
                "file",
                metavar="FILE",
                help=f"known by what it holds: {', '.join(FORMATS)}",
            ),
            argument(
                "--depth",
                metavar="N",
                type=int,
                help="the number of the model's layers, where the file does not say it",
            ),
            argument(
                "--model",
                metavar="MODEL",
                help="load the model: its depth is taken, the mask is checked against it, and a "
                "file with an order becomes a pruning run",
            ),
            DEVICE,
            DTYPE,
            OUTPUT,
            JSON,
        ),
    ),
    Command(
        "masks",
        "write a mask, the order of a run, or distances of windows, as another tool's file",
        exchanging.masks,
        (
            argument(
                "--mask",
                metavar="UNITS",
                required=True,
                help="units such as 5.attn,17, or the .json of a mask or of a pruning run; for "
                "pruneme that of a similarity, or of a run of angular",
            ),
            argument("--depth", metavar="N", type=int, help="the number of the model's layers"),
            argument("--to", metavar="FORM", required=True, help=f"one of {', '.join(FORMATS)}"),
            argument(
                "--model",
                metavar="NAME",
                help="the model's name in a mergekit file, as it takes it",
            ),
            argument(
                "--window",
                metavar="N",
                type=int,
                help="pruneme: the distances across N layers; of a run of angular by default its "
                "last step's",
            ),
            argument("-o", "--output", metavar="FILE", help="write it here and not on stdout"),
        ),
    ),
    Command(
        "serve",
        "serve the page",
        showing.serve,
        (
            argument("--host", metavar="H", default="127.0.0.1", help="default: 127.0.0.1"),
            argument("--port", metavar="P", type=int, default=7860, help="default: 7860"),
            argument("--open", action="store_true", help="open it in a browser"),
        ),
    ),
)
