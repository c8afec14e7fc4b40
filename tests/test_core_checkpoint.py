"""A saved model is a folder: it comes back bit for bit, and whatever else lies in it is refused without being run."""

import copy
import errno
import json
import pickle
import re
import resource
import shutil
import socket
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from core_tools import NAMES, assert_equal, assert_same_state, images, randomize_norms, tensors_of
from polymodal import CheckpointError, ConfigError, Exchange, Multimodal, fuse
from polymodal.checkpoint import load, read_config, save
from polymodal.fusion import Aggregation, Alignment
from polymodal.models import create
from polymodal.transfer import take_over
from reference.plain import plain_segmenter

ROOMS = {"name": "rooms-unet", "arguments": {"classes": 3, "stem": 4, "widths": [6, 8], "decoder": 5}}
METADATA = {
    "inputs": {"rgb": {"kind": "image", "mean": [0.5, 0.25]}, "tiefe": {"unit": "µm"}},
    "target": {"ignore": 255},
}


def rooms(**settings: object) -> Multimodal:
    """A small fused network that a folder alone is enough to make again."""
    plain = create(ROOMS["name"], **ROOMS["arguments"])
    arguments = {"modalities": {"rgb": 3, "depth": 1}, "fusion": Exchange(0.6, 1e-3, "all"), "stems": "private"}
    net = randomize_norms(fuse(plain, **(arguments | settings)))
    with torch.no_grad():
        for weights in net.ensemble.parameters():  # none where the fusion makes one stream
            weights.normal_()
    return net.eval()


def predictions(net: Multimodal) -> list[torch.Tensor]:
    dtype = next(net.parameters()).dtype
    generator = torch.Generator().manual_seed(3)
    inputs = {
        name: torch.randn(2, count or 3, 24, 20, generator=generator).to(dtype) for name, count in net.channels.items()
    }
    with torch.no_grad():
        prediction = net(inputs)
    return tensors_of([prediction.per_modality, prediction.ensemble, prediction.weights])


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, also hidden ones."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edit(folder: Path, **changes: object) -> None:
    """Overwrite keys of the saved configuration."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    return save(rooms(), tmp_path_factory.mktemp("saved") / "model", network=ROOMS, metadata=METADATA)


@pytest.fixture
def saved(written, tmp_path) -> Path:
    """A folder of its own for each test."""
    return Path(shutil.copytree(written, tmp_path / "model"))


# ---------------------------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"fusion": None},
        {"fusion": Exchange(share=0.3), "stems": {"depth": "private"}},
        {"stems": "repeat", "sites": "encoder.stages.1.*.bn1"},
        {"modalities": ["depth"], "stems": "repeat"},
        {"modalities": {"d": 1, "c": 3, "b": 20, "a": 3}},
        {"statistics": "frozen"},
        {"statistics": ["encoder.*"]},
        {"norms": "shared", "fusion": None},
    ],
    ids=str,
)
def test_round_trip_is_exact(settings, tmp_path):
    """If this breaks, a loaded model predicts something else than the one that was trained."""
    net = rooms(**settings)
    before = copy.deepcopy(net)
    assert Path(save(net, tmp_path / "new" / "model", network=ROOMS)) == tmp_path / "new" / "model"
    assert_same_state(net, before)
    loaded = load(tmp_path / "new" / "model")
    assert_same_state(loaded, net)
    assert not any(module.training for module in loaded.modules())
    assert (loaded.modalities, loaded.channels, loaded.sites) == (net.modalities, net.channels, net.sites)
    assert (loaded.fusion, loaded.config()) == (net.fusion, net.config())
    assert_equal(predictions(loaded), predictions(net), 0.0)
    assert sorted(content(tmp_path)) == ["new/model/config.json", "new/model/model.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precision_is_kept(dtype, tmp_path):
    """If this breaks, a model saved in double or half precision comes back rounded or in another type."""
    net = rooms().to(dtype)
    loaded = load(save(net, tmp_path / "model", network=ROOMS))
    assert_same_state(loaded, net)
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    assert_equal(predictions(loaded), predictions(net), 0.0)


def test_loaded_in_training_it_goes_on_as_the_saved_one(tmp_path):
    """If this breaks, training cannot be continued from a saved model: statistics, settings or penalty are lost."""
    net = rooms(statistics=["encoder.*"])
    loaded = load(save(net, tmp_path / "model", network=ROOMS))
    assert loaded.fusion_loss() == net.fusion_loss() > 0
    for each in (net.train(), loaded.train()):
        torch.manual_seed(1)
        inputs = images(["rgb"], 2, 3, 16, 16) | images(["depth"], 2, 1, 16, 16)
        output = each({name: image.float() for name, image in inputs.items()})
        (output.ensemble.sum() + each.fusion_loss()).backward()
    assert_same_state(loaded, net)
    for ours, theirs in zip(loaded.parameters(), net.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad)


def test_config_is_readable_and_complete(saved):
    """If this breaks, other programs cannot tell what a model folder holds or how its inputs are normalised."""
    config = read_config(saved)
    assert config == json.loads((saved / "config.json").read_text(encoding="utf-8"))
    assert config["network"] == ROOMS
    assert config["metadata"] == METADATA
    assert config["fuse"]["modalities"] == {"rgb": 3, "depth": 1}
    assert list(config["fuse"]["modalities"]) == ["rgb", "depth"]
    fusion = {"name": "exchange", "threshold": 0.6, "penalty": 1e-3, "within": "all", "share": None}
    assert config["fuse"]["fusion"] == fusion
    assert config["fuse"]["sites"] == list(rooms().sites)


def test_ones_own_network_is_given_to_load_and_left_alone(tmp_path):
    """If this breaks, only networks that the library knows by name can be loaded again."""
    net = randomize_norms(fuse(plain_segmenter(0), NAMES[:3], Exchange(0.6))).eval()
    save(net, tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"network="):
        load(tmp_path / "model")
    own = plain_segmenter(1)
    before = copy.deepcopy(own)
    assert_equal(predictions(load(tmp_path / "model", network=own)), predictions(net), 0.0)
    assert_same_state(own, before)


def test_saving_again_replaces_both_files(saved):
    """If this breaks, "best so far" keeps the first model, or mixes two."""
    net = rooms(fusion=Exchange(0.1))
    save(net, saved, network=ROOMS)
    loaded = load(saved)
    assert_same_state(loaded, net)
    assert loaded.fusion == net.fusion
    assert sorted(content(saved)) == ["config.json", "model.safetensors"]


def test_saving_into_a_run_folder_is_refused(tmp_path):
    """If this breaks, what was saved last is not what is loaded: of a run folder the model within is."""
    save(rooms(), tmp_path / "run" / "model", network=ROOMS)
    with pytest.raises(ConfigError, match=r"run is a run folder, of which `load` reads .*model"):
        save(rooms(fusion=Exchange(0.1)), tmp_path / "run", network=ROOMS)


def test_tied_weights_are_saved(tmp_path):
    """If this breaks, networks that use one tensor in two places cannot be saved."""
    plain = plain_segmenter(0)
    plain.layer1[1].conv2.weight = plain.layer1[0].conv2.weight
    net = fuse(plain, NAMES[:2]).eval()
    assert_same_state(load(save(net, tmp_path / "model"), network=plain), net)


# ------------------------------------------------------------------------------------------------ corrupted and foreign


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file_is_named(saved, name):
    """If this breaks, an incomplete download ends in a riddle."""
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=re.escape(name)):
        load(saved)


def test_folder_that_is_none(tmp_path):
    """If this breaks, a mistyped path ends in a traceback."""
    for folder in (tmp_path / "nothing", tmp_path):
        with pytest.raises(CheckpointError, match=re.escape(str(folder))):
            load(folder)


@pytest.mark.parametrize("damage", ["empty", "cut", "header", "length", "text"])
def test_corrupted_weights_are_refused(saved, damage):
    """If this breaks, a damaged file crashes the program or loads noise."""
    path = saved / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "cut": data[: len(data) // 2],
            "header": data[:8] + b"\xff" * 64 + data[72:],
            "length": (2**63 - 1).to_bytes(8, "little") + data[8:],
            "text": b"version https://git-lfs.github.com/spec/v1\n",
        }[damage]
    )
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load(saved)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"fuse"',
        "{}",
        '{"format": 1}',
        '{"format": 1, "fuse": []}',
        '{"format": 1, "fuse": {}}',
        '{"format": 999, "fuse": {}}',
        "[" * 100_000,
        "\xff\xfe",
    ],
    ids=lambda text: text[:24] or "empty",
)
def test_corrupted_configuration_is_refused(saved, text):
    """If this breaks, a damaged or foreign config.json ends in a traceback, or in a network made of defaults."""
    (saved / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=re.escape(str(saved))):
        load(saved)


SETTINGS = {
    "modalities": [["rgb"], {"rgb": "three", "depth": 1}, {"rgb": 3}, {}, None, 3],
    "fusion": [None, {}, "exchange", {"name": "exchange", "theta": 1}, {"name": "exchange", "threshold": "low"}, []],
    "sites": ["nothing.*", ["encoder.conv1"], 3],
    "stems": ["tile", {"lidar": "private"}, None, 3],
    "norms": ["group", None],
    "statistics": ["running", ["nothing.*"], None, 3],
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in SETTINGS.items() for value in values], ids=str
)
def test_settings_that_do_not_fit_are_refused(saved, key, value):
    """If this breaks, an edited configuration gives a network that differs from the saved one, or a traceback."""
    edit(saved, fuse=read_config(saved)["fuse"] | {key: value})
    with pytest.raises(CheckpointError):
        load(saved)


@pytest.mark.parametrize("key", SETTINGS)
def test_settings_that_are_missing_are_refused(saved, key):
    """If this breaks, a configuration of another version loads with defaults that were never trained."""
    settings = read_config(saved)["fuse"]
    del settings[key]
    edit(saved, fuse=settings)
    with pytest.raises(CheckpointError, match=key):
        load(saved)


def test_model_of_another_network_lists_what_differs(saved, tmp_path):
    """If this breaks, weights of another network load in part and silently."""
    arguments = ROOMS["arguments"]
    edit(saved, network={"name": "rooms-unet", "arguments": arguments | {"decoder": 6}})
    with pytest.raises(CheckpointError, match=r"decoder.*\(5, 14, 3, 3\).*\(6, 14, 3, 3\)"):
        load(saved)
    edit(saved, network={"name": "rooms-unet", "arguments": arguments | {"widths": [6, 8, 8]}})
    with pytest.raises(CheckpointError, match=r"missing network\.\w"):
        load(saved)
    save(rooms(sites="encoder.stages.0.*.bn1"), tmp_path / "deep", network=ROOMS)
    edit(tmp_path / "deep", network={"name": "rooms-unet", "arguments": arguments | {"widths": [6], "decoder": 6}})
    with pytest.raises(CheckpointError, match=r"unexpected network\.\w"):
        load(tmp_path / "deep")


# ------------------------------------------------------------------------------------------------------------- hostile


class Payload:
    """A pickle of this runs code that leaves a file behind."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("writer", [pickle.dump, torch.save], ids=["pickle", "torch.save"])
def test_pickle_in_disguise_is_not_run(saved, tmp_path, writer):
    """If this breaks, opening a stranger's model runs the stranger's code."""
    marker = tmp_path / "executed"
    with (saved / "model.safetensors").open("wb") as file:
        writer(Payload(marker), file)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load(saved)
    assert not marker.exists()


@pytest.mark.parametrize(
    "network",
    [
        {"name": "hostile.build", "arguments": {}},
        {"name": "hostile/build", "arguments": {}},
        {"name": "smp/../hostile", "arguments": {}},
        {"name": "os/system", "arguments": {"command": "touch executed"}},
        {"name": "builtins/eval", "arguments": {"source": "1"}},
        {"name": "smp/__builtins__", "arguments": {}},
        {"name": "torchvision/__import__", "arguments": {"name": "hostile"}},
        {"name": ["rooms-unet"], "arguments": {"classes": 3}},
        {"name": "rooms-unet", "arguments": {"classes": "__import__('hostile')"}},
        {"name": "rooms-unet", "arguments": {"forward": 1}},
        {"name": "rooms-unet", "arguments": []},
        {"name": "rooms-unet"},
        {"arguments": {}},
        "rooms-unet",
        3,
        [],
    ],
    ids=str,
)
def test_configuration_names_nothing_but_known_networks(saved, tmp_path, monkeypatch, network):
    """If this breaks, a stranger's config.json imports or calls what it likes."""
    (tmp_path / "hostile.py").write_text("from pathlib import Path\nPath(__file__).with_name('executed').touch()")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    edit(saved, network=network)
    with pytest.raises(CheckpointError):
        load(saved)
    assert not (tmp_path / "executed").exists()


def test_configuration_names_nothing_but_known_fusions(saved, tmp_path, monkeypatch):
    """If this breaks, a stranger's config.json imports a fusion of the stranger's."""
    (tmp_path / "hostile.py").write_text("from pathlib import Path\nPath(__file__).with_name('executed').touch()")
    monkeypatch.syspath_prepend(tmp_path)
    edit(saved, fuse=read_config(saved)["fuse"] | {"fusion": {"name": "hostile.Exchange"}})
    with pytest.raises(CheckpointError, match=r"hostile\.Exchange"):
        load(saved)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "network",
    [
        {"name": "smp/Unet", "arguments": {"encoder_name": "resnet18", "classes": 3, "encoder_weights": "imagenet"}},
        {
            "name": "smp/Unet",
            "arguments": {"encoder_name": "tu-resnet10t", "classes": 3, "encoder_weights": "imagenet"},
        },
        {"name": "torchvision/lraspp_mobilenet_v3_large", "arguments": {"weights_backbone": "DEFAULT", "classes": 3}},
        {"name": "torchvision/lraspp_mobilenet_v3_large", "arguments": {"weights": "DEFAULT"}},
        {"name": "torchvision/fcn_resnet50", "arguments": {"pretrained_backbone": True, "classes": 3}},
        {"name": "smp/FPN", "arguments": {"encoder_name": "tu-hf-hub:someone/model", "classes": 3}},
        {"name": "refinenet", "arguments": {"encoder_name": "tu-local-dir:.", "classes": 3}},
        {"name": "smp/FPN", "arguments": {"encoder_name": "tu-resnet10t", "pretrained_cfg": {"file": "x"}}},
        {"name": "smp/FPN", "arguments": {"encoder_name": "tu-resnet10t", "cache_dir": "x"}},
    ],
    ids=lambda network: f"{network['name']} {list(network['arguments'])}",
)
def test_loading_never_reaches_for_the_network(saved, tmp_path, monkeypatch, network):
    """If this breaks, opening a model folder downloads what its author chose, or hangs without a connection."""
    reached = []

    def refuse(*arguments: object, **_: object) -> None:
        reached.append(arguments)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    edit(saved, network=network)
    with pytest.raises(CheckpointError):
        load(saved)
    assert not reached


class Opened:
    """Tells when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_loading_opens_no_checkpoint_beside_the_folder(saved, tmp_path):
    """If this breaks, a model folder runs a pickle through the loader of the library that builds the encoder."""
    (tmp_path / "weights.pth").write_bytes(pickle.dumps(Opened(tmp_path / "executed")))
    for key in ("checkpoint_path", "pretrained_cfg_overlay"):
        arguments = {"encoder_name": "tu-resnet10t", "classes": 3, key: str(tmp_path / "weights.pth")}
        edit(saved, network={"name": "smp/FPN", "arguments": arguments})
        with pytest.raises(CheckpointError, match=f"unexpected argument '{key}'"):
            load(saved)
    assert not (tmp_path / "executed").exists()


# ------------------------------------------------------------------------------------------------- errors while saving


@contextmanager
def files_limited_to(size: int):
    """No file of this process can grow larger than `size`: a real write error in the middle of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@contextmanager
def disk_is_full(stage: str, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        if stage == "weights, for real":
            with files_limited_to(4096):
                yield
        elif stage == "weights":
            patch.setattr("safetensors.torch.save_file", full)
            yield
        else:
            patch.setattr(Path, "write_text", full)
            yield


@pytest.mark.parametrize("stage", ["weights, for real", "weights", "config"])
def test_full_disk_leaves_the_previous_model_and_no_rubbish(saved, monkeypatch, stage):
    """If this breaks, a full disk destroys the best model so far, or fills up with half files."""
    before = content(saved)
    with disk_is_full(stage, monkeypatch), pytest.raises(OSError, match=r"space|large|write"):
        save(rooms(fusion=Exchange(0.1)), saved, network=ROOMS)
    assert content(saved) == before
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]
    load(saved)


@pytest.mark.parametrize("stage", ["weights, for real", "weights", "config"])
def test_full_disk_leaves_no_new_folder(tmp_path, monkeypatch, stage):
    """If this breaks, a failed first save leaves a folder that looks like a model."""
    with disk_is_full(stage, monkeypatch), pytest.raises(OSError, match=r"space|large|write"):
        save(rooms(), tmp_path / "model", network=ROOMS)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written(saved, monkeypatch, tmp_path):
    """If this breaks, missing permission ends in a riddle, or damages the model that is there."""
    before = content(saved)

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(saved))

    with monkeypatch.context() as patch:  # not by chmod, which does not bind the administrator
        patch.setattr("os.mkdir", deny)
        with pytest.raises(PermissionError):
            save(rooms(), saved, network=ROOMS)
    assert content(saved) == before
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        save(rooms(), tmp_path / "file" / "model", network=ROOMS)


@pytest.mark.parametrize("wrap", [torch.compile, torch.nn.DataParallel, lambda net: net.network])
def test_what_is_no_multimodal_network_is_not_saved(wrap, tmp_path):
    """If this breaks, a training ends with a folder that nothing can load."""
    with pytest.raises(ConfigError, match=r"expected what `fuse` returned.*net\._orig_mod"):
        save(wrap(rooms()), tmp_path / "model", network=ROOMS)
    assert not (tmp_path / "model").exists()


def test_a_network_without_values_takes_none(tmp_path):
    """If this breaks, a model is loaded of which nothing was loaded."""
    net = rooms()
    save(net, tmp_path / "model", network=ROOMS)
    with torch.device("meta"):
        empty = create(ROOMS["name"], **ROOMS["arguments"])
    with pytest.raises(CheckpointError, match=r"network\.encoder.*on the meta device.*Make it on the CPU"):
        load(tmp_path / "model", network=empty)
    with pytest.raises(CheckpointError, match=r"on the meta device"):
        take_over(fuse(empty, **vars(net.settings)), net)
    with pytest.raises(CheckpointError, match=r"on the meta device"):
        take_over(net, fuse(empty, **vars(net.settings)))


def test_metadata_that_json_does_not_know_changes_nothing(saved):
    """If this breaks, a tensor in the metadata leaves a half-written model."""
    before = content(saved)
    with pytest.raises(ConfigError, match=r"types that JSON knows.*Tensor"):
        save(rooms(), saved, network=ROOMS, metadata={"mean": torch.zeros(3)})
    assert content(saved) == before


@pytest.mark.parametrize("statistics", ["frozen", ["encoder.*"]])
@pytest.mark.parametrize("fusion", [Aggregation(), Alignment()])
def test_frozen_statistics_come_back_with_a_fusion_that_wraps_layers(fusion, statistics, tmp_path):
    """If this breaks, a baseline trained by a recipe of the papers can never be loaded."""
    net = rooms(fusion=fusion, sites="late", statistics=statistics)
    loaded = load(save(net, tmp_path / "model", network=ROOMS))
    assert loaded.config() == net.config()
    assert_equal(predictions(loaded), predictions(net), 0.0)


def test_every_tensor_keeps_its_own_precision(tmp_path):
    """If this breaks, a model with convolutions in bfloat16 and norms in float32 comes back in one of them."""
    net = rooms()
    for module in net.network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.bfloat16()
    loaded = load(save(net, tmp_path / "model", network=ROOMS))
    assert {key: value.dtype for key, value in loaded.state_dict().items()} == {
        key: value.dtype for key, value in net.state_dict().items()
    }
    assert_same_state(loaded, net)


@pytest.mark.parametrize("key", ["threshold", "penalty", "within", "share"])
def test_a_setting_of_the_fusion_that_is_missing_is_named(saved, key):
    """If this breaks, a damaged config.json predicts with another threshold than it was trained with."""
    settings = read_config(saved)["fuse"]
    del settings["fusion"][key]
    edit(saved, fuse=settings)
    with pytest.raises(CheckpointError, match=rf"fuse\.fusion\.{key}: missing"):
        load(saved)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hook": "x"}, "hook: unknown"),
        ({"fuse": {"hook": 1}}, "fuse.hook: unknown"),
        ({"network": {**ROOMS, "hook": 1}}, "network.hook: unknown"),
        ({"metadata": [1]}, "metadata: expected keys and values"),
        ({"fuse": {"modalities": {f"m{number}": 3 for number in range(9999)}}}, "9999 modalities"),
        ({"network": {**ROOMS, "arguments": {**ROOMS["arguments"], "widths": [6000, 6000]}}}, "more than .* values"),
        ({"network": {**ROOMS, "arguments": {**ROOMS["arguments"], "widths": [1] * 64}}}, "values in \\d{3,} tensors"),
        ({"network": {**ROOMS, "arguments": {**ROOMS["arguments"], "widths": [1] * 9999}}}, "lists of up to 64"),
    ],
)
def test_a_configuration_that_asks_for_more_than_the_weights_hold_is_refused_in_one_line(saved, change, said):
    """If this breaks, a few words in a file fill the memory, or are dropped in silence."""
    own = json.loads((saved / "config.json").read_text())
    edit(saved, **{key: {**own[key], **value} if key == "fuse" else value for key, value in change.items()})
    with pytest.raises(CheckpointError, match=said) as raised:
        load(saved)
    assert "\n" not in str(raised.value)


def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(saved, tmp_path):
    """If this breaks, a network that is spoilt predicts one class everywhere, without a word."""
    from safetensors.torch import load_file, save_file

    net = load(saved)
    next(net.parameters()).data.flatten()[0] = torch.nan
    with pytest.raises(ConfigError, match="NaN or infinite, so nothing was saved"):
        save(net, tmp_path / "spoilt", network=ROOMS)
    assert not (tmp_path / "spoilt").exists()
    tensors = load_file(saved / "model.safetensors")
    tensors["ensemble.alpha"][0] = torch.inf
    save_file(tensors, saved / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"ensemble\.alpha holds values that are NaN or infinite"):
        load(saved)
