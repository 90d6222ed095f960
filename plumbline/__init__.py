"""Does your Megatron-Core DeepSeek-V3 still compute what HuggingFace computes, under every parallel layout?

    report = plumbline.check("tp2", implementation="my_spec:layers")
    assert report.passed, str(report)

Importing this package imports nothing else of Plumbline, and no torch. The comparison runs in processes of its own.
docs/python.md has the whole interface.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from plumbline.comparison import check as check
    from plumbline.errors import EnvironmentMissing as EnvironmentMissing
    from plumbline.errors import PlumblineError as PlumblineError
    from plumbline.errors import RunBroke as RunBroke
    from plumbline.errors import UsageError as UsageError
    from plumbline.report import Case as Case
    from plumbline.report import Check as Check
    from plumbline.report import Report as Report

    __version__: str

_ERRORS = ("EnvironmentMissing", "PlumblineError", "RunBroke", "UsageError")
_HOMES = {
    "check": "comparison",
    **dict.fromkeys(_ERRORS, "errors"),
    **dict.fromkeys(("Case", "Check", "Report"), "report"),
}

__all__ = ["Case", "Check", "EnvironmentMissing", "PlumblineError", "Report", "RunBroke", "UsageError", "__version__", "check"]


def __getattr__(name: str) -> object:
    """Import what is asked for: the commands look at the import path before they import anything."""
    if name == "__version__":
        from plumbline.place import version

        return version()
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"plumbline.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
