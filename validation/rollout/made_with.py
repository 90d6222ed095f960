"""What the files of engines and trainers do not say of their log-probabilities, and the command line does. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from validation.case.errors import UsageError
from validation.case.plural import many
from validation.rollout.dump import Dump, Said, check_header, check_sequence


@dataclass(frozen=True)
class MadeWith:
    """`--mode`, `--temperature` and `--engine-precision`; None for what is not given."""

    mode: str | None = None
    temperature: float | None = None
    precision: str | None = None

    def refuse(self, path: Path) -> None:
        """Raises UsageError if any is given: Plumbline's own file says these things itself."""
        if self != MadeWith():
            raise UsageError(f"{path} says itself how it was made; leave out --mode, --temperature and --engine-precision")

    def dump(self, path: Path, engine: str, sequences: Sequence[Said], resolution: float = 2.0**-24) -> Dump:
        """The dump of an engine's sequences. They are float32 somewhere on their way. Raises UsageError."""
        if self.mode is None:
            raise UsageError(
                f"{path} is of {engine} and does not say which log-probabilities it has; add --mode raw_logprobs, or --mode "
                "processed_logprobs with --temperature"
            )
        if self.precision is None:
            raise UsageError(
                f"{path} is of {engine} and does not say what it computes in; add --engine-precision, such as bf16"
            )
        check_header(str(path), self.mode, self.temperature, self.precision)
        if not sequences:
            raise UsageError(f"{path} has no sequence with log-probabilities")
        if not any(any(one.counted) for one in sequences):
            raise UsageError(f"{path}: no token of its {many(len(sequences), 'sequence')} counts; compare a file with answers")
        for number, one in enumerate(sequences):
            # Trainers mask whole answers, such as those that were cut, and engines give requests up before they answer.
            check_sequence(f"{path}, sequence {number}", one, idle=True)
        temperature = 1.0 if self.temperature is None else self.temperature
        return Dump(
            path=path,
            sequences=tuple(sequences),
            mode=self.mode,
            temperature=temperature,
            precision=self.precision,
            trainer_precision=self.precision,
            engine=engine,
            resolution=resolution,
        )
