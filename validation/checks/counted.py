"""Which checks a case must have, counted without pytest: from the tables of probes, parameters and steps.

pytest says which checks it has collected, and may be made to leave some out without a word. This is the second, independent
count. It shares nothing with the marks that parametrise the checks (validation/checks/marks.py): a mistake there shows here.
A check of a user's own module is not counted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from validation.case import latent_norms, plural
from validation.case.case import Case
from validation.case.parameters import parameters
from validation.case.probes import Probe, observed, probes
from validation.case.steps import stepped

Name = tuple[str, str]
"""A check's component and name."""

_FORWARD = {
    "layers": ("embedding", "input_norm", "attention.residual", "mlp_norm", "output"),
    "mla": (
        *("attention.q_latent", "attention.kv_latent", "attention.query", "attention.key"),
        *("attention.value", "attention.core", "attention.output"),
        *("attention.projected_query", "attention.absorbed_query", "attention.absorbed_key"),
    ),
    "indexer": ("indexer.query", "indexer.key", "indexer.weights", "indexer.scores", "indexer.keys"),
    "mlp": ("mlp.output",),
    "router": (
        *("moe.router.logits", "moe.router.scores", "moe.router.experts", "moe.router.weights"),
        "moe.balancing",
    ),
    "moe": ("moe.shared_expert", "moe.dispatched", "moe.experts", "moe.routed", "moe.output"),
    "mtp": (
        *("mtp.embedding", "mtp.embedding_norm", "mtp.hidden_norm", "mtp.projection", "mtp.final_norm"),
        *("mtp.logits", "mtp.token_loss", "mtp.loss"),
    ),
    "output": ("final_norm", "logits", "token_loss", "loss"),
}
"""Component -> the kinds of probes that it compares in the forward pass."""
_COMPONENT_OF = {kind: component for component, kinds in _FORWARD.items() for kind in kinds}
_INFERRED = {"attention.output": True, "moe.router.experts": True, "output": True, "logits": False}
"""Kind of probe that a case in mode inference compares in each of its phases -> whether each layer has one."""
_PHASES = tuple(f"{weights}{phase}" for weights in ("", "Updated ") for phase in ("Full Forward", "Prefill", "Decode"))
_ALWAYS = (
    ("run", "Every rank finishes"),
    ("weights", "Every checkpoint key used"),
    ("weights", "Every Megatron tensor set"),
)
_SELF_TEST = "self_test"
_PLANTED: Mapping[str, tuple[str, ...]] = {
    "attention scale": ("attention to all keys",),
    "rope": ("attention to all keys",),
    "key choice": ("sparse attention",),
    "router bias": ("bias",),
    "expert order": ("experts",),
    "lost reduction": ("tp",),
    "lost gradient reduction": ("sequence parallelism", "dp", "cp"),
    "small error": ("training",),
    "lost moments": ("resume",),
    "decode position": ("static", "dynamic"),
    "stale weights": ("static",),
    "shared block": ("dynamic",),
}
"""Kind of planted defect -> what a run must have one of; the first nine are of cases that train."""
_OF_CASES = (*_FORWARD, "run", "weights", "probe_gradients", "gradients", "steps", "inference")
OURS = frozenset((*_OF_CASES, _SELF_TEST))
"""The components whose checks are counted."""
_SHOWN = 3


def counted(case: Case) -> tuple[Name, ...]:
    """Every check that Plumbline has for this case."""
    found = [*_ALWAYS, *(("weights", one.title) for one in parameters(case.model).values())]
    if case.training.inference != "none":
        return (*found, *_inferred(case))
    found += [("mla", latent_norms.TITLE)] if latent_norms.differs(case.model) else []
    found += _of_probes(observed(case).values())
    found += [("gradients", f"{one.title} Gradient") for one in parameters(case.model).values() if one.trained]
    found += [("steps", one.title) for one in stepped(case).values()]
    return tuple(found)


def _inferred(case: Case) -> Iterator[Name]:
    """What is compared in each phase of inference, by the titles of the layers' own probes."""
    yield "inference", "HuggingFace Cached and Full Logits"
    yield "inference", "Greedy Tokens"
    dynamic = case.training.inference == "dynamic"
    for phase in _PHASES:
        if dynamic and phase == "Updated Full Forward":
            continue
        for one in probes(case.model, 1, 1).values():
            if one.kind in _INFERRED and (one.layer is not None) == _INFERRED[one.kind]:
                yield "inference", f"{phase} {one.title}"


def _of_probes(probes: Iterable[Probe]) -> Iterator[Name]:
    """A probe that a user has added is compared by the user's module; its gradient by ours."""
    for probe in probes:
        if probe.kind in _COMPONENT_OF:
            yield _COMPONENT_OF[probe.kind], probe.title
        if probe.has_gradient:
            yield "probe_gradients", f"{probe.title} Gradient"


def choices(case: Case) -> tuple[Name, ...]:
    """The checks of what the routers choose, and of tokens that are chosen."""
    if case.training.inference != "none":
        return tuple(name for name in _inferred(case) if name[1].endswith((" Router Output", "Greedy Tokens")))
    chosen = [one for one in observed(case).values() if one.kind == "moe.router.experts"]
    return tuple((_COMPONENT_OF[one.kind], one.title) for one in chosen)


def planted(cases: Sequence[Case]) -> tuple[Name, ...]:
    """Every check of the self-test of these cases."""
    contexts = {case.training.inference for case in cases}
    training = [case for case in cases if case.training.inference == "none"]
    layouts = [case.layout for case in training]
    there = {
        "training": bool(training),
        "static": "static" in contexts,
        "dynamic": "dynamic" in contexts,
        "attention to all keys": any(not case.model.sparse for case in training),
        "sparse attention": any(case.model.sparse for case in training),
        "experts": any(case.model.n_routed_experts and case.model.moe_layers for case in training),
        "bias": any(case.model.sigmoid and case.model.moe_layers for case in training),
        "tp": any(layout.tp > 1 for layout in layouts),
        "sequence parallelism": any(layout.tp > 1 and layout.sequence_parallel for layout in layouts),
        "dp": any(layout.data_parallel > 1 for layout in layouts),
        "cp": any(layout.cp > 1 for layout in layouts),
        "resume": any("resume" in case.training.life.split("-") for case in training),
    }
    kinds = [kind for kind, needs in _PLANTED.items() if any(there[need] for need in needs)]
    return tuple((_SELF_TEST, f"Planted defect seen: {kind}") for kind in kinds)


def difference(wanted: Sequence[Name], collected: Collection[Name]) -> str:
    """What was collected and what is counted, in words; empty if they agree, checks of users' own modules aside."""
    ours, known = dict.fromkeys(name for name in collected if name[0] in OURS), set(wanted)
    missing = [name for name in wanted if name not in ours]
    extra = [name for name in ours if name not in known]
    if missing:
        return (
            f"{len(missing)} of its {plural.many(len(wanted), 'check')} {'was' if len(missing) == 1 else 'were'} "
            f"not collected: {_listed(missing)}"
        )
    return f"{len(extra)} of its checks are in no count of them: {_listed(extra)}" if extra else ""


def _listed(names: Sequence[Name]) -> str:
    shown = ", ".join(f"{title} ({component})" for component, title in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
