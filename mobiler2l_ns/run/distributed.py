"""Several processes, one a device, as nerfstudio's launcher starts them; a single one is left as it is.

Every rank trains the same weights on data of its own. Gradients are averaged by torch, what is measured on the data is
rank 0's on all ranks, and what batch norms measure is that of all ranks together.
"""

from __future__ import annotations

from typing import TypeVar, cast

import rich
import torch
import torch.distributed as dist
from nerfstudio.models.base_model import Model
from nerfstudio.utils import comms
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


def set_up_rank(device_type: str, local_rank: int) -> None:
    """Begin as one of several ranks: with a GPU of its own, and silent unless it is rank 0."""
    if comms.get_world_size() == 1:
        return
    if device_type == "cuda":
        # NCCL sends Python objects by way of the current GPU, which must not be the same one for two ranks.
        torch.cuda.set_device(local_rank)
    # nerfstudio's progress bars use one or the other.
    for console in (CONSOLE, rich.get_console()):
        console.quiet = not comms.is_main_process()


def wrap(model: Model, trained: nn.Module) -> Model:
    """Give every rank rank 0's weights and buffers, and let backward passes average gradients over the ranks.

    Buffers are sent this once. What changes them later is the same on all ranks: ``from_rank_0``, batch norms that see
    all ranks' batches (on GPUs), or ``average_batch_norms`` (elsewhere).

    Args:
        model: the model, not wrapped.
        trained: the part of it that is trained from now on; no gradients of the rest are exchanged.
    """
    model.requires_grad_(False)
    if model.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    # What pruning has emptied takes no part in a forward pass.
    for parameter in trained.parameters():
        parameter.requires_grad_(parameter.numel() > 0)
    for buffer in model.buffers():
        if buffer.numel() > 0:
            dist.broadcast(buffer, src=0)
    # The teacher's proposal networks rest in some steps, the student's last blocks until the backbone has grown.
    parallel = DistributedDataParallel(model, find_unused_parameters=True, broadcast_buffers=False)
    return cast(Model, parallel)


def from_rank_0(value: T) -> T:
    """Rank 0's value, on every rank; tensors in it must live on the CPU."""
    if comms.get_world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def mean_of_ranks(tensors: list[Tensor]) -> list[Tensor]:
    """The mean over the ranks of each tensor, the same to the bit on every rank."""
    ranks = comms.get_world_size()
    if ranks == 1:
        return tensors
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    dist.broadcast(flat, src=0)
    parts = (flat / ranks).split([tensor.numel() for tensor in tensors])
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


@torch.no_grad()
def average_batch_norms(network: nn.Module) -> None:
    """Average the running statistics of batch norms that each saw their own rank's batch only.

    SyncBatchNorm, which needs none of this, exists for GPUs only. The mean over the ranks counts every batch once,
    where one rank's statistics would count none of the others'.
    """
    ranks = comms.get_world_size()
    if ranks == 1:
        return
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.num_features > 0:
            for statistic in (module.running_mean, module.running_var):
                assert statistic is not None
                dist.all_reduce(statistic)
                statistic.div_(ranks)
