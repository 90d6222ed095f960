"""Verdicts: whether a measurement holds, and the sentence that says why not (docs/design.md, section 4)."""

from __future__ import annotations

from dataclasses import dataclass, field

from validation.compare.measurement import Measurement, PieceReport

PASS, FAIL, KNOWN, ERROR = "pass", "fail", "known", "error"


@dataclass(frozen=True)
class Limits:
    """What a probe may differ by. `relative_error` bounds ||d||/||r|| and |a - 1|; `max_abs` bounds |d|, where given."""

    relative_error: float
    max_abs: float | None = None


LIMITS = {
    "fp64": Limits(relative_error=1e-10),
    "fp32": Limits(relative_error=2e-5, max_abs=1e-3),
}
"""fp64: rounding is 5e-15 in every layout and the smallest real bugs are 1e-6. fp32: until a floor is measured per probe."""

AFTER_STEPS = {**LIMITS, "fp64": Limits(relative_error=1e-9)}
"""Steps add up: AdamW divides by the root of the second moment, which takes half of the digits of small gradients."""

EXACT = Limits(relative_error=0.0, max_abs=0.0)


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check. `numbers` is the part of the line after the title; `reasons` say what does not hold.

    `place` orders verdicts by data flow: the run, weights, probes forward, probe gradients and parameter gradients from
    the back.
    """

    status: str
    title: str
    numbers: str = ""
    reasons: tuple[str, ...] = ()
    properties: dict[str, str] = field(default_factory=dict)
    pieces: tuple[PieceReport, ...] = ()
    details: str = ""
    place: tuple[int, int] = (0, 0)

    @property
    def line(self) -> str:
        """The line a user reads: `PASS: Layer 0 Attention Output - Max diff: 0.000123, Avg diff: 0.000032`."""
        said = "; ".join(part for part in (self.numbers, *self.reasons) if part)
        return f"{self.status.upper()}: {self.title}" + (f" - {said}" if said else "")


def judge(measurement: Measurement, title: str, limits: Limits, routes: bool = False) -> Verdict:
    """The verdict on one tensor: finite, covered, replicas agree, then within `limits`. Every test fails on NaN.

    `routes` says that the tensor is a map of chosen experts, which reads better as a count.
    """
    if not measurement.pieces:
        return Verdict(ERROR, title, reasons=(f"no rank reported {measurement.name}",))
    missing = measurement.missing()
    status = ERROR if missing is not None else PASS
    reasons = [f"no rank holds {_range(missing)}"] if missing is not None else []
    broken = [*_not_finite(measurement), *_replicas(measurement), *_too_far(measurement, limits)]
    if missing is None and measurement.overlaps():
        broken.append("pieces of different ranks overlap in part, which no layout explains")
    if broken:
        status, reasons = FAIL, [*broken, *reasons]
    numbers = _numbers(measurement) + (_routes(measurement) if routes else "")
    return Verdict(status, title, numbers, tuple(reasons), _properties(measurement, limits), measurement.pieces)


def _not_finite(measurement: Measurement) -> list[str]:
    difference = measurement.difference
    sides = {"candidate": difference.nonfinite_candidate, "reference": difference.nonfinite_reference}
    return [f"{count} elements of the {side} are not finite" for side, count in sides.items() if count]


def _replicas(measurement: Measurement) -> list[str]:
    replicas = measurement.disagreeing()
    if not replicas:
        return []
    ranks = ", ".join(str(replica.rank) for replica in replicas)
    return [f"replicas of {_range(replicas[0].box)} on ranks {ranks} differ in their bytes"]


def _too_far(measurement: Measurement, limits: Limits) -> list[str]:
    difference, worst = measurement.difference, measurement.worst
    reasons = []
    if not difference.relative_error <= limits.relative_error:
        reasons.append(f"relative error {difference.relative_error:.2e} > {limits.relative_error:.0e}")
    # Elements that are all zero in the reference have no projection; their relative error has already spoken.
    scaled = difference.differing and difference.reference_squares > 0
    if scaled and not abs(difference.projection - 1) <= max(limits.relative_error, 1e-15):
        reasons.append(f"scaled by {difference.projection:.6g}")
    if limits.max_abs is not None and not difference.max_abs <= limits.max_abs:
        reasons.append(f"max diff {difference.max_abs:.2e} > {limits.max_abs:.0e}")
    if reasons:
        index = ", ".join(str(position) for position in worst.difference.max_index)
        reasons.append(f"worst at [{index}] on rank {worst.rank}")
    return reasons


def readable(number: float) -> str:
    """A difference as a reader wants it: 0.000123 where six decimals show it, 4.4e-16 where they do not."""
    return f"{number:.6f}" if number == 0 or 1e-4 <= number < 1e6 else f"{number:.2e}"


def _numbers(measurement: Measurement) -> str:
    difference = measurement.difference
    numbers = f"Max diff: {readable(difference.max_abs)}, Avg diff: {readable(difference.average)}"
    if difference.differing == 0:
        return f"{numbers} ({difference.count} elements equal)"
    return f"{numbers} (relative {difference.relative_error:.1e})"


def _routes(measurement: Measurement) -> str:
    """An expert chosen in place of another differs at two elements; as many are chosen as the reference has ones."""
    difference = measurement.difference
    return f", {(difference.differing + 1) // 2} of {difference.reference_squares:.0f} routes differ"


def _properties(measurement: Measurement, limits: Limits) -> dict[str, str]:
    difference, worst = measurement.difference, measurement.worst
    return {
        "max_diff": repr(difference.max_abs),
        "avg_diff": repr(difference.average),
        "rel_error": repr(difference.relative_error),
        "projection": repr(difference.projection),
        "tolerance": repr(limits.relative_error),
        "worst_index": str(list(worst.difference.max_index)),
        "worst_rank": str(worst.rank),
        "ranks": ",".join(str(rank) for rank in measurement.ranks),
        "elements": str(difference.count),
    }


def piece_lines(verdict: Verdict) -> tuple[str, ...]:
    """A line for what each rank holds, for `--debug`."""
    return tuple(
        f"rank {piece.rank} {_range(piece.box)}: Max diff: {readable(piece.difference.max_abs)} at "
        f"{list(piece.difference.max_index)}, relative {piece.difference.relative_error:.1e}, bytes {piece.digest}"
        for piece in verdict.pieces
    )


def _range(box: tuple[tuple[int, int], ...]) -> str:
    return "[" + ", ".join(f"{start}:{stop}" for start, stop in box) + "]"
