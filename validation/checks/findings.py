"""What a run has found, as `--format json` says it (docs/json.md)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ci.junit import Check
from validation.case.covered import Word, share
from validation.case.document import Document, number
from validation.case.errors import UsageError
from validation.checks.conclusion import Conclusion
from validation.checks.diagnosed import diagnosis
from validation.recipe.coverage import Covered
from validation.recipe.trial import Trial
from validation.run.command_line import ALL

_NUMBERS = {
    "max_diff": "max_diff",
    "avg_diff": "avg_diff",
    "rel_error": "relative_error",
    "tolerance": "limit",
    "floor": "floor",
}
"""Properties of a testcase, and what the document calls them."""
_TEXTS = ("known", "kind", "reproduce")


class Findings:
    """A plugin of pytest's, by which a report hands over what it has found."""

    def __init__(self, document: Document) -> None:
        self._document = document

    def refuse(self, error: UsageError) -> None:
        """Say why no check is made."""
        self._document["error"] = str(error)

    def take(self, conclusion: Conclusion, seconds: Mapping[str, float]) -> None:
        """Put a run into the document; `seconds` are those of each testsuite's ranks."""
        tally = conclusion.tally
        self._document |= {
            "verdict": tally.word,
            "seconds": round(conclusion.seconds, 3),
            "checks": tally.checks,
            "counts": dict(tally.counts),
            "left_out": conclusion.missing,
            "suites": [_suite(conclusion, name, checks, seconds) for name, checks in conclusion.checks.items() if checks],
        }
        if conclusion.settings.trial is not None:
            self._document["recipe"] = _recipe(conclusion.settings.trial, conclusion.covered())
        if unseen := conclusion.not_shown():
            self._document["not_exercised"] = [{"setting": setting, "why": why} for setting, why in unseen.items()]
        if found := diagnosis(conclusion.wanted, conclusion.checks, conclusion.how_it_went):
            self._document["diagnosis"] = {"sentence": f"{found.sentence}.", "deciding": found.deciding or ""}


def _recipe(trial: Trial, found: Sequence[Covered]) -> dict[str, Any]:
    """What stands for the recipe, and what became of each of its settings in all cases together."""
    words = {one.told.said: Word(one.word, one.why) for one in found}
    return {
        "source": trial.recipe.source,
        "full_size": trial.small.full.layout.name,
        "stand_in": trial.small.layout.name,
        "lost": list(trial.small.lost),
        "share": round(share(words), 4),
        "counts": dict(Counter(word.word for word in words.values())),
        "changed": [one.said for one in trial.others],
        "unknown": [flag.text for flag in trial.recipe.unknown],
        "beside": [flag.text for flag in trial.recipe.beside],
        "settings": [_setting(said, word) for said, word in words.items()],
    }


def _setting(said: str, word: Word) -> dict[str, str]:
    return {"setting": said, "word": word.word} | ({"why": word.why} if word.why else {})


def _suite(conclusion: Conclusion, name: str, checks: Sequence[Check], seconds: Mapping[str, float]) -> dict[str, Any]:
    counts = Counter(check.status for check in checks)
    case = next((case for case in conclusion.wanted if case.name == name), None)
    told = checks if conclusion.settings.show == ALL else [check for check in checks if check.status != "pass"]
    said = {
        "name": name,
        "layout": case.label if case else "",
        "self_test": case is None,
        "verdict": "FAIL" if counts["fail"] else "ERROR" if counts["error"] or counts["unevaluated"] else "PASS",
        "seconds": round(seconds.get(name, 0.0), 3),
        "counts": dict(counts),
        "junit": str(conclusion.files.path(name)),
        "checks": [_check(check) for check in told],
    }
    if first := conclusion.tally.first.get(name):
        said["first"] = {"line": first.line, "reproduce": first.command(conclusion.settings)}
    return said


def _check(check: Check) -> dict[str, Any]:
    said: dict[str, Any] = {"title": check.name, "component": check.component, "status": check.status}
    said |= {theirs: number(check.properties[ours]) for ours, theirs in _NUMBERS.items() if ours in check.properties}
    said |= _places(check.properties)
    said |= {name: check.properties[name] for name in _TEXTS if name in check.properties}
    return said if check.status == "pass" else said | {"message": check.message, "text": check.details}


def _places(properties: Mapping[str, str]) -> dict[str, Any]:
    """Where the largest difference is, and which ranks were compared; nothing if no tensor was."""
    if "worst_index" not in properties:
        return {}
    return {
        "worst_index": json.loads(properties["worst_index"]),
        "worst_rank": int(properties["worst_rank"]),
        "ranks": [int(rank) for rank in properties["ranks"].split(",") if rank],
    }
