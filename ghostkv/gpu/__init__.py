"""Decoding under elimination on a GPU: records in device memory, Triton kernels, survivors as page tables. Importable without triton."""
