"""The numbers of a case that a wrong sum, mean or scale brings in as a factor."""

from __future__ import annotations

from validation.case.case import Case


def factors(case: Case) -> dict[str, float]:
    """Each such number unlike 1 by its name: `tp`, `dp x cp`, `micro-batches`, `routed_scaling_factor`."""
    layout = case.layout
    data, experts = layout.data_parallel, layout.expert_tp * layout.ep
    shared = data > 1 and layout.cp > 1
    named: dict[str, float] = {
        "tp": layout.tp,
        "cp": layout.cp,
        "dp": data,
        "dp x cp": data * layout.cp if shared else 1,
        "ep": layout.ep,
        "etp": layout.expert_tp if layout.expert_tp != layout.tp else 1,
        "expert dp": layout.tp * layout.cp * data // experts if experts > 1 else 1,
        "micro-batches": case.micro_batches,
        "routed_scaling_factor": case.model.routed_scaling_factor,
    }
    return {name: number for name, number in named.items() if number != 1}
