"""A network that starts from trained ones has their values wherever they fit, says so, and refuses what does not."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from core_tools import assert_equal, assert_same_state, images, randomize_norms, small
from fixtures_data import make_folder
from polymodal import (
    CheckpointError,
    ConfigError,
    FusionError,
    Multimodal,
    fuse,
    join,
    load,
    save,
    sources,
    take_over,
)
from polymodal.data import TargetSpec
from polymodal.fusion import RandomExchange
from polymodal.models import create
from polymodal.run_folder import START
from polymodal.runs.training import fit, recipe
from polymodal.tasks import Segmentation
from polymodal.tasks.start import start
from polymodal.transfer import parts_of

ROOMS = {"classes": 3, "stem": 4, "widths": [6, 8], "decoder": 5}
CHANNELS = {"rgb": 3, "depth": 1}


def rooms(channels: dict = CHANNELS, fusion: str | None = "exchange", classes: int = 3, **settings) -> Multimodal:
    net = fuse(create("rooms-unet", **(ROOMS | {"classes": classes})), channels, fusion, **settings)
    net = randomize_norms(net).eval()
    with torch.no_grad():
        for weights in net.ensemble.parameters():
            weights.normal_()
    return net


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    target = TargetSpec(kind="label", folder="label", classes=("a", "b", "c"), colors=((0, 0, 0),) * 3)
    network = {"name": "rooms-unet", "arguments": ROOMS}
    folder = tmp_path_factory.mktemp("trained") / "model"
    return save(rooms(stems="private"), folder, network=network, metadata={"target": target.as_dict()})


def scene(net: Multimodal, size: tuple[int, int] = (24, 20)) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(2, count or 3, *size) for name, count in net.channels.items()}


WAYS = [
    {"fusion": "decode-once", "convolutions": {"rank": 2}, "stems": "private"},
    {"fusion": "aggregation", "convolutions": "private"},
    {"fusion": None, "norms": "shared"},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_same_network_starts_as_the_trained_one_ended(way):
    """If this breaks, a tensor that some part of a network holds is trained from nothing, unseen."""
    source, net = rooms(**way), rooms(**way)
    sizes = [sum(value.numel() for value in found.values()) for found in (parts_of(net), net.state_dict())]
    assert sizes[0] == sizes[1]
    taken = take_over(net, source)
    assert not taken.anew
    assert not taken.left
    assert_same_state(net, source)


@pytest.mark.parametrize("way", [way for way in WAYS if way["fusion"] != "aggregation"], ids=str)
def test_a_third_modality_starts_like_the_one_that_it_names(way):
    """If this breaks, a new sensor begins with norms of its own that fit nothing, or the others' are mixed up."""
    source, net = rooms(**way), rooms(CHANNELS | {"thermal": 1}, **way)
    take_over(net, source, like={"thermal": "depth"})
    given = scene(source)
    both = net(given | {"thermal": given["depth"]}, per_modality=True).per_modality
    with net.fusion_disabled(), source.fusion_disabled():
        alone = net({"thermal": given["depth"]}, subset=True, per_modality=True).per_modality
        expected = source({"depth": given["depth"]}, subset=True, per_modality=True).per_modality
    assert_equal(alone["thermal"], expected["depth"], 1e-6)
    assert_equal(both["thermal"], both["depth"], 1e-5)


def test_what_a_fusion_learned_of_the_modalities_together_starts_anew_with_others():
    """If this breaks, a convolution of two modalities' channels is laid on other ones, or the start is refused."""
    source, net = rooms(fusion="aggregation"), rooms({"depth": 1, "rgb": 3}, fusion="aggregation")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    taken = take_over(net, source)
    assert set(taken.anew) == {name for name in taken.anew if ".fusion." in name}
    assert taken.anew
    fusing = [name for name in before if ".fusion." in name]
    assert all(before[name].equal(value) for name, value in net.state_dict().items() if name in fusing)


def test_decisions_are_those_of_the_own_settings():
    """If this breaks, the share that a recipe sets is silently the one of the run that it starts from."""
    source, net = rooms(fusion=RandomExchange(share=0.5)), rooms(fusion=RandomExchange(share=0.1))
    kept = {name: value.clone() for name, value in net.state_dict().items() if name.endswith("keep")}
    taken = take_over(net, source)
    assert kept
    assert all(net.state_dict()[name].equal(value) for name, value in kept.items())
    assert set(taken.anew.values()) == {"decided by the fusion's settings"}


def test_frozen_statistics_start_from_those_of_a_training_without():
    """If this breaks, the usual fine-tuning with frozen statistics is refused for a count of batches."""
    source, net = rooms(), rooms(statistics="frozen")
    take_over(net, source)
    given = scene(net)
    assert_equal(net(given).ensemble, source(given).ensemble, 1e-5)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"classes": 4}, r"head\.bias: expected the shape \(4,\), found the shape \(3,\)"),
        ({"channels": {"rgb": 3, "depth": 3}, "stems": "private"}, r"conv1\.weight\[depth\]: expected the shape"),
        ({"norms": "shared", "fusion": None}, "expected one for all modalities, found one of each"),
        ({"channels": CHANNELS | {"thermal": 1}}, "'thermal' cannot start like 'thermal'.*has rgb, depth"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named_and_nothing_is_changed(other, told):
    """If this breaks, a start from another network trains a mixture of both, or leaves half of one."""
    net, source = rooms(**other), rooms(stems="private")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=told):
        take_over(net, source)
    assert all(before[name].equal(value) for name, value in net.state_dict().items())


def test_what_is_to_start_anew_is_there():
    """If this breaks, a name that is mistyped is taken over with the rest."""
    with pytest.raises(CheckpointError, match=r"there is no tensor 'head\.wieght' in the network; did you mean head\."):
        take_over(rooms(), rooms(), anew={"head.wieght": "others"})


def test_a_deeper_network_is_not_cut_off():
    """If this breaks, a network silently starts from the first stages of another one."""
    deeper = fuse(create("rooms-unet", **(ROOMS | {"widths": [6, 8, 8]})), CHANNELS)
    with pytest.raises(CheckpointError, match="expected none, found the shape"):
        take_over(rooms(), deeper)


# ------------------------------------------------------------------------------------------------------ from a folder


def test_loaded_for_other_classes_and_modalities(trained):
    """If this breaks, one line for fine-tuning gives a network of other values, or hides which are new."""
    source = load(trained)
    net = load(trained, classes=5, modalities={"rgb": "rgb", "depth": "depth", "thermal": "depth"})
    assert net(scene(net)).ensemble.shape == (2, 5, 24, 20)
    assert net.channels == CHANNELS | {"thermal": 1}
    assert set(net.taken_over.anew) == {"head.weight", "head.bias"}
    assert set(net.taken_over.anew.values()) == {"5 classes"}
    own, given = parts_of(net), parts_of(source)
    assert all(own[name, "thermal"].equal(value) for (name, m), value in given.items() if m == "depth")
    assert all(own[part].equal(value) for part, value in given.items() if not part[0].startswith("head"))
    assert "thermal like depth" in str(net.taken_over)
    assert "anew, 5 classes: head.weight" in str(net.taken_over)
    assert not net.training
    assert load(trained, modalities=["depth"]).modalities == ("depth",)


@pytest.mark.parametrize(
    ("asked", "error", "told"),
    [
        ({"classes": 0}, ConfigError, "classes: expected a number"),
        ({"classes": True}, ConfigError, "classes: expected a number"),
        ({"classes": 4, "network": create("rooms-unet", **ROOMS)}, ConfigError, "polymodal.take_over"),
        ({"modalities": ["rgb", "thermal"]}, CheckpointError, "'thermal' cannot start like 'thermal'"),
        ({"modalities": {"a": "lidar"}}, CheckpointError, "'a' cannot start like 'lidar'.*has rgb, depth"),
        ({"modalities": "rgb"}, ConfigError, "modalities: expected a list"),
        ({"modalities": []}, FusionError, "at least one"),
    ],
    ids=str,
)
def test_what_cannot_be_loaded_is_refused(trained, asked, error, told):
    """If this breaks, a mistyped modality or number of classes gives some other network."""
    with pytest.raises(error, match=told):
        load(trained, **asked)


# -------------------------------------------------------------------------------------------------------------- fitting


def task(
    folder: Path, classes: tuple[str, ...] = ("a", "b", "c"), channels: dict = CHANNELS, **settings
) -> Segmentation:
    target = TargetSpec(kind="label", folder="label", classes=classes, colors=((0, 0, 0),) * len(classes))
    data = SimpleNamespace(batch_size=2, num_classes=len(classes), channels=channels, target=target, gaps=False)
    arguments = {name: value for name, value in ROOMS.items() if name != "classes"}
    ways = {"network_args": arguments, "fusion": rooms().fusion, "stems": "private", "start_from": str(folder)}
    made = Segmentation(**(ways | settings))
    made._trainer = SimpleNamespace(datamodule=data, current_epoch=0, global_step=0)
    made._fabric = None
    made.configure_model()
    return made


def test_a_task_starts_from_a_model_and_anew_where_the_classes_are_others(trained, monkeypatch):
    """If this breaks, `--model.start_from` trains from nothing, or keeps a last layer that means other classes."""
    monkeypatch.setattr(sources, "_ZOO", trained.parent)
    for where in (trained, trained.name):
        same = task(where).net
        assert same.taken_over.anew == {}
        assert_same_state(same, load(trained))
    more = task(trained, ("a", "c", "b"), CHANNELS | {"thermal": 1}, start_like={"thermal": "depth"}).net
    assert set(more.taken_over.anew) == {"head.weight", "head.bias"}
    assert more.taken_over.like == {"rgb": "rgb", "depth": "depth", "thermal": "depth"}


def test_a_task_may_go_on_without_the_fusion_and_the_list_says_so(trained):
    """If this breaks, there is no network for one sensor beside that of all, or a forgotten fusion goes unseen."""
    net = task(trained, fusion=None).net
    assert net.fusion.name == "none"
    assert "left there, the recipe has none: the fusion exchange" in str(net.taken_over)
    own, given = parts_of(net), parts_of(load(trained))
    assert all(own[part].equal(value) for part, value in given.items())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"fusion": RandomExchange(share=0.5)}, "has the fusion exchange, and the recipe random"),
        (
            {"network_args": {"stem": 4, "widths": [6, 8], "decoder": 6}},
            r"expected the shape \(6, .*found the shape \(5",
        ),
        ({"start_from": None, "start_like": {"thermal": "depth"}}, "start_like: there is no model"),
        ({"weights": "imagenet"}, "weights: 'imagenet' would be replaced"),
        (
            {"start_from": "nowhere"},
            r"--model\.start_from: nowhere is no model folder.* the name of a model",
        ),
        ({"start_like": {"lidar": "depth"}}, "no modality 'lidar'"),
    ],
    ids=str,
)
def test_a_task_refuses_a_start_that_does_not_fit(trained, settings, told):
    """If this breaks, a recipe starts from another network than it names, or a setting says nothing in silence."""
    with pytest.raises((ConfigError, CheckpointError), match=told):
        task(trained, **settings)


def test_the_model_of_another_network_is_refused_by_name(trained):
    """If this breaks, tensors that happen to fit are taken from another network."""
    with pytest.raises(ConfigError, match="of the network 'rooms-unet', and the recipe's is 'refinenet'"):
        start(rooms(), str(trained), "refinenet", TargetSpec(kind="label", folder="label"), None)


@pytest.mark.slow
def test_a_run_starts_from_a_run_with_other_images_and_says_what_it_took(tmp_path, capsys):
    """If this breaks, `fit` cannot fine-tune on another data set, or the run does not say where it came from."""
    few = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--data.batch_size=2"]

    def run(name: str, data: Path, modalities: str, *more: str) -> Path:
        where = [f"--trainer.default_root_dir={tmp_path / name}", f"--data.root={data}"]
        return fit([f"--config={recipe('folder')}", *where, f"--data.modalities={modalities}", *few, *more])

    first = run("first", make_folder(tmp_path / "a"), "[rgb, grey]")
    assert not (first / START).exists()
    data = make_folder(tmp_path / "b", size=(40, 32), classes=3, seed=1)
    again = run("again", data, "[rgb, grey, depth]", f"--model.start_from={first}", "--model.start_like={depth: grey}")
    said = json.loads((again / START).read_text())
    assert said["from"] == str(first)
    assert said["like"]["depth"] == "grey"
    assert set(said["anew"].values()) == {"3 classes, and the model had 2"}
    assert f"tensors from {first}; depth like grey" in capsys.readouterr().out
    assert load(again).modalities == ("rgb", "grey", "depth")


# -------------------------------------------------------------------------------------------------------------- joining


def plain(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return randomize_norms(small()).eval()


@pytest.mark.parametrize("shared_from", ["depth", None])
def test_joined_networks_have_private_norms_of_each_and_shared_layers_of_one_or_the_mean(shared_from):
    """If this breaks, two finished networks become one that is neither."""
    networks = {"rgb": plain(1), "depth": plain(2)}
    net = join(networks, None, shared_from=shared_from)
    states = {name: network.state_dict() for name, network in networks.items()}
    for m, (name, network) in enumerate(networks.items()):
        for layer, norm in network.named_modules():
            if isinstance(norm, nn.BatchNorm2d):
                own = net.network.get_submodule(layer)
                assert own.weight[m].equal(norm.weight), name
                assert own.running_var[m].equal(norm.running_var), name
    expected = (
        states["depth"]["3.weight"] if shared_from else (states["rgb"]["3.weight"] + states["depth"]["3.weight"]) / 2
    )
    assert_equal(net.network.state_dict()["3.weight"], expected, 1e-15)
    if shared_from:
        given = images(net.modalities, 2, 3, 16, 16)
        assert_equal(net(given).per_modality["depth"], networks["depth"](given["depth"]), 1e-12)
    assert list(net.taken_over.anew) == ["ensemble.alpha[rgb]", "ensemble.alpha[depth]"]


def test_joined_private_convolutions_predict_as_each_network_did():
    """If this breaks, networks of which nothing is shared lose what they learned when they are fused."""
    networks = {"rgb": plain(1), "depth": plain(2)}
    net = join(networks, None, convolutions="private")
    given = images(net.modalities, 2, 3, 16, 16)
    for name, network in networks.items():
        assert_equal(net(given).per_modality[name], network(given[name]), 1e-12)


def test_runs_of_one_modality_are_joined(tmp_path):
    """If this breaks, what `fit` trained on one sensor each cannot be fused."""
    spec = {"name": "rooms-unet", "arguments": ROOMS}
    folders = {name: save(rooms({name: n}, None), tmp_path / name, network=spec) for name, n in CHANNELS.items()}
    net = join(folders, "exchange", shared_from="rgb")
    assert net.channels == CHANNELS
    given = scene(net)
    with net.fusion_disabled():
        assert_equal(net(given).per_modality["rgb"], load(folders["rgb"])({"rgb": given["rgb"]}).ensemble, 1e-5)


def grouped(groups: int, activation: nn.Module | None = None) -> nn.Module:
    """Its tensors do not say how many groups there are, nor what follows."""
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(groups, 8), activation or nn.ReLU())


@pytest.mark.parametrize(
    ("networks", "settings", "told"),
    [
        ({"rgb": small(), "depth": small(width=9)}, {}, r"3\.weight: expected .* in the network of depth"),
        ({"rgb": small(), "depth": nn.Sequential(*small(), nn.BatchNorm2d(2))}, {}, "expected none, found the shape"),
        ({"rgb": grouped(2), "depth": grouped(4)}, {}, r"'1' is GroupNorm\(4, 8.*of depth and GroupNorm\(2, 8.*of rgb"),
        ({"rgb": grouped(2), "depth": grouped(2, nn.GELU())}, {}, r"'2' is GELU.* and ReLU"),
        ({"rgb": small(), "depth": small()}, {"shared_from": "dept"}, "did you mean depth"),
        ({"rgb": small(), "depth": small()}, {"channels": {"rgb": 3}}, "channels: expected those of rgb, depth"),
        ({"rgb": rooms({"rgb": 3})}, {}, "got a fused one"),
        ({}, {}, "got none"),
    ],
    ids=["wider", "deeper", "groups", "activation", "mistyped", "channels", "fused", "none"],
)
def test_networks_that_cannot_be_joined(networks, settings, told):
    """If this breaks, networks of different architectures are joined in part and silently."""
    with pytest.raises((CheckpointError, FusionError), match=told):
        join(networks, None, **settings)
