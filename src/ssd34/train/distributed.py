"""Several processes that train one network together, started by torchrun.

Every process works on its share of each batch. Gradients are added up, each weighted by its
pictures, and batch norm takes its statistics over all processes: the steps are those that one
process would make with the whole batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

# Its functions take the group that there is at its import as a default argument. Imported later, as
# an optimizer does, they would keep the group and its threads alive after its destruction; a thread
# that then gives a tensor back while Python ends aborts the process.
import torch.distributed.nn.functional
from torch import Tensor, nn

from ssd34.errors import OptionError, TrainingError

CPU = torch.device("cpu")

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """The processes of a run; alone it does nothing.

    Attributes:
        rank: this process, 0..count - 1. Process 0 writes and reports.
        count, here: how many there are, and how many of them on this machine.
        device: where the exchanged values are.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = CPU
    here: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def add(self, values: Tensor) -> None:
        """Replace a tensor by its sum over all processes."""
        if self.count > 1:
            dist.all_reduce(values)

    def total(self, values: Sequence[int]) -> list[int]:
        """The sums of some whole numbers over all processes."""
        if self.count == 1:
            return list(values)
        summed = torch.tensor(values, device=self.device, dtype=torch.int64)
        self.add(summed)
        return [int(value) for value in summed.tolist()]

    def any(self, value: bool) -> bool:
        """Whether it is true in any process."""
        return self.total([int(value)])[0] > 0

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over all processes, which have the same of them."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        parts = flat.split_with_sizes([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))

    def share_weights(self, network: nn.Module) -> None:
        """Give every process the weights of the first."""
        if self.count > 1:
            for value in network.state_dict().values():
                whole = value.contiguous()
                dist.broadcast(whole, src=0)
                value.copy_(whole)

    def gather(self, value: Value) -> list[Value]:
        """The value of every process, in their order."""
        if self.count == 1:
            return [value]
        everyone: list[Any] = [None] * self.count
        dist.all_gather_object(everyone, value)
        return everyone


ALONE = Ranks()


@contextmanager
def join_processes(
    device: torch.device, environment: Mapping[str, str] = os.environ
) -> Iterator[Ranks]:
    """The processes that torchrun has started, as its variables ``RANK``, ``WORLD_SIZE`` and those
    of the meeting point say; alone where it has not. TrainingError where another process died, or
    did not answer for torch's time (half an hour)."""
    count = int(environment.get("WORLD_SIZE", "1"))
    if count == 1 or "RANK" not in environment:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend)
        here = int(environment.get("LOCAL_WORLD_SIZE", "1"))
        yield Ranks(int(environment["RANK"]), count, device, here)
        # Nobody takes the group down while another process still talks to it.
        dist.barrier()
    except RuntimeError as error:
        # Gloo has no class of its own for a peer that is gone.
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise TrainingError(
            f"another of the {count} processes that train together died or does not answer, as "
            "its own messages may tell; start them all again, with --resume if the run had begun"
        ) from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def choose_local_device(
    device: torch.device, environment: Mapping[str, str] = os.environ
) -> torch.device:
    """This process's own device; OptionError where there are more processes than CUDA devices."""
    if device.type != "cuda" or "LOCAL_RANK" not in environment:
        return device
    index, there = int(environment["LOCAL_RANK"]), torch.cuda.device_count()
    if index >= there:
        raise OptionError(
            f"expected at most one process per CUDA device, of which there are {there}; use "
            f"--nproc-per-node {there}"
        )
    return torch.device("cuda", index)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes, for which every process's loss counts."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        """Add up."""
        summed = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        """Every process's loss depends on the sum."""
        return _Sum.forward(None, gradients[0])


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm whose statistics are over the pictures of all processes, on CPUs too."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W); N may be 0 where another process has pictures."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None
        assert self.momentum is not None
        values = x.float()
        here = values.new_tensor([values.numel() / values.shape[1]])
        sums = _Sum.apply(torch.cat([values.sum(dim=(0, 2, 3)), here]))  # type: ignore[no-untyped-call]
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = values - mean[:, None, None]
        squares = _Sum.apply(centred.square().sum(dim=(0, 2, 3)))  # type: ignore[no-untyped-call]
        variance = squares / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(squares / (count - 1), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(variance + self.eps)
        result = centred * scale[:, None, None] + self.bias[:, None, None]
        normalised: Tensor = result.to(x.dtype)
        return normalised


def share_batch_norm(network: nn.Module) -> None:
    """Put `SharedBatchNorm` in the place of every batch norm, with the same parameters."""
    for name, child in network.named_children():
        if type(child) is not nn.BatchNorm2d:
            share_batch_norm(child)
            continue
        shared = SharedBatchNorm(child.num_features, eps=child.eps, momentum=child.momentum)
        shared.weight, shared.bias = child.weight, child.bias
        shared.running_mean, shared.running_var = child.running_mean, child.running_var
        shared.num_batches_tracked = child.num_batches_tracked
        network.add_module(name, shared)
