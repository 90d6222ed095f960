"""What megatron-core (0.12 to 0.19, main and dev) needs to run without CUDA and without Transformer Engine.

One entry per upstream defect, each with its link; an entry goes when upstream is mended. `install` runs before the first
import of megatron.core, `mend` right after it. Nothing here changes what is computed.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import importlib.util
import inspect
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

from validation.compare.precision import Mode

_CPU = torch.device("cpu")
_KIND, _TO_CUDA = torch.Tensor.type, torch.Tensor.cuda


class _NoStream:
    """Stand-in for a CUDA stream or event: on the CPU program order is the only order."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take whatever a stream or event takes."""

    def wait_stream(self, stream: Any) -> None:
        """Nothing runs out of order."""

    wait_event = wait = record = wait_stream

    def synchronize(self) -> None:
        """Nothing is pending."""

    def record_event(self, event: Any = None) -> _NoStream:
        """An event that has already happened."""
        return self


def _cpu_device() -> None:
    """megatron-core asks CUDA for the current device whatever the backend is.

    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/transformer/moe/router.py
    """
    torch.cuda.current_device = lambda: _CPU  # type: ignore[assignment,return-value]


def _cpu_streams() -> None:
    """The alltoall dispatcher makes CUDA streams, pipeline communication waits for them, recomputation saves CUDA's seed.

    The schedule behind `overlap_moe_expert_parallel_comm` names its parts for a profiler, and they wait for events. Of several
    instances of the distributed optimizer each reduces gradients on a stream of its own while others are computed.
    Since 0.20 pipeline communication asks whether a CUDA graph is being captured, which torch's CPU build cannot answer.

    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/transformer/moe/token_dispatcher.py
    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/pipeline_parallel/p2p_communication.py
    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/tensor_parallel/random.py
    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/distributed/param_and_grad_buffer.py
    """
    cuda: Any = torch.cuda
    cuda.Stream = _NoStream
    cuda.Event = _NoStream
    cuda.stream = lambda stream: contextlib.nullcontext()
    torch.Tensor.record_stream = lambda tensor, stream: None  # type: ignore[assignment,method-assign]
    cuda.nvtx.range_push = cuda.nvtx.range_pop = lambda *args: None
    cuda.current_stream = cuda.default_stream = lambda *args, **kwargs: _NoStream()
    cuda.synchronize = lambda *args, **kwargs: None
    cuda.is_current_stream_capturing = lambda: False
    cuda.get_rng_state = cuda.random.get_rng_state = lambda *args, **kwargs: torch.get_rng_state()


def _no_news_of_cuda() -> None:
    """Since 0.17 megatron-core imports torch.utils.cpp_extension, which warns if there is a CUDA toolkit and no GPU.

    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.19.2/megatron/core/tensor_parallel/random.py
    """
    logging.getLogger("torch.utils.cpp_extension").addFilter(_other_news)


def _other_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("No CUDA runtime is found")


def _no_compiler() -> None:
    """`jit_fuser` is torch.compile, applied at import: it needs a C++ compiler and costs 1.5 s on the CPU.

    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/jit.py
    """
    vars(torch)["compile"] = lambda model=None, *args, **kwargs: model if model is not None else (lambda inner: inner)


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """On a GPU the same holds while megatron-core is imported; afterwards torch.compile is there for whoever wants it.

    Of what it marks for compilation, only the router's count of tokens is called with every fusion off. That runs under the
    function modes that watch a router, and every rank would compile it again: seconds, for one addition.
    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/transformer/moe/router.py
    """
    compile_ = torch.compile
    _no_compiler()
    try:
        yield
    finally:
        vars(torch)["compile"] = compile_


broken: dict[str, str] = {}
"""Packages that are installed and count as absent, each with what its import raised."""
_NEEDED = {
    "transformer_engine": (
        "transformer_engine.pytorch",
        "megatron.core.fp8_utils",
        "megatron.core.extensions.transformer_engine",
    ),
    "apex": ("apex",),
}
"""Packages that megatron-core asks for in many places, and what must be importable with them: the answer must be one."""


class _Triton(ModuleType):
    """Stand-in for triton and triton.language: enough to define kernels, which say what is missing when they are launched."""

    def __init__(self) -> None:
        super().__init__("triton")
        self.language = self
        self.constexpr = object

    @staticmethod
    def jit(kernel: Any = None, **options: Any) -> Any:
        """Takes a kernel, or options and then a kernel."""
        return _NoKernel() if kernel is not None else lambda kernel: _NoKernel()


class _NoKernel:
    def __getitem__(self, grid: Any) -> Any:
        raise RuntimeError("megatron-core's paged stash needs triton, which is not installed; leave moe_paged_stash off")


_KERNELS = ("megatron.core.transformer.moe.paged_stash", "megatron.core.transformer.moe.ops.paged_stash")


@contextlib.contextmanager
def unused_kernels() -> Iterator[None]:
    """Within it, megatron-core's paged stash is imported without triton if it is not installed, as in torch's CPU build.

    Since 0.18 every import of a model imports these kernels, though only `moe_paged_stash` launches them. All other modules
    are told the truth: they have a way without triton.
    https://github.com/NVIDIA/Megatron-LM/issues/4247
    https://github.com/NVIDIA/Megatron-LM/pull/6891
    """
    if importlib.util.find_spec("triton") is not None:
        yield
        return
    import_, triton = builtins.__import__, _Triton()

    def without_triton(name: str, *given: Any, **named: Any) -> ModuleType:
        if name.partition(".")[0] == "triton" and _importer(given, named).get("__name__") in _KERNELS:
            return triton
        return import_(name, *given, **named)

    vars(builtins)["__import__"] = without_triton
    try:
        yield
    finally:
        vars(builtins)["__import__"] = import_


def _leave_out_jax() -> None:
    """Keep Transformer Engine from importing its part for JAX, and all of JAX where it is installed: a second of a start.

    It takes an ImportError for absence.
    https://github.com/NVIDIA/TransformerEngine/blob/v2.11/transformer_engine/__init__.py
    """
    sys.modules.setdefault("transformer_engine.jax", None)  # type: ignore[arg-type]


@contextlib.contextmanager
def broken_is_absent() -> Iterator[None]:
    """Within it an optional package of megatron-core's that cannot be imported counts as not installed, until the process ends.

    megatron-core takes an ImportError alone for absence. A Transformer Engine without its PyTorch part raises
    FileNotFoundError, a library that does not fit this torch OSError or RuntimeError, and one that is too old for this
    megatron-core fails in the middle of its own modules.
    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/extensions/transformer_engine.py
    """
    _leave_out_jax()
    for package, modules in _NEEDED.items():
        if package not in sys.modules and importlib.util.find_spec(package) is not None:
            _try(package, modules)
    _find_distutils()
    import_ = builtins.__import__

    def guarded(name: str, *given: Any, **named: Any) -> ModuleType:
        try:
            return import_(name, *given, **named)
        except ImportError:
            raise
        except Exception as error:
            level = given[3] if len(given) > 3 else named.get("level", 0)
            if level or not _optional(name, _importer(given, named)):  # a relative import is of megatron-core's own
                raise
            _count_as_absent(name.partition(".")[0], error)
            raise ImportError(f"{name}: {error}") from error

    vars(builtins)["__import__"] = guarded
    try:
        yield
    finally:
        vars(builtins)["__import__"] = import_


def _importer(given: Sequence[Any], named: Mapping[str, Any]) -> Mapping[str, Any]:
    """The globals of a call of `__import__`, behind the name: packages with lazy modules pass them by keyword."""
    return (given[0] if given else named.get("globals")) or {}


def _find_distutils() -> None:
    """Import setuptools while Python's own `__import__` is in place.

    megatron-core imports torch.utils.cpp_extension since 0.17, and that imports setuptools, which puts its distutils where
    Python 3.12 has none any more. Seen to end with "No module named 'distutils'" under any other `__import__`, in an image
    with setuptools 81 and finders of numba-cuda's and virtualenv's.
    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.19.2/megatron/core/tensor_parallel/random.py
    """
    if sys.version_info >= (3, 12):
        with contextlib.suppress(Exception):  # it may be absent; what needs it says so
            importlib.import_module("setuptools")


def _try(package: str, modules: Sequence[str]) -> None:
    """Import them; if one cannot be, the package counts as absent, and megatron-core is imported anew without it."""
    try:
        for name in modules:
            importlib.import_module(name)
    except (Exception, SystemExit) as error:
        _count_as_absent(package, error)
        _forget_modules("megatron")


def _forget_modules(package: str) -> None:
    for name in [name for name in list(sys.modules) if name.partition(".")[0] == package]:
        del sys.modules[name]


def _optional(name: str, importer: Mapping[str, Any]) -> bool:
    """Whether megatron-core asks, and for what is neither its own nor torch's."""
    own = ("megatron", "torch", "validation", "")
    return str(importer.get("__name__", "")).startswith("megatron.") and name.partition(".")[0] not in own


def _count_as_absent(package: str, error: BaseException) -> None:
    """An import of it raises ImportError from now on, and importlib finds no spec."""
    broken[package] = next(iter(f"{type(error).__name__}: {error}".splitlines()))
    _forget_modules(package)
    sys.modules[package] = None  # type: ignore[assignment]


class CudaMeansCpu(Mode):
    """`device="cuda"`, `.cuda()`, `pin_memory=True` and checks for 'torch.cuda.FloatTensor' are written into the source.

    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/pipeline_parallel/schedules.py
    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/optimizer/optimizer.py
    """

    def __init__(self, promote: bool) -> None:
        super().__init__(promote)
        self.replaced |= {_TO_CUDA: lambda tensor, *args, **kwargs: tensor, _KIND: self._kind}

    def keywords(self, given: dict[str, Any]) -> dict[str, Any]:
        """Nothing is made on a GPU or in pinned memory."""
        if given.get("device") == "cuda":
            given = {**given, "device": _CPU}
        if given.get("pin_memory"):
            given = {**given, "pin_memory": False}
        return super().keywords(given)

    def _kind(self, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs:
            return _KIND(tensor, *args, **kwargs)
        name = str(_KIND(tensor)).replace("torch.", "torch.cuda.")
        return name.replace("Double", "Float") if self.promote else name


class CudaDoubles(Mode):
    """In fp64 on a GPU, checks for 'torch.cuda.FloatTensor' get the answer that float32 would: optimizers know no other.

    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/optimizer/optimizer.py
    """

    def __init__(self, promote: bool) -> None:
        super().__init__(promote)
        if promote:
            self.replaced[_KIND] = self._kind

    def _kind(self, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        found = _KIND(tensor, *args, **kwargs)
        return found.replace("cuda.Double", "cuda.Float") if isinstance(found, str) else found


def mode(on_cpu: bool, precision: str) -> type[Mode]:
    """What a rank's calls of torch pass through."""
    if on_cpu:
        return CudaMeansCpu
    return CudaDoubles if precision == "fp64" else Mode


def torchs_optimizers() -> None:
    """In fp64 and on a CPU Adam and the norm of gradients are torch's: Transformer Engine's and apex's kernels have neither.

    megatron-core takes them when it is imported, wherever they are installed; without them it takes torch's by itself.
    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/optimizer/__init__.py
    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/optimizer/clip_grads.py
    """
    optimizer = importlib.import_module("megatron.core.optimizer")
    vars(optimizer).update(Adam=torch.optim.AdamW, SGD=torch.optim.SGD, USING_PYTORCH_OPTIMIZER=True)
    utils = vars(importlib.import_module("megatron.core.utils"))
    for name in ("optimizer.clip_grads", "optimizer.optimizer"):
        names = vars(importlib.import_module(f"megatron.core.{name}"))
        for ours, theirs in _TENSOR_KERNELS.items():
            if ours in names:
                names[ours] = utils[theirs]


_TENSOR_KERNELS = {
    "multi_tensor_applier": "local_multi_tensor_applier",
    "l2_norm_impl": "local_multi_tensor_l2_norm",
    "multi_tensor_scale_impl": "local_multi_tensor_scale",
}
"""Names in megatron-core's optimizers and what it puts there itself where neither library is installed."""


def _uneven_gloo() -> None:
    """Experts that are both spread and cut exchange parts of unequal size, which gloo's all_gather and reduce_scatter refuse.

    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/tensor_parallel/mappings.py
    """
    gather, scatter = dist.all_gather, dist.reduce_scatter

    def all_gather(outputs: Any, tensor: Any, group: Any = None, async_op: bool = False) -> Any:
        if len({output.shape for output in outputs}) == 1:
            return gather(outputs, tensor, group=group, async_op=async_op)
        sizes = [len(output) for output in outputs]
        received = tensor.new_empty((sum(sizes), *tensor.shape[1:]))
        copies = torch.cat([tensor] * len(outputs))
        dist.all_to_all_single(received, copies, sizes, [len(tensor)] * len(outputs), group=group)
        for output, part in zip(outputs, received.split(sizes), strict=True):
            output.copy_(part)
        return None

    def reduce_scatter(
        output: Any, tensors: Any, op: Any = dist.ReduceOp.SUM, group: Any = None, async_op: bool = False
    ) -> Any:
        if len({tensor.shape for tensor in tensors}) == 1:
            return scatter(output, tensors, op=op, group=group, async_op=async_op)
        if op != dist.ReduceOp.SUM or async_op:
            raise ValueError("uneven reduce_scatter over gloo: only a synchronous sum is supported")
        received = output.new_empty((len(tensors) * len(output), *output.shape[1:]))
        sizes = [len(tensor) for tensor in tensors]
        dist.all_to_all_single(received, torch.cat(list(tensors)), [len(output)] * len(tensors), sizes, group=group)
        output.copy_(received.view(len(tensors), *output.shape).sum(0))
        return None

    vars(dist).update(all_gather=all_gather, reduce_scatter=reduce_scatter)


def install(transport: str) -> None:
    """Make torch answer megatron-core's questions about CUDA with the CPU. Before the first import of megatron.core."""
    for entry in (_cpu_device, _cpu_streams, _no_compiler, _no_news_of_cuda):
        entry()
    if transport == "gloo":
        _uneven_gloo()


def _undetected_absence(modules: dict[str, ModuleType]) -> None:
    """Multi-latent attention takes Transformer Engine for installed when it is not; since 0.17 it then knows no whole layer.

    Its own linear layer without Transformer Engine, which every rank holds whole, is None there and refused.
    https://github.com/NVIDIA/Megatron-LM/issues/3764
    https://github.com/NVIDIA/Megatron-LM/pull/3763
    """
    places = [modules["transformer.multi_latent_attention"]]
    with contextlib.suppress(ImportError):  # the absorbed attention of 0.19
        places.append(importlib.import_module("megatron.core.transformer.experimental_attention_variant.absorbed_mla"))
    for names in map(vars, places):
        names["HAVE_TE"] = False
        if names.get("Linear", names) is None:
            names["Linear"] = vars(importlib.import_module("megatron.core.post_training.modelopt.layers"))["Linear"]


def _mocked_inference_layers(modules: dict[str, ModuleType]) -> None:
    """On main every MTP layer asks isinstance of classes that are mocks without Transformer Engine: no layer is of them.

    https://github.com/NVIDIA/Megatron-LM/pull/5748
    """
    names = vars(modules["transformer.multi_token_prediction"])
    if "is_inference_column_parallel_linear" in names:
        names["is_inference_column_parallel_linear"] = lambda module: False


def _undefined_gemm(modules: dict[str, ModuleType]) -> None:
    """The router's linear layer reads a name that only Transformer Engine's import defines.

    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/transformer/moe/moe_utils.py
    """
    vars(modules["transformer.moe.moe_utils"]).setdefault("te_general_gemm", None)


def _undefined_fp8(modules: dict[str, ModuleType]) -> None:
    """Recomputation without output reads fp8 state that only Transformer Engine's import defines.

    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/tensor_parallel/random.py
    """
    names = vars(modules["tensor_parallel.random"])
    names.setdefault("FP8GlobalStateManager", type("NoFp8", (), {"is_fp8_enabled": staticmethod(lambda: False)}))
    for context in ("activation_recompute_forward", "fp8_autocast"):
        names.setdefault(context, lambda *args, **kwargs: contextlib.nullcontext())


def _nothing_in_fp8(modules: dict[str, ModuleType]) -> None:
    """In 0.12 the distributed optimizer's step raises without Transformer Engine, though no weight is in fp8.

    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.12.3/megatron/core/fp8_utils.py
    """
    names, name = vars(modules["fp8_utils"]), "_quantize_param_shard_impl"
    if quantise := names.get(name):
        names[name] = lambda weights, *args, **kwargs: quantise(weights, *args, **kwargs) if weights else None


def _cpu_split_sizes(modules: dict[str, ModuleType]) -> None:
    """On the CPU the alltoall dispatcher hands tensors through as split sizes, which the collective refuses.

    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/transformer/moe/token_dispatcher.py
    """

    def to_cpu(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
        return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor

    vars(modules["transformer.moe.token_dispatcher"])["maybe_move_tensor_to_cpu"] = to_cpu


def _shared_storage(modules: dict[str, ModuleType]) -> None:
    """Since 0.17 recomputation without output compiles a C++ function when a rank first needs it, to save a copy.

    That needs a compiler and ninja, takes most of a minute, and waits without end for the lock of a process that was killed
    meanwhile. The copy is what releases until 0.16 make.
    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.19.0/megatron/core/tensor_parallel/random.py
    """
    names = vars(modules["tensor_parallel.random"])
    if "_get_share_storage" in names:
        names["_get_share_storage"] = lambda: _copy_storage


def _unread_tables() -> None:
    """Yarn makes the cosines and sines of all positions of the original context in every layer; only fused RoPE reads them.

    They are made when they are read, for as many positions. Of 4096 positions they took 4 to 6 ms a layer.
    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/models/common/embeddings/yarn_rotary_pos_embedding.py
    """
    yarn = importlib.import_module("megatron.core.models.common.embeddings.yarn_rotary_pos_embedding").YarnRotaryEmbedding
    make = getattr(yarn, "_set_cos_sin_cache", None)
    if make is None:  # 0.12
        return

    def when_read(self: Any, seq_len: int, *rest: Any, **keywords: Any) -> None:
        if hasattr(self, "max_seq_len_cached"):
            make(self, seq_len, *rest, **keywords)
        else:
            self.max_seq_len_cached = 0  # fewer than any reader asks for

    yarn._set_cos_sin_cache = when_read


def _copy_storage(to: torch.Tensor, of: torch.Tensor) -> None:
    """Below the tensors: whatever is a view of the first sees the data, and no version of it is counted."""
    kept, made = to.untyped_storage(), of.untyped_storage()
    kept.resize_(made.nbytes())
    kept.copy_(made)


def _kept_query_layer() -> None:
    """Since 0.19 a query without a latent gets a linear layer with a norm, whatever the spec says.

    Without Transformer Engine there is no such layer, and the model is refused. With it the model has a norm that DeepSeek's
    has not: docs/findings/norm-of-the-uncompressed-query.md. A spec that names megatron-core's own layer is given it.
    https://github.com/NVIDIA/Megatron-LM/pull/4452
    https://github.com/NVIDIA-NeMo/Megatron-Bridge/issues/5261
    """
    if importlib.util.find_spec("megatron.core.transformer.mla_qk_norm_config") is None:
        return
    resolver = importlib.import_module("megatron.core.transformer.mla_qk_norm_config").QKNormConfigResolver
    own = importlib.import_module("megatron.core.tensor_parallel.layers").ColumnParallelLinear
    chosen = resolver._mla_fused_linear_or_default

    def layer(self: Any, named: Any, place: str) -> Any:
        return named if place == "linear_q_proj" and named is own else chosen(self, named, place)

    resolver._mla_fused_linear_or_default = layer


def _kept_requests(modules: dict[str, ModuleType]) -> None:
    """Gloo sends a message when its receiver asks for it, and forgets it if the sender drops the request before.

    The interleaved schedule drops the last one of a forward pass alone with overlap_p2p_comm_warmup_flush; a receiver that is
    slower waits for ever (docs/findings/last-send-not-waited-for.md). Requests are kept until they have been waited for.
    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/pipeline_parallel/schedules.py
    """
    names = vars(modules["pipeline_parallel.p2p_communication"])
    start = names["_p2p_ops"]
    kept: list[Any] = []

    def started(**given: Any) -> Any:
        requests = start(**given)
        kept[:] = [request for request in kept if not request.is_completed()]
        kept.extend(requests.values() if isinstance(requests, dict) else requests)
        return requests

    names["_p2p_ops"] = started


def _padding_of_tokens(modules: dict[str, ModuleType]) -> None:
    """Up to 0.19 the loads for the expert bias are counted with a padding mask of the wrong shape, [tokens].

    That raises an exception unless there are as many tokens as experts. https://github.com/NVIDIA/Megatron-LM/issues/6111
    """
    router: Any = modules["transformer.moe.router"].TopKRouter
    counted = getattr(router, "_apply_expert_bias", None)
    if counted is None or _counts_padded_tokens(counted):
        return

    def with_mask_of_tokens(self: Any, routing_map: torch.Tensor, padding_mask: torch.Tensor | None = None) -> Any:
        return counted(self, routing_map, None if padding_mask is None else padding_mask.reshape(-1, 1))

    router._apply_expert_bias = with_mask_of_tokens


def _counts_padded_tokens(counted: Any) -> bool:
    """Whether a router's method takes the padding out of the loads, or takes no mask at all, as up to 0.15."""
    if "padding_mask" not in inspect.signature(counted).parameters:
        return True
    loads = torch.zeros(3)
    router = SimpleNamespace(enable_expert_bias=True, local_tokens_per_expert=loads)
    with torch.enable_grad(), contextlib.suppress(RuntimeError):
        counted(router, torch.ones(2, 3, dtype=torch.bool), padding_mask=torch.tensor([True, False]))
    return bool((loads == 1).all())


def stages_on_the_cpu() -> None:
    """Inference's pipeline communication asserts that its tensors are on a GPU, and sends and receives as well without.

    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/inference/communication_utils.py
    """
    names = vars(importlib.import_module("megatron.core.inference.communication_utils"))
    names["_is_cuda"] = names["_is_cuda_contiguous"] = lambda tensor: None


class _AtOnce:
    """An event of a device that has done everything when it is asked."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.record = self.wait = self.synchronize = lambda *_: None


def requests_on_the_cpu() -> None:
    """Since 0.18 dynamic inference keeps its books in host memory, and has events for their copies to a GPU.

    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.18.0/megatron/core/inference/contexts/dynamic_context.py
    """
    vars(torch.cuda)["Event"] = _AtOnce


@contextlib.contextmanager
def kernels_in_torch(context: Any, prefill: Any, decode: Any, split: Any) -> Iterator[None]:
    """Within it dynamic inference calls functions in torch for FlashAttention's and FlashMLA's kernels, which need a GPU.

    `split` stands for what only Transformer Engine's layers can do; None with these. Cached latents forget, up to 0.19, to
    pass on whether a step is one of decode alone, and lose the norm that stands outside of a layer that is split; `context`
    knows it.
    https://github.com/NVIDIA/Megatron-LM/issues/4901
    """
    attention = importlib.import_module("megatron.core.transformer.attention")
    latent = importlib.import_module("megatron.core.transformer.multi_latent_attention")
    module: Any = attention.Attention
    attend = module.flash_decode_and_prefill
    absorb = latent.MLASelfAttention.prepare_for_absorption

    def attending(self: Any, *given: Any) -> Any:
        return attend(self, *given[:9], context.is_decode_only())

    def absorbing(self: Any) -> None:
        norm = self.kv_layernorm
        absorb(self)
        self.kv_layernorm = norm

    put: dict[tuple[Any, str], Any] = {
        (attention, "flash_attn_varlen_func"): prefill,
        (attention, "flash_mla_with_kvcache"): decode,
        (attention, "get_mla_metadata"): lambda *given: (None, None),
        (attention, "HAVE_FA3"): False,
        (attention, "HAVE_FA4"): False,
        (latent, "rearrange"): lambda tensor, pattern: tensor.flatten(2),
        (module, "flash_decode_and_prefill"): attending,
    }
    if split is not None:
        put[latent, "split_te_layernorm_column_parallel_linear"] = split
        put[latent.MLASelfAttention, "prepare_for_absorption"] = absorbing
    before = {place: getattr(*place, None) for place in put}
    for (where, name), value in put.items():
        setattr(where, name, value)
    try:
        yield
    finally:
        for (where, name), value in before.items():
            setattr(where, name, value)


@contextlib.contextmanager
def steps_of_torchs(optimizers: Sequence[Any]) -> Iterator[None]:
    """Within it distributed optimizers over torch's AdamW load the number of steps with a parameter's other states.

    AdamW counts the steps of each parameter. A distributed optimizer asks for that number before it loads any, and loads a
    parameter's states by the names of those that are there, the number not among them. Behind it each state has a number of
    its own: all are loaded as one tensor, which each parameter would count up.
    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/optimizer/distrib_optimizer.py
    """
    distributed = importlib.import_module("megatron.core.optimizer.distrib_optimizer").DistributedOptimizer
    counted = [one for one in optimizers if isinstance(one, distributed) and isinstance(one.optimizer, torch.optim.AdamW)]
    for one in counted:
        one.init_state_fn(one.optimizer, one.config)
        for state in one.optimizer.state.values():
            state.setdefault("step", torch.tensor(0.0))
        _load_with_steps(one)
    yield
    for one in counted:
        for state in one.optimizer.state.values():
            state["step"] = state["step"].clone()


def _load_with_steps(optimizer: Any) -> None:
    sound = optimizer._set_main_param_and_optimizer_states

    def with_steps(parameter: torch.Tensor, tensors: dict[str, torch.Tensor]) -> None:
        group, at = optimizer.model_param_group_index_map[parameter]
        step = optimizer.optimizer.state[optimizer.optimizer.param_groups[group]["params"][at]]["step"]
        sound(parameter, {"step": step, **tensors})

    optimizer._set_main_param_and_optimizer_states = with_steps


def same_steps_in_a_chain(state: dict[Any, Any]) -> None:
    """Write the number of steps for an optimizer of a chain that has no parameter on this rank, too.

    Rank 0 writes the number for all ranks. If its pipeline stage has no experts, it has none for their optimizer, and ranks
    with experts cannot load it: KeyError. ChainedOptimizer._synchronize_steps sees the steps of Transformer Engine's Adam
    alone, which stand in its groups. `state` is what a chain saves, by the number of each optimizer; that of a single
    optimizer has no numbers.
    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/optimizer/optimizer.py
    """
    parts = [part.get("optimizer", part).get("state") for number, part in state.items() if isinstance(number, int)]
    of_torchs = [part for part in parts if isinstance(part, dict)]
    step = next((part["common_step"] for part in of_torchs if "common_step" in part), None)
    for part in of_torchs:
        if step is not None and not part:
            part["common_step"] = step


def end_writers() -> None:
    """End the process that saving a checkpoint starts and keeps: it outlives a rank that is killed, and holds its pipes open.

    https://github.com/NVIDIA/Megatron-LM/blob/core_v0.16.1/megatron/core/dist_checkpointing/strategies/filesystem_async.py
    """
    module = sys.modules.get("megatron.core.dist_checkpointing.strategies.filesystem_async")
    if module is not None:
        vars(module)["_results_queue"] = None  # the manager behind it ends with it


_WITHOUT_TRANSFORMER_ENGINE = (_undetected_absence, _mocked_inference_layers, _undefined_gemm, _undefined_fp8, _nothing_in_fp8)


def mend(on_cpu: bool) -> None:
    """Mend the names that megatron-core leaves wrong. After its import, in every process that uses it."""
    names = (
        "fp8_utils",
        "transformer.multi_latent_attention",
        "transformer.multi_token_prediction",
        "transformer.moe.moe_utils",
        "transformer.moe.router",
        "transformer.moe.token_dispatcher",
        "tensor_parallel.random",
        "pipeline_parallel.p2p_communication",
    )
    modules = {name: importlib.import_module(f"megatron.core.{name}") for name in names}
    _kept_query_layer()
    if importlib.util.find_spec("transformer_engine") is None:
        for entry in _WITHOUT_TRANSFORMER_ENGINE:
            entry(modules)
    _padding_of_tokens(modules)
    if on_cpu:
        _cpu_split_sizes(modules)
        _shared_storage(modules)
        _kept_requests(modules)
        _unread_tables()
