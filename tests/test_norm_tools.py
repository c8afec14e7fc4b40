"""What looks for batch norms finds private ones and treats them as plain ones, or is refused by the norm's name."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning, StochasticWeightAveraging
from timm.layers import convert_sync_batchnorm, freeze_batch_norm_2d
from timm.optim import create_optimizer_v2
from timm.utils import freeze
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from core_tools import NAMES, assert_equal, images, plain_of, randomize_norms
from polymodal import FusionError, Multimodal, Prediction, fuse
from polymodal.fusion import DecodeOnce
from polymodal.nn import PrivateFrozenNorm
from reference.decode_once import TwoScales

PAIR = NAMES[:2]


def plain_network() -> nn.Module:
    """Two convolutions with norms, in float64, of which the second leaves nothing for the first to hide."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5)
    ).double()


def pair(**settings: object) -> tuple[Multimodal, list[nn.Module]]:
    """A network fused without exchange, and the plain network of each modality."""
    plain = plain_network()
    net = randomize_norms(fuse(plain, PAIR, None, **settings)).train()
    return net, [plain_of(net, plain, m).train() for m in range(len(PAIR))]


def batches(count: int = 3) -> list[dict[str, Tensor]]:
    torch.manual_seed(1)
    return [images(PAIR, 3, 3, 6, 5) for _ in range(count)]


def assert_like_the_plain_ones(net: Multimodal, plains: list[nn.Module]) -> None:
    """Every modality has the norms of its plain network: scales, statistics and counts."""
    for m, plain in enumerate(plains):
        ours = plain_of(net, plain, m).state_dict()
        for key, value in plain.state_dict().items():
            if "num_batches" in key or key.startswith(("1.", "4.")):
                assert_equal([ours[key].double()], [value.double()], 1e-12, f"{PAIR[m]} {key}")


def test_update_bn_measures_each_modality_as_its_plain_network():
    """If this breaks, averaged weights go with the statistics of other weights, and every score is off."""
    net, plains = pair()
    update_bn(batches(), net)
    for name, plain in zip(PAIR, plains, strict=True):
        update_bn([batch[name] for batch in batches()], plain)
    assert_like_the_plain_ones(net, plains)
    assert net.network[1].momentum == 0.1


def test_frozen_statistics_are_no_batch_norms_to_reset():
    """If this breaks, `update_bn` sets statistics to 0 and 1 that were to be kept, and nothing measures them again."""
    net, _ = pair(statistics=["1"])
    assert isinstance(net.network[1], PrivateFrozenNorm)
    before = copy.deepcopy(net.network.state_dict())
    update_bn(batches(), net)
    changed = {key for key, value in net.network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"4.running_mean", "4.running_var", "4.num_batches_tracked"}


class Learner(LightningModule):
    """Trains a network on the sum of squares of what it predicts of each modality that it is given."""

    def __init__(self, net: nn.Module, name: str | None) -> None:
        super().__init__()
        self.net, self.name = net, name

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        if self.name is not None:
            return self.net(batch[self.name]).square().sum()
        return torch.stack([output.square().sum() for output in self.net(batch).per_modality.values()]).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for n, p in self.named_parameters() if "alpha" not in n], lr=0.01)


def test_stochastic_weight_averaging_equals_that_of_plain_networks():
    """If this breaks, Lightning averages weights and leaves private norms with the statistics of the last ones."""
    plain = plain_network()
    net, plains = fuse(plain, PAIR, None, convolutions="private"), [copy.deepcopy(plain) for _ in PAIR]
    for name, network in ((None, net), *zip(PAIR, plains, strict=True)):
        averaging = StochasticWeightAveraging(0.02, swa_epoch_start=1, annealing_epochs=1, device=None)
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = Trainer(max_epochs=3, callbacks=[averaging], accelerator="cpu", enable_model_summary=False, **quiet)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(Learner(network, name), DataLoader(batches(2), batch_size=None))
    assert net.network[1].num_batches_tracked == 2
    for m, alone in enumerate(plains):
        for index in (1, 4):
            for key, value in alone[index].state_dict().items():
                ours = getattr(net.network[index], key)
                assert_equal([(ours[m] if ours.dim() else ours).double()], [value.double()], 1e-10, f"{index}.{key}")
        for index in (0, 3):
            assert_equal([net.network[index].layers[m].weight], [alone[index].weight], 1e-10)


def test_finetuning_freezes_and_frees_them():
    """If this breaks, a backbone that is frozen goes on changing its statistics."""
    net, plains = pair()
    for network in (net, *plains):
        BaseFinetuning.freeze(network, train_bn=False)
    net(batches(1)[0])
    for name, plain in zip(PAIR, plains, strict=True):
        plain(batches(1)[0][name])
    assert_like_the_plain_ones(net, plains)
    assert not any(p.requires_grad for p in net.network.parameters())
    BaseFinetuning.make_trainable(net)
    assert net.network[1].track_running_stats
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("statistics", ["batch", ["1"]])
@pytest.mark.parametrize(
    "convert", [nn.SyncBatchNorm.convert_sync_batchnorm, convert_sync_batchnorm, freeze_batch_norm_2d, freeze]
)
def test_what_would_make_plain_norms_of_them_is_refused(convert, statistics):
    """If this breaks, private norms are passed over, or become norms whose scales have a shape that fits nothing."""
    net, _ = pair(statistics=statistics)
    name = "1" if statistics == "batch" else "4"
    with pytest.raises(FusionError, match=f"'{name}' is private.*Convert the plain network.*statistics=\"frozen\""):
        convert(net)
    assert isinstance(net(batches(1)[0]), Prediction)


def test_a_norm_that_refuses_is_still_copied_pickled_and_traced():
    """If this breaks, tools that read every attribute fail on a network with private norms."""
    net, _ = pair()
    net.eval()
    x = torch.randn(4, 3, 6, 5).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated, and used
        traced = torch.jit.trace(net.network, x)
    for other in (copy.deepcopy(net.network), pickle.loads(pickle.dumps(net.network)), traced):
        assert torch.equal(other(x), net.network(x))
    assert "num_features" not in dir(net.network[1])
    net.network[1].reset_parameters()
    assert net.network[1].weight.eq(1).all()
    assert net.network[1].running_var.eq(1).all()


def test_a_network_is_exported_and_comes_back_with_its_form():
    """If this breaks, `torch.export` refuses a fused network for what it returns."""
    net, _ = pair()
    batch = batches(1)[0]
    file = io.BytesIO()
    torch.export.save(torch.export.export(net.eval(), (batch,)), file)
    file.seek(0)
    found, wanted = torch.export.load(file).module()(batch), net(batch)
    assert isinstance(found, Prediction)
    assert list(found.per_modality) == list(PAIR)
    assert_equal(
        [found.per_modality, found.ensemble, found.weights],
        [wanted.per_modality, wanted.ensemble, wanted.weights],
        1e-12,
    )


def test_weight_decay_leaves_out_of_a_fused_network_what_it_leaves_out_of_a_plain_one():
    """If this breaks, weight decay presses the scales of all channels to 0, and an exchange takes them for useless."""

    class Named(TwoScales):
        def no_weight_decay(self) -> set[str]:
            return {"decoder.classifier.weight"}

    def decaying(network: nn.Module) -> set[str]:
        groups = create_optimizer_v2(network, "adamw", weight_decay=0.1).param_groups
        decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
        return {name for name, p in network.named_parameters() if id(p) in decayed}

    plain = Named()
    for settings in ({}, {"norms": "shared", "fusion": None}, {"fusion": DecodeOnce(), "sites": "encoder.*"}):
        net = fuse(plain, PAIR, **settings)
        found = {name.removeprefix("network.").replace(".layer.", ".") for name in decaying(net)}
        assert found == decaying(plain)
    low = fuse(plain, PAIR, None, convolutions={"rank": 2})
    assert {name.rpartition(".")[2] for name in decaying(low) - decaying(net)} >= {"up", "down"}
