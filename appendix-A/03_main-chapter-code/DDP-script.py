"""Distributed data parallel training, from nothing: the training loop of code-part1.ipynb on several processes at once.

    python DDP-script.py                                              one process
    torchrun --standalone --nproc-per-node 2 DDP-script.py            two, on this machine
    torchrun --standalone --nproc-per-node 2 DDP-script.py --average by-hand

Every process holds a copy of the model and computes the gradients of its own share of each batch. Then all gradients are averaged,
so that every copy takes the same step and the copies stay equal. The losses are those of one process with the whole batch, up to
rounding: run it both ways and compare. Processes talk through gloo on CPUs (Linux, macOS, Windows) and through NCCL on NVIDIA GPUs
(Linux). On Windows set USE_LIBUV=0 if torchrun can't open its store. Several machines: from-two-processes-to-many-machines.md.
"""

import argparse
import datetime
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # now: imported after the group is made (as optimizers do), it would keep the group alive
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def start_group() -> tuple[int, int, torch.device]:
    """Join the other processes; returns this process's rank, how many there are, and its device.

    torchrun tells each process who it is through the environment. Without torchrun there is one process and no group.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    on_gpu = torch.cuda.is_available() and torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if on_gpu else torch.device("cpu")
    if world > 1:
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=datetime.timedelta(seconds=60))
    return rank, world, device


def spirals(n: int) -> TensorDataset:
    """`n` points (n, 2) on three spiral arms, and their arms (n,): the same on every process."""
    g = torch.Generator().manual_seed(1)
    arm, radius = torch.randint(3, (n,), generator=g), torch.rand(n, generator=g)
    angle = 4 * radius + 2 * torch.pi / 3 * arm + 0.2 * torch.randn(n, generator=g)
    return TensorDataset(torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1), arm)


def make_model(dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A small network, with the same weights on every process because the seed is the same."""
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 3)).to(device, dtype)


def average_by_hand(model: nn.Module, world: int) -> None:
    """What DistributedDataParallel does, in its plainest form: sum each gradient over all processes, divide by their number."""
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad, op=dist.ReduceOp.SUM)
        parameter.grad /= world


def train(options: argparse.Namespace, rank: int, world: int, device: torch.device) -> tuple[nn.Module, list[float]]:
    """The training loop; returns the model and the loss of every step, averaged over the processes."""
    data, dtype = spirals(options.examples), getattr(torch, options.dtype)
    model = make_model(dtype, device)
    wrapped = DistributedDataParallel(model) if world > 1 and options.average == "ddp" else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    # The sampler deals one shuffled deck out to the processes, a card each in turn: together they see every example once.
    sampler = DistributedSampler(data, num_replicas=world, rank=rank, shuffle=True, seed=3, drop_last=True)
    loader = DataLoader(data, batch_size=options.batch // world, sampler=sampler, drop_last=True)
    losses = []
    for epoch in range(options.epochs):
        sampler.set_epoch(epoch)                                     # another shuffle, the same one on every process
        for points, arms in loader:
            loss = F.cross_entropy(wrapped(points.to(device, dtype)), arms.to(device))  # the mean over this process's share
            optimizer.zero_grad()
            loss.backward()                                          # DistributedDataParallel averages in here
            if world > 1 and options.average == "by-hand":
                average_by_hand(model, world)
            optimizer.step()
            shown = loss.detach().clone()
            if world > 1:
                dist.all_reduce(shown)
            losses.append(shown.item() / world)
        if rank == 0 and (epoch + 1) % max(1, options.epochs // 5) == 0:
            print(f"epoch {epoch + 1:4d}   loss {losses[-1]:.4f}", flush=True)
    return model, losses


def save(folder: Path, model: nn.Module, losses: list[float]) -> None:
    """Write checkpoint and losses, each whole or not at all. Only rank 0 calls this: all copies are equal."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous().cpu() for name, value in model.state_dict().items()}, folder / "model.tmp")
    os.replace(folder / "model.tmp", folder / "model.safetensors")
    (folder / "losses.tmp").write_text(json.dumps(losses), encoding="utf-8")
    os.replace(folder / "losses.tmp", folder / "losses.json")


def main() -> int:
    """Train, and save on rank 0; returns an exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--examples", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=64, help="examples a step, over all processes together")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--average", choices=["ddp", "by-hand"], default="ddp", help="who averages the gradients")
    parser.add_argument("--out", type=Path, help="folder for model.safetensors and losses.json")
    options = parser.parse_args()
    rank, world, device = start_group()
    try:
        if options.batch % world:
            raise ValueError(f"a batch of {options.batch} can't be dealt out evenly to {world} processes; "
                             f"choose a multiple of {world}")
        if options.examples < options.batch:
            raise ValueError(f"{options.examples} examples don't fill one batch of {options.batch}; choose a smaller --batch")
        model, losses = train(options, rank, world, device)
        if rank == 0:
            print(f"{world} process{'es' if world > 1 else ''} on {device.type}: loss {losses[0]:.4f} -> {losses[-1]:.4f}")
            if options.out:
                save(options.out, model, losses)
        return 0
    except ValueError as error:
        if rank == 0:
            print(f"DDP-script.py: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:                                    # what a lost connection raises
        if world == 1:
            raise
        cause = str(error).splitlines()[0]
        print(f"process {rank} of {world} lost the others, so the job ends here: {cause}", file=sys.stderr, flush=True)
        return 1
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
