"""Does your Megatron-Core DeepSeek-V3 still compute what HuggingFace computes, under every parallel layout?

Importing this package imports nothing else of Plumbline, and no torch. The comparison runs in processes of its own.
"""

__all__ = ["__version__"]


def __getattr__(name: str) -> object:
    """Import what is asked for: the commands look at the import path before they import anything."""
    if name == "__version__":
        from plumbline.place import version

        return version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
