"""The rules that the options of a step set.

A rule takes the case and returns a sentence (what is wrong, and what would work instead) or None.
"""

from __future__ import annotations

from validation.case.case import Case
from validation.case.plural import many
from validation.case.suggestions import join
from validation.case.training import OPTIONS


def known_options(case: Case) -> str | None:
    """Each option is one of its words."""
    for name, words in OPTIONS.items():
        value = getattr(case.training, name)
        if value not in words:
            return f"{name} {value!r} is unknown; known are {join(words)}"
    return None


def stages_fit(case: Case) -> str | None:
    """One number for each stage, all layers together, and those between the first and the last alike."""
    stages, pp, layers = case.training.stages, case.layout.pp, case.model.num_hidden_layers
    if not stages:
        return None
    said = "-".join(map(str, stages))
    if len(stages) != pp:
        return f"+{said} gives the layers of {many(len(stages), 'pipeline stage')} and the layout has pp{pp}; give {pp} numbers"
    if sum(stages) != layers or 0 in stages:
        return (
            f"+{said} gives {many(sum(stages), 'layer')} to the stages and the model has {layers}; each stage "
            f"takes at least one"
        )
    if case.layout.vpp > 1:
        return f"+{said}: Plumbline has uneven stages without interleaving only; leave out vpp{case.layout.vpp}"
    if len(set(stages[1:-1])) > 1:
        return f"+{said}: Megatron-Core has numbers for the first and the last stage only; give those between the same"
    return None


def grouped_experts_need_kernels(case: Case) -> str | None:
    """Grouped products of experts are Transformer Engine's."""
    if case.training.experts != "grouped" or case.uses_te:
        return None
    return "grouped experts are Transformer Engine's; --implementation te has them, or leave out +grouped"


def balanced_experts_exist(case: Case) -> str | None:
    """There is nothing to balance in a dense model."""
    if case.training.balancing == "none" or case.model.moe_layers:
        return None
    return f"balancing {case.training.balancing} is of experts and the model has none; leave it out"


def gradients_overflow_in_fp16(case: Case) -> str | None:
    """Only a loss scale has megatron-core look for infinities."""
    word = case.training.life
    if "overflow" not in word.split("-"):
        return None
    if case.precision != "fp16":
        return f"+{word}: Megatron-Core skips a step that overflows in fp16 only; --precision fp16 does, or leave overflow out"
    return None


def isolated_cases_take_no_steps(case: Case) -> str | None:
    """An optimizer step is no module, and the forward pass of the next one is not compared."""
    if not (case.isolated and case.training.steps):
        return None
    return "--isolated compares the modules of one forward and backward pass; leave out --steps, or --isolated"


def streamed_layers_stand_alone(case: Case) -> str | None:
    """Layer by layer there is one stage, one pass over each layer, and nothing that needs all of them at once."""
    training, model = case.training, case.model
    if not training.stream:
        return None
    unable = {
        "pipeline stages (a rank holds one layer at a time anyway; tp, ep, etp, cp and dp work)": case.layout.pp > 1,
        "layers of multi-token prediction on several ranks (leave out +mtp, or take the layout single)": (
            model.num_nextn_predict_layers > 0 and not case.in_lockstep
        ),
        "more than one layer of multi-token prediction": model.num_nextn_predict_layers > 1,
        "optimizer steps, which need every gradient at once (--steps 0 works)": training.steps > 0,
        "distributed optimizer, which has buffers for the whole model (leave out +distributed)": training.optimizer != "plain",
        "tied embeddings, whose gradient is of the first layer and of the last": model.tie_word_embeddings,
        "balancing losses (leave them out)": training.balancing != "none",
        "mean of means as its loss (--loss token works)": training.loss != "token",
        "isolated modules (leave out --isolated)": case.isolated,
        "Megatron checkpoint, which is loaded whole (leave out --candidate-checkpoint)": case.candidate_checkpoint is not None,
        "recomputation (each layer is computed again anyway)": training.recompute != "none",
    }
    found = next((what for what, there in unable.items() if there), None)
    return f"--stream has no {found}" if found else None


RULES = (
    known_options,
    streamed_layers_stand_alone,
    gradients_overflow_in_fp16,
    isolated_cases_take_no_steps,
    stages_fit,
    grouped_experts_need_kernels,
    balanced_experts_exist,
)
