"""What of a recipe decides how much memory a step takes, beside model and layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from validation.case.annotation import Value
from validation.case.errors import UsageError
from validation.case.plural import many
from validation.plan.activations import MODULES
from validation.recipe.recipe import Recipe

NONE, SELECTIVE, FULL = "none", "selective", "full"
_BYTES = {"fp32": 4, "float32": 4, "bf16": 2, "bfloat16": 2, "fp16": 2, "float16": 2, "fp8": 1, "uint8": 1}
_ALL_AT_ONCE = "uniform"


@dataclass(frozen=True)
class Recompute:
    """What the backward pass computes again: upstream's granularity, modules, method and number of layers.

    `layers` is None if every layer is recomputed, else of how many layers of a chunk `block` takes, or how many `uniform`
    takes at once.
    """

    granularity: str = NONE
    modules: tuple[str, ...] = ()
    block: int | None = None
    at_once: int = 1

    @property
    def said(self) -> str:
        """In a few words."""
        if self.granularity == SELECTIVE:
            return f"{SELECTIVE} ({', '.join(self.modules)})"
        if self.block is not None:
            return f"{FULL} (block, {many(self.block, 'layer')})"
        return self.granularity


CHEAP = ("moe_act", "layernorm", "mla_up_proj")
"""recompute_modules that cost little: an activation, norms, the up-projections of the latents."""
LADDER = (Recompute(), Recompute(SELECTIVE, CHEAP), Recompute(FULL))
"""What is tried in turn if no recipe says it: the least that fits is taken."""


@dataclass(frozen=True)
class Policy:
    """Bytes of each weight, its gradient and its optimizer state, who shares that state, and how a step is made.

    `recompute` are the ways that may be taken, the least first. `moments` are bytes of both Adam moments, `main` those of the
    main copy of a weight. `unfused` says that the activation is not computed in one kernel. `offloaded` is the share of the
    optimizer that is in host memory.
    """

    weights: int = 2
    gradients: int = 4
    main: int = 4
    moments: int = 8
    distributed: bool = True
    instances: int = 1
    offloaded: float = 0.0
    recompute: tuple[Recompute, ...] = LADDER
    fused_loss: bool = False
    unfused: bool = False
    dispatcher: str = "alltoall"
    saved_divided: bool = False
    doubts: tuple[str, ...] = ()

    @property
    def state(self) -> float:
        """Bytes of the optimizer for one weight, on a GPU."""
        return (self.main + self.moments) * (1 - self.offloaded)

    def doubting(self, sentence: str) -> Policy:
        """The same with one more sentence on what the answer leaves out."""
        return replace(self, doubts=(sentence, *self.doubts))


def of_recipe(recipe: Recipe) -> Policy:
    """The policy of a recipe. Raises UsageError for one whose sharding is not counted here."""
    values = recipe.values
    if values.get("ddp.use_megatron_fsdp") or values.get("ddp.use_custom_fsdp"):
        raise UsageError(
            f"{recipe.source}: Megatron-FSDP shards weights in its own way, which plan does not count; leave it out"
        )
    half = recipe.precision in ("bf16", "fp16")
    aware = bool(values.get("optimizer.use_precision_aware_optimizer"))
    moments = [_bytes(values, f"optimizer.{name}_dtype") if aware else 4 for name in ("exp_avg", "exp_avg_sq")]
    fraction = values.get("optimizer.optimizer_offload_fraction", 0.0)
    return Policy(
        weights=2 if half else 4,
        gradients=_gradients(values, half, aware),
        main=_bytes(values, "optimizer.main_params_dtype") if aware else 4 if half else 0,
        moments=sum(moments),
        distributed=bool(values.get("ddp.use_distributed_optimizer") or values.get("optimizer.use_distributed_optimizer")),
        instances=max(_whole(values.get("ddp.num_distributed_optimizer_instances")), 1),
        offloaded=_share(fraction) if values.get("optimizer.optimizer_cpu_offload") else 0.0,
        recompute=(recompute(values),),
        fused_loss=bool(values.get("model.cross_entropy_loss_fusion")),
        unfused=values.get("model.bias_activation_fusion") is False,
        dispatcher=str(values.get("model.moe_token_dispatcher_type") or "allgather"),
        saved_divided=bool(values.get("model.distribute_saved_activations")),
        doubts=tuple(_doubts(values)),
    )


def recompute(values: Mapping[str, Value]) -> Recompute:
    """What `model`'s settings recompute."""
    granularity = values.get("model.recompute_granularity")
    if granularity == FULL:
        layers = _whole(values.get("model.recompute_num_layers")) or 1
        uniform = values.get("model.recompute_method") in (None, _ALL_AT_ONCE)
        return Recompute(FULL, at_once=layers) if uniform else Recompute(FULL, block=layers)
    modules = values.get("model.recompute_modules") or ("core_attn",)
    named = tuple(str(one) for one in modules) if isinstance(modules, (tuple, list)) else (str(modules),)
    if granularity == SELECTIVE:
        return Recompute(SELECTIVE, tuple(one for one in MODULES if one in named))
    return Recompute(SELECTIVE, ("moe",)) if values.get("model.moe_layer_recompute") else Recompute()


def _gradients(values: Mapping[str, Value], half: bool, aware: bool) -> int:
    if not half:
        return 4
    if aware and "optimizer.main_grads_dtype" in values:
        return _bytes(values, "optimizer.main_grads_dtype")
    return 4 if values.get("ddp.grad_reduce_in_fp32", True) else 2


def _bytes(values: Mapping[str, Value], name: str) -> int:
    return _BYTES.get(str(values.get(name, "fp32")).removeprefix("torch."), 4)


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _share(value: object) -> float:
    return min(max(float(value), 0.0), 1.0) if isinstance(value, (int, float)) else 1.0


def _doubts(values: Mapping[str, Value]) -> list[str]:
    """What the recipe does to memory and is not counted, a sentence each."""
    said = {
        "model.fp8": "fp8 is not counted: weights and activations are counted as bf16",
        "model.fp4": "fp4 is not counted: weights and activations are counted as bf16",
        "model.cpu_offloading": "cpu_offloading is not counted: activations are counted as if all stayed on the GPU",
        "model.fine_grained_activation_offloading": "fine_grained_activation_offloading is not counted: activations stay",
        "model.moe_expert_capacity_factor": "moe_expert_capacity_factor is not counted: give --imbalance instead",
    }
    return [sentence for name, sentence in said.items() if values.get(name)]
