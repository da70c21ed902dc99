"""The tabs of the page: one module each, which builds it, wires it and starts its jobs."""
