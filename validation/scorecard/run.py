"""Running the catalogue: every fault in its layouts on warm ranks, beside the same cases without one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from validation.case.case import Case
from validation.reference import store
from validation.run.known import mended
from validation.run.options import Settings
from validation.scorecard.judge import Clean, Outcome, judge, judge_clean
from validation.scorecard.trial import Found, Trial
from validation.scorecard.watched import plugin_of


def ordered(found: Sequence[Trial]) -> list[Trial]:
    """Those of one reference, and within it of one case, one after the other."""
    cases = list(dict.fromkeys(trial.case for trial in found))
    references = list(dict.fromkeys(map(store.key, cases)))
    return sorted(found, key=lambda trial: (references.index(store.key(trial.case)), cases.index(trial.case)))


def outcomes(wanted: Sequence[Trial], settings: Settings) -> Iterator[Clean | Outcome]:
    """What comes of each, in that order, each case without a fault before those with one."""
    from validation.run.runner import Runner

    runner, clean = Runner(settings), plugin_of()

    def result(case: Case, plugin: str) -> Found:
        return Found(runner.result(case, plugin), runner.result(mended(case), plugin))

    try:
        for trial in wanted:
            both = [trial.case, mended(trial.case)]
            runner.start(both, clean)
            runner.start(both, plugin_of(trial.fault.id))
        judged: tuple[Case, Clean] | None = None
        for trial in wanted:
            sound = result(trial.case, clean)
            if judged is None or trial.case != judged[0]:
                judged = trial.case, judge_clean(trial.case, sound)
                yield judged[1]
            yield judge(trial, result(trial.case, plugin_of(trial.fault.id)), sound, judged[1])
    finally:
        runner.close()
