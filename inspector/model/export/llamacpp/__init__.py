"""A mask as one file of llama.cpp: fewer blocks, or blocks of their own sizes.

tensors + keys + vocabulary ──> writing ──> model.gguf ──> reading, and llama.cpp where it is there

What llama.cpp expects is read in its sources (b-numbered releases of 2026): `src/models/llama.cpp`,
`src/models/deci.cpp`, `src/llama-model.cpp` and `src/llama-vocab.cpp`.
"""
