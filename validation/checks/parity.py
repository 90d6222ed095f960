"""The fixture that the checks are written with."""

from __future__ import annotations

from dataclasses import replace

from validation.case import failures, latent_norms
from validation.case.parameters import Parameter, parameters
from validation.case.plural import many
from validation.case.probes import observed, sees_scores
from validation.case.steps import BIAS, stepped
from validation.checks.inference_statements import OfInference
from validation.checks.judging import Compared, Judging
from validation.checks.order import WEIGHTS
from validation.compare.limits import AFTER_STEPS, EXACT, IN_FP64, Limits, own
from validation.run import cause


class Parity(OfInference):
    """One case's result, and the statements that a check may make of it; those of a case that trains are here."""

    def finished(self) -> None:
        """The ranks ran to their end."""
        title = self.states("Every rank finishes")
        if bug := self.ended_by:
            said = self._runs.result(self.case).broken
            excuse = f"known upstream bug: {bug.what} ({bug.link}); without it they finish, and all checks are of that run"
            self.conclude("known", title, reasons=(said.sentence if said else "", excuse))
        broken = self.result.broken or self.broken_without_bugs() or self.broken_again()
        if broken is None:
            ranks = self.case.layout.ranks
            over = max((memory["peak"] - memory["baseline"]) >> 20 for memory in self.result.memory)
            counted = f"{many(ranks, 'rank')} in {self.result.seconds:.1f} s"
            on_gpu = max(memory["device_peak"] >> 20 for memory in self.result.memory)
            gpu = f", {on_gpu} MiB on a GPU" if on_gpu else ""
            self.conclude("pass", title, f"{counted}, at most {over} MiB over the imports{gpu}")
        else:
            kind = cause.failure(broken.exit_code, broken.sentence)
            self.conclude("error", title, reasons=(broken.sentence,), details=broken.stacks, failure=kind)

    def agrees(self, probe: str, limits: Limits | None = None) -> None:
        """The candidate's tensor at `probe` is the reference's, within the precision's limits (or those given).

        Raises LookupError for a probe that there is not, TypeError and ValueError for limits that decide nothing.
        """
        known = observed(self.case)
        if probe not in known:
            raise LookupError(f"{probe} is not a probe of this case; known are {', '.join(known)}")
        self.compare(Compared(probe, known[probe].title, known[probe].shape, None if limits is None else own(limits)))

    def routes_agree(self, probe: str) -> None:
        """Every token goes to the reference's experts, near-ties of a lower precision aside, and to those of its own scores."""
        known = observed(self.case)[probe]
        self.compare(
            Compared(
                probe,
                known.title,
                known.shape,
                EXACT,
                routes=True,
                also=Judging.near_ties,
                lastly=Judging.by_own_scores,
            )
        )

    def keys_agree(self, probe: str) -> None:
        """Every query attends to the keys that the reference's indexer chooses, near-ties of a lower precision aside."""
        known = observed(self.case)[probe]
        self.compare(Compared(probe, known.title, known.shape, EXACT, routes=True, also=Judging.near_ties))

    def weight_is_equal(self, parameter: str) -> None:
        """What the ranks hold, read back into the checkpoint's layout, is the checkpoint's to the bit."""
        known = parameters(self.case.model)[parameter]
        self.compare(Compared(f"weights/{parameter}", known.title, known.shape, EXACT))

    def latent_epsilon_agrees(self) -> None:
        """Megatron-Core builds the latents' norms with the reference's epsilon; where it does not, they have been given it."""
        self.compare(Compared(latent_norms.NAME, latent_norms.TITLE, latent_norms.shape(self.case.model), EXACT))

    def probe_gradient_agrees(self, probe: str) -> None:
        """The gradient that reaches `probe` is the reference's."""
        known = observed(self.case)[probe]
        self.compare(Compared(f"probe_gradients/{probe}", f"{known.title} Gradient", known.shape))

    def gradient_agrees(self, parameter: str) -> None:
        """The gradient after finalize_model_grads is the reference's, and the same on every rank that holds it."""
        known: Parameter = parameters(self.case.model)[parameter]
        self.compare(
            Compared(
                f"gradients/{parameter}",
                f"{known.title} Gradient",
                known.shape,
                also=Judging.reduced,
            )
        )

    def step_agrees(self, key: str) -> None:
        """What an optimizer step leaves is what torch's optimizer leaves on the HuggingFace model."""
        known = stepped(self.case)[key]
        asked = Compared(known.name, known.title, known.shape, AFTER_STEPS if self.case.precision == "fp64" else None)
        chosen_by = key.endswith(BIAS) and known.step < self.case.training.steps and sees_scores(self.case)
        self.compare(replace(asked, lastly=Judging.by_next_choice) if chosen_by else asked)

    def rates_agree(self, key: str) -> None:
        """The rates that a step multiplies with are those of the formula, whatever the precision is."""
        known = stepped(self.case)[key]
        self.compare(Compared(known.name, known.title, known.shape, IN_FP64))

    def every_tensor_is_set(self) -> None:
        """No Megatron parameter or persistent buffer holds an element that the checkpoint did not set."""
        title = "Every Megatron tensor set"
        self.decidable(title, at=WEIGHTS)
        known = {f"weights/{name}" for name in parameters(self.case.model)}
        unset = {
            f"{sentence} (rank {', '.join(map(str, sorted(found)))})"
            for name, found in self.result.problems.items()
            if name.startswith("weights/") and name not in known
            for sentence in set(found.values())
        }
        reasons = tuple(sorted(unset))
        self._of_all_weights(title, "none left NaN", reasons)

    def every_key_is_used(self) -> None:
        """No tensor of the checkpoint is left over (those of other layers and of the MTP layer are set aside, counted)."""
        title = "Every checkpoint key used"
        self.decidable(title, at=WEIGHTS)
        unused, aside = self.result.facts["unused"], self.result.facts["set_aside"]
        numbers = many(self.result.facts["keys"], "key") + "".join(
            f", {count} set aside: {why}" for why, count in aside.items()
        )
        reasons = tuple(f"no parameter takes {key}" for key in unused[:3])
        reasons += (f"and {len(unused) - 3} more",) if len(unused) > 3 else ()
        self._of_all_weights(title, numbers, reasons)

    def _of_all_weights(self, title: str, numbers: str, reasons: tuple[str, ...]) -> None:
        status, kind = ("fail", failures.WEIGHTS) if reasons else ("pass", "")
        self.conclude(status, title, numbers, reasons=reasons, at=WEIGHTS, failure=kind)
