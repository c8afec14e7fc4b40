"""Synchronised batch norm: several processes normalise as one process with all their samples does."""

import copy
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from core_tools import NAMES, assert_equal, images, randomize_norms
from polymodal import Exchange, Multimodal, fuse
from reference.plain import plain_segmenter

SHARES = (slice(0, 3), slice(3, 5))  # unequal on purpose: processes' last batches often are


def synchronised() -> Multimodal:
    plain = nn.SyncBatchNorm.convert_sync_batchnorm(plain_segmenter(0))
    return randomize_norms(fuse(plain, NAMES[:3], Exchange(0.6))).train()


def step(net: Multimodal, samples: slice) -> dict[str, list[Tensor]]:
    """Forward and backward on a part of the batch, then a forward on a subset of the modalities."""
    torch.manual_seed(1)
    inputs = {name: image[samples] for name, image in images(net.modalities, 5, 3, 12, 14).items()}
    target = torch.randn(5, 4, 12, 14).double()[samples]
    predictions = list(net(inputs).per_modality.values())
    sum((p * target).sum() + p.square().sum() for p in predictions).backward()
    gradients = [p.grad for p in net.network.parameters()]
    with torch.no_grad():
        subset = net({"depth": inputs["depth"]}, subset=True).per_modality["depth"]
    statistics = [b for name, b in net.named_buffers() if "running" in name]
    return {"outputs": [*(p.detach() for p in predictions), subset], "gradients": gradients, "statistics": statistics}


def half(shares: int, rank: int) -> list[Tensor]:
    """A norm with scales and no shifts, in float16, on one process's share of more pixels than float16 can count."""
    torch.manual_seed(2)
    norm = nn.SyncBatchNorm(2)
    norm.register_parameter("bias", None)
    net = fuse(nn.Sequential(nn.Conv2d(3, 2, 1), norm), NAMES[:2], None).train()
    with torch.no_grad():
        net.network[1].weight.uniform_(0.5, 2)
    inputs = {
        name: image.chunk(shares)[rank]
        for name, image in images(NAMES[:2], 2, 3, 200, 200, dtype=torch.float32).items()
    }
    with torch.autocast("cpu", torch.float16):
        return [prediction.detach().float() for prediction in net(inputs).per_modality.values()]


def one_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", len(SHARES))
    settings = {"rank": rank, "world_size": len(SHARES), "timeout": timedelta(seconds=60)}
    torch.distributed.init_process_group("gloo", store=store, **settings)
    try:
        torch.manual_seed(0)
        result = step(synchronised(), SHARES[rank])
        torch.save({**result, "half": half(len(SHARES), rank)}, f"{folder}/{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_together_are_one_process_with_the_joined_batch(tmp_path: Path):
    """If this breaks, training on several GPUs gives other statistics and gradients than on one."""
    other = torch.multiprocessing.spawn(one_process, (str(tmp_path),), nprocs=1, join=False)
    one_process(len(SHARES) - 1, str(tmp_path))  # this process is the other one: it need not import torch again
    other.join()
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(len(SHARES))]
    torch.manual_seed(0)
    net = synchronised()
    before = copy.deepcopy(dict(net.named_buffers()))
    joined = step(net, slice(0, 5))
    assert_equal([torch.cat(x) for x in zip(*(p["outputs"] for p in parts), strict=True)], joined["outputs"], 1e-10)
    for theirs, *ours in zip(joined["gradients"], *(part["gradients"] for part in parts), strict=True):
        error = (sum(ours) - theirs).abs().max()
        assert error <= 1e-10 * max(float(theirs.abs().max()), 1e-3)
    for part in parts:
        assert_equal(part["statistics"], joined["statistics"], 1e-12)
    assert_equal([torch.cat(x) for x in zip(*(p["half"] for p in parts), strict=True)], half(1, 0), 5e-3, "float16")
    assert all(not torch.equal(b, before[name]) for name, b in net.named_buffers() if "running" in name)
