"""The engine's Triton kernels; imported late, because only torch's CUDA build brings Triton.

``TRITON_INTERPRET=1`` runs them on a CPU, too: all in float32, and all but attention in bfloat16 (the interpreter has
no matrix product of bfloat16). It truncates where it converts to fewer bits, so float8 is less exact there.
"""
