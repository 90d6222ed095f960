"""Every collective that megatron-core uses, in a few ranks: `python -m tests.candidate.collectives SIZE FOLDER DEVICE`.

Each is run over gloo, on the CPU, and over staged, on DEVICE, which is cpu or cuda (one GPU for all ranks). Each rank leaves
what it got in FOLDER. `test_staged.py` looks at that.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import FileStore, ReduceOp  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import _coalescing_manager as coalescing

from validation.candidate import host_memory, staged

Collective = Callable[[Any, int, int], list[Tensor]]
LIKE_GLOO: dict[str, Collective] = {}
"""What gloo has, too: the same must come of it."""
OWN: dict[str, Collective] = {}
"""What gloo has not, or less exactly."""
TAKES_TWO = (
    "send_and_receive",
    "batched_sends_and_receives",
    "waited_for_again",
    "several_groups",
    "a_rank_that_does_not_come",
)
"""What a rank alone cannot do."""


def _like_gloo(function: Collective) -> Collective:
    LIKE_GLOO[function.__name__] = function
    return function


def _own(function: Collective) -> Collective:
    OWN[function.__name__] = function
    return function


def made(rank: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """A rank's tensor, which every rank can make."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(100 + rank), dtype=torch.float64, device="cpu")
    return (values * 8).to(dtype).to(torch.get_default_device())


@_like_gloo
def all_reduce(group: Any, rank: int, size: int) -> list[Tensor]:
    found = []
    for op in (ReduceOp.SUM, ReduceOp.MAX, ReduceOp.MIN, ReduceOp.PRODUCT):
        tensor = made(rank, 3, 5)
        dist.all_reduce(tensor, op, group=group)
        found.append(tensor)
    return found


@_like_gloo
def all_reduce_of_other_dtypes(group: Any, rank: int, size: int) -> list[Tensor]:
    found = [made(rank, 7, dtype=dtype) for dtype in (torch.float32, torch.int64, torch.int32, torch.uint8)]
    found.append(torch.tensor(float(rank), dtype=torch.float64))
    for tensor in found:
        dist.all_reduce(tensor, group=group)
    return found


@_like_gloo
def all_reduce_that_is_waited_for(group: Any, rank: int, size: int) -> list[Tensor]:
    first, second = made(rank, 4), made(rank, 6)
    works = [dist.all_reduce(tensor, group=group, async_op=True) for tensor in (first, second)]
    for work in reversed(works):
        assert work.wait()
    assert all(work.is_completed() for work in works)
    return [first, second]


@_like_gloo
def all_reduce_by_its_future(group: Any, rank: int, size: int) -> list[Tensor]:
    tensor = made(rank, 4)
    future = dist.all_reduce(tensor, group=group, async_op=True).get_future()
    (held,) = future.wait()
    (twice,) = future.then(lambda done: [2 * done.value()[0]]).wait()
    return [tensor, held, twice]


@_like_gloo
def all_reduce_of_a_part(group: Any, rank: int, size: int) -> list[Tensor]:
    """Columns of a larger tensor, which lie apart in memory; gloo wants them together."""
    whole = made(rank, 4, 6)
    part = whole[:, 1:3]
    given = part.contiguous() if dist.get_backend(group) == "gloo" else part
    dist.all_reduce(given, group=group)
    part.copy_(given)
    return [whole]


@_like_gloo
def all_reduce_of_a_large_tensor(group: Any, rank: int, size: int) -> list[Tensor]:
    """In parts, the last of them shorter, of a tensor that lies together and of one that does not."""
    together, apart = made(rank, 5, 5), made(rank, 5, 6)
    given = [together, apart.t().contiguous() if dist.get_backend(group) == "gloo" else apart.t()]
    with mock.patch.object(host_memory, "PART", 64):
        works = [dist.all_reduce(tensor, group=group, async_op=True) for tensor in given]
    assert all(work.wait() for work in works)
    return given


@_like_gloo
def coalesced_all_reduces(group: Any, rank: int, size: int) -> list[Tensor]:
    tensors = [made(rank, 3), made(rank, 2, 2)]
    with coalescing(group, async_ops=True) as works:
        for tensor in tensors:
            dist.all_reduce(tensor, group=group)
    works.wait()
    return tensors


@_like_gloo
def reduce_to_one(group: Any, rank: int, size: int) -> list[Tensor]:
    tensor = made(rank, 5)
    dist.reduce(tensor, size - 1, group=group)
    return [tensor if rank == size - 1 else made(rank, 5)]


@_like_gloo
def broadcast(group: Any, rank: int, size: int) -> list[Tensor]:
    tensors = [made(rank, 4), made(rank, 4, dtype=torch.bfloat16), made(rank, 2) > 0, torch.empty(0)]
    for tensor in tensors:
        dist.broadcast(tensor, size - 1, group=group)
    return tensors


@_like_gloo
def all_gather(group: Any, rank: int, size: int) -> list[Tensor]:
    received = [torch.zeros(2, 3, dtype=torch.float64) for _ in range(size)]
    dist.all_gather(received, made(rank, 2, 3), group=group)
    halves = [torch.zeros(3, dtype=torch.bfloat16) for _ in range(size)]
    dist.all_gather(halves, made(rank, 3, dtype=torch.bfloat16), group=group, async_op=True).wait()
    return received + halves


@_like_gloo
def all_gather_into_one(group: Any, rank: int, size: int) -> list[Tensor]:
    received = torch.zeros(2 * size, 3, dtype=torch.float64)
    dist.all_gather_into_tensor(received, made(rank, 2, 3), group=group)
    return [received]


@_like_gloo
def reduce_scatter_of_one(group: Any, rank: int, size: int) -> list[Tensor]:
    output = torch.zeros(2, 3, dtype=torch.float64)
    dist.reduce_scatter_tensor(output, made(rank, 2 * size, 3), group=group)
    return [output]


@_like_gloo
def reduce_scatter(group: Any, rank: int, size: int) -> list[Tensor]:
    output = torch.zeros(3, dtype=torch.float64)
    dist.reduce_scatter(output, list(made(rank, size, 3)), group=group, async_op=True).wait()
    return [output]


@_like_gloo
def coalesced_gathers_and_scatters(group: Any, rank: int, size: int) -> list[Tensor]:
    gathered = [torch.zeros(size * width, dtype=torch.float64) for width in (2, 3)]
    with coalescing(group):
        for output in gathered:
            dist.all_gather_into_tensor(output, made(rank, len(output) // size), group=group)
    scattered = [torch.zeros(width, dtype=torch.float64) for width in (2, 3)]
    with coalescing(group):
        for output in scattered:
            dist.reduce_scatter_tensor(output, made(rank, len(output) * size), group=group)
    return gathered + scattered


@_like_gloo
def gather_and_scatter(group: Any, rank: int, size: int) -> list[Tensor]:
    gathered = [torch.zeros(2, dtype=torch.float64) for _ in range(size)]
    dist.gather(made(rank, 2), gathered if rank == 0 else None, 0, group=group)
    output = torch.zeros(3, dtype=torch.float64)
    dist.scatter(output, list(made(rank, size, 3)) if rank == 0 else None, 0, group=group)
    return [*gathered, output]


@_like_gloo
def all_to_all_in_equal_parts(group: Any, rank: int, size: int) -> list[Tensor]:
    received = torch.zeros(2 * size, 3, dtype=torch.float64)
    dist.all_to_all_single(received, made(rank, 2 * size, 3), group=group)
    return [received]


@_like_gloo
def all_to_all_with_split_sizes(group: Any, rank: int, size: int) -> list[Tensor]:
    """Rank r sends r + to rows to rank `to`, so that rank 0 has none for itself."""
    sent, received = [rank + to for to in range(size)], [by + rank for by in range(size)]
    output = torch.zeros(sum(received), 3, dtype=torch.float64)
    work = dist.all_to_all_single(output, made(rank, sum(sent), 3), received, sent, group=group, async_op=True)
    work.wait()
    return [output]


@_like_gloo
def send_and_receive(group: Any, rank: int, size: int) -> list[Tensor]:
    """Along the ring, one after the other; the last rank's is received from whoever sends."""
    tensor = torch.zeros(3, dtype=torch.float64)
    if rank == 0:
        dist.send(made(rank, 3), 1, group=group)
        source = dist.recv(tensor, None, group=group)
        return [tensor, torch.tensor(source)]
    dist.recv(tensor, rank - 1, group=group)
    dist.send(tensor + 1, (rank + 1) % size, group=group)
    return [tensor]


@_like_gloo
def batched_sends_and_receives(group: Any, rank: int, size: int) -> list[Tensor]:
    """Both ways along the ring at once, two tensors each way, into leaves that require a gradient."""
    right, left = (rank + 1) % size, (rank - 1) % size
    places = [torch.zeros(2, 2, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    senders, receivers = (left, left, right, right), (right, right, left, left)
    tensors = [made(rank, 2, 2) + number for number in range(4)]
    receiving = [dist.P2POp(dist.irecv, place, peer, group) for place, peer in zip(places, senders, strict=True)]
    sending = [dist.P2POp(dist.isend, tensor, peer, group) for tensor, peer in zip(tensors, receivers, strict=True)]
    for work in dist.batch_isend_irecv([*sending, *receiving]):
        work.wait()
    return [place.detach() for place in places]


@_like_gloo
def objects(group: Any, rank: int, size: int) -> list[Tensor]:
    everyone: list[Any] = [None] * size
    dist.all_gather_object(everyone, {"rank": rank, "name": "x" * rank}, group=group)
    one = [{"from": rank}]
    dist.broadcast_object_list(one, size - 1, group=group)
    return [torch.tensor([found["rank"] + len(found["name"]) for found in everyone]), torch.tensor(one[0]["from"])]


@_like_gloo
def barrier(group: Any, rank: int, size: int) -> list[Tensor]:
    dist.barrier(group=group)
    dist.barrier(group=group, device_ids=[0])
    dist.barrier(group=group, async_op=True).wait()
    return []


@_like_gloo
def backward_of_a_gather(group: Any, rank: int, size: int) -> list[Tensor]:
    """An autograd function as megatron-core's are: gather forward, reduce-scatter backward."""
    leaf = made(rank, 2, 3).requires_grad_()
    whole = _Gathered.apply(leaf, group, size)
    (whole * made(rank, 2 * size, 3)).sum().backward()
    assert leaf.grad is not None
    return [whole.detach(), leaf.grad]


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any, size: int) -> Tensor:
        ctx.group, ctx.shape = group, tensor.shape
        whole = tensor.new_empty((size * len(tensor), *tensor.shape[1:]))
        dist.all_gather_into_tensor(whole, tensor, group=group)
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        part = gradient.new_empty(ctx.shape)
        dist.reduce_scatter_tensor(part, gradient, group=ctx.group)
        return part, None, None


@_own
def averages(group: Any, rank: int, size: int) -> list[Tensor]:
    tensor, part, whole = made(rank, 4), torch.zeros(2, dtype=torch.float64), made(rank, 4, dtype=torch.int64)
    dist.all_reduce(tensor, ReduceOp.AVG, group=group)
    dist.reduce_scatter_tensor(part, made(rank, 2 * size), ReduceOp.AVG, group=group)
    dist.all_reduce(whole, ReduceOp.AVG, group=group)
    return [tensor, part, whole]


@_own
def sums_in_16_bits(group: Any, rank: int, size: int) -> list[Tensor]:
    found = []
    for dtype in (torch.bfloat16, torch.float16):
        tensor, part = made(rank, 256, dtype=dtype), torch.zeros(64, dtype=dtype)
        dist.all_reduce(tensor, group=group)
        dist.reduce_scatter_tensor(part, made(rank, 64 * size, dtype=dtype), group=group)
        found += [tensor, part]
    return found


@_own
def uneven_gather_and_scatter(group: Any, rank: int, size: int) -> list[Tensor]:
    """As experts that are both spread and cut exchange them: rank r has r + 1 rows."""
    received = [torch.zeros(by + 1, 2, dtype=torch.float64) for by in range(size)]
    dist.all_gather(received, made(rank, rank + 1, 2), group=group)
    output = torch.zeros(rank + 1, 2, dtype=torch.float64)
    dist.reduce_scatter(output, [made(rank, to + 1, 2) for to in range(size)], group=group)
    return [*received, output]


@_own
def all_to_all_of_a_list(group: Any, rank: int, size: int) -> list[Tensor]:
    received = [torch.zeros(by + rank, dtype=torch.bfloat16) for by in range(size)]
    dist.all_to_all(received, [made(rank, rank + to, dtype=torch.bfloat16) for to in range(size)], group=group)
    return received


@_own
def coalesced_on_a_device(group: Any, rank: int, size: int) -> list[Tensor]:
    """As Transformer Engine does it, which names the device: one handle for all that was started."""
    first, second = torch.zeros(2 * size, dtype=torch.float64), torch.zeros(size, dtype=torch.uint8)
    with coalescing(group, device=first.device, async_ops=True) as works:
        dist.all_gather_into_tensor(first, made(rank, 2), group=group)
        dist.all_gather_into_tensor(second, torch.full((1,), rank, dtype=torch.uint8), group=group)
    works.wait()
    return [first, second]


@_own
def nothing_arrives_before_it_is_waited_for(group: Any, rank: int, size: int) -> list[Tensor]:
    """The tensor is not gloo's to write into: on a GPU it could not be."""
    tensor = made(rank, 4)
    work = dist.all_reduce(tensor, group=group, async_op=True)
    dist.barrier(group=group)
    before = tensor.clone()
    work.wait()
    return [before, tensor]


@_own
def waited_for_again(group: Any, rank: int, size: int) -> list[Tensor]:
    """Every handle twice, as Transformer Engine's ring attention does; over nccl the second time is nothing."""
    ring, place, mean = dist.new_group(timeout=timedelta(seconds=60)), made(rank, 4), made(rank, 4)
    exchange = [
        dist.P2POp(dist.isend, made(rank, 4), (rank + 1) % size, ring),
        dist.P2POp(dist.irecv, place, (rank - 1) % size, ring),
    ]
    works = [*dist.batch_isend_irecv(exchange), dist.all_reduce(mean, ReduceOp.AVG, group=ring, async_op=True)]
    for work in (*works, *works):
        work.wait()
    return [place, mean]


@_own
def a_saved_tensor_may_be_reduced(group: Any, rank: int, size: int) -> list[Tensor]:
    """Autograd does not count a collective as a change of the tensor, over no transport; a leaf may be received into."""
    leaf = made(rank, 4).requires_grad_()
    factor, other = made(rank, 4), made(rank, 4)
    product = (leaf * factor).sum() + (leaf * other).sum()
    dist.all_reduce(factor, group=group)
    dist.broadcast(other, min(1, size - 1), group=group)
    product.backward()
    dist.broadcast(leaf, 0, group=group)
    assert leaf.grad is not None
    return [leaf.grad, leaf.detach()]


@_own
def several_groups(group: Any, rank: int, size: int) -> list[Tensor]:
    """Groups of the same transport, of gloo and of halves of the ranks, and one that is ended while others go on."""
    halves = [dist.new_group(list(range(first, first + size // 2))) for first in (0, size // 2)]
    other, brief = dist.new_group(backend="gloo"), dist.new_group(timeout=timedelta(seconds=60))
    names = [dist.get_backend(one) for one in (other, brief)]
    assert names == ["gloo", dist.get_backend()], names
    tensors = [made(rank, 3) for _ in range(3)]
    tensors[1] = tensors[1].cpu()
    for tensor, one in zip(tensors, (halves[rank * 2 // size], other, brief), strict=True):
        dist.all_reduce(tensor, group=one)
    dist.destroy_process_group(brief)
    dist.all_reduce(tensors[2], group=group)
    return tensors


@_own
def a_rank_that_does_not_come(group: Any, rank: int, size: int) -> list[Tensor]:
    """A time-out is raised where it is waited for, in the seconds that the group was given."""
    dist.barrier(group=group)  # no rank is late for the group itself
    impatient = dist.new_group(timeout=timedelta(seconds=2))
    dist.barrier(group=impatient)
    raised = 0
    if rank == 0:
        try:
            dist.all_reduce(torch.ones(1), group=impatient)
        except RuntimeError:
            raised = 1
    return [torch.tensor(raised)]


def _on(device: str, collective: Collective, group: Any, rank: int, size: int) -> list[Tensor]:
    """What comes of it where tensors are made on a device."""
    with torch.device(device):
        return [tensor.cpu() for tensor in collective(group, rank, size)]


def _rank(rank: int, size: int, folder: Path, device: str) -> None:
    with mock.patch.dict(staged.LANES, {"staged-cpu": size}):
        staged.register()
    store = FileStore(str(folder / "store"), size)
    transport = "staged-cpu" if device == "cpu" else "staged"
    dist.init_process_group(transport, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=240))
    gloo = dist.new_group(backend="gloo")
    found = {}
    like_gloo, own = (
        {name: collective for name, collective in every.items() if size > 1 or name not in TAKES_TWO}
        for every in (LIKE_GLOO, OWN)
    )
    for name, collective in like_gloo.items():
        found[name] = (_on(device, collective, dist.group.WORLD, rank, size), _on("cpu", collective, gloo, rank, size))
    for name, collective in own.items():
        found[name] = (_on(device, collective, dist.group.WORLD, rank, size), [])
    torch.save(found, folder / f"rank-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def main(size: int, folder: Path, device: str) -> int:
    """Fork the ranks; returns 0 where all of them ended well."""
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            try:
                _rank(rank, size, folder, device)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
