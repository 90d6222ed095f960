"""Where Plumbline's own packages are: inside this one if it is installed, beside it in a checkout."""

import os

HERE = os.path.dirname(os.path.abspath(__file__))
_INSTALLED = os.path.join(HERE, "_root")
"""The folder of an installed package that holds `validation`, `ci` and `requirements`."""


def root() -> str:
    """The folder that `validation` and `ci` lie in."""
    return _INSTALLED if os.path.isdir(_INSTALLED) else os.path.dirname(HERE)


def version() -> str:
    """The version of the installed distribution; `0+unknown` if none is installed."""
    from importlib import metadata

    try:
        return metadata.version("plumbline")
    except metadata.PackageNotFoundError:
        return "0+unknown"
