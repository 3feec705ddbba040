"""Survivors inside vLLM: an attention backend in place of vLLM's own for the CPU, registered by entry point."""


def register() -> None:
    """What the entry point calls. On a CPU vLLM takes one backend whatever is asked for, so that one is replaced."""
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    register_backend(AttentionBackendEnum.CPU_ATTN, "ghostkv_vllm.backend.GhostAttentionBackend")
