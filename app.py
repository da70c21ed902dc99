"""Serves the layer inspector: `uv run app.py`, or the entry point of a Space."""

from inspector.view.page import serve

if __name__ == "__main__":
    serve()
