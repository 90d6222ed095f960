"""What imports for seconds, started as soon as a command's options say what it will import. No torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from validation import checkout
from validation.cache import forget
from validation.case.errors import PlumblineError
from validation.reference import store
from validation.run import launch
from validation.run.options import Settings
from validation.run.references import REFERENCES


@contextlib.contextmanager
def importing(settings: Settings) -> Iterator[None]:
    """Within it the process that computes references imports torch, for the ranks, too, if it is sure to be needed.

    What may still be said against the command is said meanwhile, and ends the process. What keeps the process from being
    started is said by validation.run.prepare, in its order.
    """
    begun = False
    with contextlib.suppress(PlumblineError, OSError, ImportError):
        begun = _start(settings)
    try:
        yield
    except BaseException:
        if begun:
            REFERENCES.close()
        raise


def _start(settings: Settings) -> bool:
    """Start it if all checks of this machine's own cases are made, and a reference is not there. Whether it was started."""
    if settings.manifest or settings.only or settings.last_failed or settings.place.several:
        return False
    checkout.choose(settings.megatron_path)
    prepare_launch(settings)
    missing = settings.fresh or any(not forget.references_of(store.key(case), settings.home) for case in settings.cases)
    return missing and warm_up_with_ranks()


def prepare_launch(settings: Settings) -> None:
    """Set what torch and the fork server of the ranks begin with. Raises EnvironmentMissing."""
    # Which checks are selected is not yet known. What few of them need, they import and compute themselves.
    narrowed = bool(settings.only or settings.last_failed)
    steps = any(case.training.steps for case in settings.cases) and not narrowed
    compiles = any(case.compiles for case in settings.cases)
    launch.prepare(settings.cases[0].transport, steps=steps, compiles=compiles)


def warm_up_with_ranks() -> bool:
    """Start the process that computes references and forks the fork server of the ranks; False if it cannot fork that."""
    if launch.start_method() != "forkserver":
        return False
    launch.end_at_exit()  # after the process that may fork it
    return REFERENCES.warm_up_with_ranks()
