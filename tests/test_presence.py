"""If these break, scenes that lack a sensor change what is learned and said of those that have it."""

import html
import json
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import nn

from core_tools import randomize_norms
from fixtures_data import edit, make_folder, target_of
from polymodal import Exchange, checkpoint, fuse, models
from polymodal.data import FolderData, FolderDataset
from polymodal.data.check import check
from polymodal.data.dropout import ModalityDropout
from polymodal.data.sampler import Draw
from polymodal.data.transforms import Augment
from polymodal.errors import ConfigError, DataError, FusionError
from polymodal.fusion import Aggregation, DecodeOnce, NormFusion, TokenExchange
from polymodal.metrics import SegmentationScores
from polymodal.nn import Prediction
from polymodal.runs.evaluation import described
from polymodal.runs.training import fit, recipe
from polymodal.runs.validate import validate
from polymodal.tasks import Segmentation, Translation
from reference.decode_once import TwoScales
from reference.tokens import Transformer

EXCHANGE = Exchange(threshold=0.5, within="all")


class Windows(nn.Module):
    """Cuts its maps into four windows, as further samples of the batch, for what stands in it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        b, c, h, w = x.shape
        cut = x.view(b, c, 2, h // 2, 2, w // 2).permute(0, 2, 4, 1, 3, 5).reshape(b * 4, c, h // 2, w // 2)
        y = self.inner(cut).view(b, 2, 2, -1, h // 2, w // 2)
        return y.permute(0, 3, 1, 4, 2, 5).reshape(b, -1, h, w)


def of_windows():
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), Windows(nn.BatchNorm2d(6)), nn.ReLU(), nn.Conv2d(6, 2, 1))


def of_layers():
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.ReLU(), nn.Conv2d(6, 2, 1))


def unet():
    return models.create("rooms-unet", classes=2, stem=4, widths=(8, 8), decoder=8)


WAYS = {
    "none": (unet, {"fusion": None}),
    "exchange": (unet, {"fusion": EXCHANGE}),
    "decode once": (unet, {"fusion": DecodeOnce(EXCHANGE)}),
    "asymmetric": (unet, {"fusion": "asymmetric"}),
    "tokens": (Transformer, {"fusion": TokenExchange(0.5)}),
    "columns": (unet, {"fusion": Exchange(every=2, within="all", axis="column"), "sites": "all"}),
    "layers": (TwoScales, {"fusion": Exchange(every=1, within="all", axis=["none", "channel"]), "sites": "encoder"}),
    "alignment": (unet, {"fusion": "alignment"}),
    "average": (unet, {"fusion": Aggregation("average")}),
    "shared norms": (unet, {"fusion": None, "norms": "shared"}),
    "independent": (unet, {"fusion": None, "convolutions": "private"}),
    "low rank": (unet, {"fusion": EXCHANGE, "convolutions": {"rank": 2}}),
    "private stems": (unet, {"fusion": EXCHANGE, "stems": "private"}),
    "group norms": (of_layers, {"fusion": EXCHANGE, "sites": "1"}),
    "windows": (of_windows, {"fusion": EXCHANGE, "sites": "1.inner"}),
}


def batch(modalities, samples=5, size=8, gaps=True):
    """Images by modality, NaN where a sample has none, and which samples have them."""
    names = [f"m{m}" for m in range(modalities)]
    there = torch.rand(samples, modalities) > 0.5
    there[:, 0] |= ~there.any(1)
    there[:2, -1] = torch.tensor([True, modalities == 1])  # two patterns at least
    there[:2, 0] = True
    present = {name: there[:, m] for m, name in enumerate(names)}
    images = {name: torch.randn(samples, 3, size, size, dtype=torch.float64) for name in names}
    nan = {name: torch.where(present[name].view(-1, 1, 1, 1), image, torch.nan) for name, image in images.items()}
    return nan if gaps else images, present


def make(way, modalities):
    torch.manual_seed(0)
    plain, settings = WAYS[way]
    net = fuse(randomize_norms(plain()), {f"m{m}": 3 for m in range(modalities)}, **settings).double()
    for parameter in net.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return net.eval()


def gradients(net, total):
    net.zero_grad()
    total.backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize("modalities", [1, 2, 4])
@pytest.mark.parametrize("way", WAYS)
def test_a_sample_gives_what_it_would_among_its_like(way, modalities):
    """Forward and gradients, whatever stands in the place of the images that are not there."""
    net = make(way, modalities)
    images, present = batch(modalities)
    mixed = net(images, present=present, per_modality=True)
    total = mixed.ensemble.square().sum()
    for name, output in mixed.per_modality.items():
        assert output[~present[name]].isnan().all()
        total = total + output[present[name]].square().sum()
    found, wanted = gradients(net, total), 0
    for sample in range(5):
        own = {name: image[sample : sample + 1] for name, image in images.items() if present[name][sample]}
        alone = net(own, subset=True, per_modality=True)
        torch.testing.assert_close(mixed.ensemble[sample], alone.ensemble[0], rtol=0, atol=1e-12)
        wanted = wanted + alone.ensemble.square().sum()
        for name, output in alone.per_modality.items():
            torch.testing.assert_close(mixed.per_modality[name][sample], output[0], rtol=0, atol=1e-12)
            wanted = wanted + output.square().sum()
        if len(mixed.weights):
            columns = [list(mixed.per_modality).index(name) for name in own]
            weights = mixed.weights if mixed.weights.dim() == 1 else mixed.weights[sample]
            torch.testing.assert_close(weights[columns], alone.weights)
            assert weights.sum().item() == pytest.approx(1)
    apart = gradients(net, wanted)
    assert found.keys() == apart.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, apart[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("way", ["none", "windows"])
def test_statistics_are_those_of_the_samples_that_have_the_modality(way):
    net = make(way, 3).train()
    norm = next(module for module in net.modules() if isinstance(module, nn.BatchNorm2d))
    seen = []
    norm.register_forward_pre_hook(lambda module, inputs: seen.append(net.roster.apart(inputs[0])))
    before = norm.running_mean.clone()
    images, present = batch(3)
    net(images, present=present)
    for m, rows in enumerate(seen[0]):
        images_of_it = int(present[f"m{m}"].sum())
        assert len(rows) == images_of_it * (4 if way == "windows" else 1)
        plain = nn.BatchNorm2d(rows.shape[1], momentum=norm.momentum).double()
        plain.running_mean.copy_(before[m])
        plain(rows)
        torch.testing.assert_close(norm.running_mean[m], plain.running_mean)


def test_batches_of_one_pattern_cost_what_is_there():
    """If this breaks, a sensor that is missing throughout costs as much as one that is there."""
    net = make("exchange", 3)
    rows = []
    net.network.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    images, _ = batch(3, gaps=False)
    never = torch.zeros(5, dtype=torch.bool)
    found = net(images, present={"m1": never})
    assert list(found.per_modality) == ["m0", "m2"]
    net(images, present={"m1": torch.tensor([True, False, False, False, False])})
    assert rows == [10, 11]


def test_the_loss_is_that_of_what_is_there():
    task = Segmentation()
    task.register_buffer("class_weight", torch.ones(2))
    task.target = type("Target", (), {"ignore": 255, "name": "target"})
    target = torch.randint(0, 2, (3, 4, 4))
    present = {"a": torch.tensor([True, False, True]), "b": torch.tensor([True, True, False])}
    logits = {name: torch.randn(3, 2, 4, 4, requires_grad=True) for name in (*present, "ensemble")}
    shown = {name: torch.where(present[name].view(-1, 1, 1, 1), logits[name], torch.nan) for name in present}
    loss = task.segmentation_loss(Prediction(shown, logits["ensemble"], torch.ones(2)), target, present)
    loss.backward()
    wanted = nn.functional.cross_entropy(logits["ensemble"], target, reduction="sum")
    for name, rows in present.items():
        wanted = wanted + nn.functional.cross_entropy(logits[name][rows], target[rows], reduction="sum")
        assert logits[name].grad.isfinite().all()
        assert not logits[name].grad[~rows].any()
    torch.testing.assert_close(loss, wanted / target.numel())


def test_what_cannot_be_is_refused_by_name():
    images, present = batch(2, gaps=False)
    net = make("exchange", 2)
    only = torch.arange(5) != 3
    with pytest.raises(DataError, match=r"present: sample 3 has no modality"):
        net(images, present={"m0": only, "m1": only})
    with pytest.raises(DataError, match=r"present: 'lidar' is none of the modalities"):
        net(images, present={"lidar": present["m0"]})
    with pytest.raises(DataError, match=r"expected for 'm0' a boolean tensor \(5,\)"):
        net(images, present={"m0": torch.ones(5)})
    concat = fuse(unet(), {"m0": 3, "m1": 3}, Aggregation("concat")).double()
    with pytest.raises(FusionError, match=r"present: samples lack modalities, and operation='concat' weighs"):
        concat(images, present=present)


def test_a_fusion_of_ones_own_works_or_is_refused():
    """Behind a norm it is called for one pattern at a time; whatever else it installs has to say that it can."""

    class Sum(NormFusion):
        def meet(self, x):
            return x.sum(1, keepdim=True).expand_as(x)

    class Unsaid(DecodeOnce):
        takes_gaps = False

    images, present = batch(2)
    net = fuse(unet(), {"m0": 3, "m1": 3}, Sum()).double().eval()
    alone = net({"m0": images["m0"][1:2]}, subset=True).ensemble
    torch.testing.assert_close(net(images, present=present).ensemble[1], alone[0])
    with pytest.raises(FusionError, match="does not say that it can work on such a batch"):
        fuse(unet(), {"m0": 3, "m1": 3}, Unsaid()).double().eval()(images, present=present)


def test_a_modality_with_one_value_left_does_not_end_a_training():
    net = fuse(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), {"a": 3, "b": 3}, None)
    images = {name: torch.randn(3, 3, 1, 1) for name in "ab"}
    before = net.network[1].running_mean.clone()
    net(images, present={"b": torch.tensor([True, False, False])})
    assert (net.network[1].running_mean[1] == before[1]).all()
    assert (net.network[1].running_mean[0] != before[0]).any()


def test_a_batch_of_two_with_one_modality_each_does_not_end_a_training():
    """Pooled to one pixel, each is left with a single value: with dropout one batch of two in so many is such a one."""
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4))
    net = fuse(plain, {"a": 3, "b": 3}, None)
    images = {name: torch.randn(2, 3, 4, 4) for name in "ab"}
    first = torch.tensor([True, False])
    before = net.network[2].running_mean.clone()
    assert net(images, present={"a": first, "b": ~first}).ensemble.isfinite().all()
    assert (net.network[2].running_mean == before).all()
    plain[2] = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    with pytest.raises(FusionError, match="single value per sample and channel"):
        fuse(plain, {"a": 3, "b": 3}, None)(images, present={"b": first})


@given(st.lists(st.floats(0, 0.9), min_size=1, max_size=4), st.integers(0, 2**40))
def test_dropout_keeps_one_and_is_the_same_for_the_same_seed(probabilities, seed):
    dropout = ModalityDropout({str(m): p for m, p in enumerate(probabilities)})
    there = dict.fromkeys(dropout.probability, True)
    kept = dropout.draw(there, 0, seed)
    assert any(kept.values())
    assert kept == dropout.draw(there, 0, seed)


def test_dropout_has_the_rates_that_it_says():
    probability = {"a": 0.5, "b": 0.3, "c": 0.0}
    there, draws = dict.fromkeys(("a", "b"), True), 1500
    dropout = ModalityDropout(probability, rise=4)
    for epoch, share in ((0, 0), (2, 0.5), (4, 1), (9, 1)):
        a, b = 0.5 * share, 0.3 * share
        wanted = {(True, True): (1 - a) * (1 - b), (False, True): a * (1 - b), (True, False): (1 - a) * b}
        found = Counter(tuple(dropout.draw(there, epoch, seed).values()) for seed in range(draws))
        total = sum(wanted.values())
        if share == 0:
            assert found == {(True, True): draws}
        else:
            counts = [found[key] for key in wanted]
            assert chisquare(counts, [draws * p / total for p in wanted.values()]).pvalue > 1e-3
            absent = (a - a * b) / (1 - a * b)
            assert found[False, True] / draws == pytest.approx(absent, abs=0.03)


def test_dropout_changes_nothing_else_of_a_sample(tmp_path):
    """If this breaks, two trainings that differ in it alone see other crops, too."""
    root = make_folder(tmp_path / "data", splits={"train": 4})
    settings = {"augment": Augment(), "modalities": ["rgb", "depth"]}
    plain = FolderDataset(root, "train", **settings)
    some = FolderDataset(root, "train", dropout=ModalityDropout({"rgb": 0.6, "depth": 0.6}), **settings)
    seen = set()
    for seed in range(12):
        one, other = plain[Draw(0, seed)], some[Draw(0, seed)]
        assert (target_of(one) == target_of(other)).all()
        for name, there in other["present"].items():
            assert (other["inputs"][name] == (one["inputs"][name] if there else 0)).all()
            assert there or not other["valid"][name].any()
        seen.add(tuple(other["present"].values()))
    assert len(seen) == 3
    assert "present" not in some[0]


@pytest.mark.parametrize(
    ("probability", "message"),
    [
        ({"rgb": 1.0}, "'rgb' would be absent from every sample"),
        ({"rgb": -0.1}, "expected a probability from 0 up to but not 1 for each"),
        ({"lidar": 0.5}, "data.dropout.probability: unknown modality 'lidar'"),
    ],
)
def test_dropout_that_cannot_be_is_refused(tmp_path, probability, message):
    root = make_folder(tmp_path / "data")
    with pytest.raises(ConfigError, match=message):
        FolderData(str(root), ["rgb", "depth"], dropout=ModalityDropout(probability)).setup("fit")


def test_translation_refuses_dropout(tmp_path):
    task = Translation()
    task.trainer = type("Trainer", (), {"datamodule": FolderData("rooms", target="depth")})
    task.trainer.datamodule.dropout = ModalityDropout({"rgb": 0.5})
    task.trainer.datamodule.setup("validate")
    with pytest.raises(ConfigError, match=r"data\.dropout, optional modalities: a discriminator compares"):
        task.configure_model()


@pytest.fixture
def sparse(tmp_path):
    """A data set in which some samples lack depth, and one of the training has depth alone."""
    root = make_folder(tmp_path / "data", size=(16, 24), splits={"train": 6, "val": 4}, modalities=["rgb", "depth"])
    edit(root, lambda content: [part.update(optional=True) for part in content["modalities"].values()])
    keys = {split: (root / "splits" / f"{split}.txt").read_text().split() for split in ("train", "val")}
    for key in (*keys["train"][:2], keys["val"][0]):
        next((root / "depth").glob(f"{key}.*")).unlink()
    next((root / "rgb").glob(f"{keys['train'][2]}.*")).unlink()
    return root, keys


def test_a_data_set_may_lack_files(sparse):
    root, keys = sparse
    dataset = FolderDataset(root, "train")
    first, third = dataset[0], dataset[2]
    assert first["present"] == {"rgb": True, "depth": False}
    assert third["present"] == {"rgb": False, "depth": True}
    assert first["inputs"]["depth"].shape == (1, 16, 24)
    assert not first["valid"]["depth"].any()
    assert third["inputs"]["rgb"].shape == (3, 16, 24)
    assert [defect.problem for defect in check(root) if "lack" in defect.problem] == [
        f"1 of 6 samples lack rgb: {keys['train'][2]}",
        f"2 of 6 samples lack depth: {keys['train'][0]}, {keys['train'][1]}",
        f"1 of 4 samples lack depth: {keys['val'][0]}",
    ]


def test_a_split_of_whole_samples_has_no_gaps_whatever_is_declared(sparse):
    """If this breaks, what wants complete scenes refuses those that are."""
    root, keys = sparse
    (root / "splits" / "val.txt").write_text("".join(f"{key}\n" for key in keys["val"][1:]))
    assert FolderDataset(root, "train").gaps
    whole = FolderDataset(root, "val")
    assert not whole.gaps
    assert "present" not in whole[0]


def test_who_is_there_is_not_asked_of_a_device(sparse):
    """If this breaks, a GPU is waited for in every step."""
    data = FolderData(str(sparse[0]), batch_size=2)
    data.setup("fit")
    moved = data.transfer_batch_to_device(next(iter(data.val_dataloader())), torch.device("meta"), 0)
    assert moved["inputs"]["rgb"].is_meta
    assert not moved["present"]["rgb"].is_meta


def test_what_is_not_declared_is_still_missing(sparse):
    root, keys = sparse
    edit(root, lambda content: content["modalities"]["depth"].update(optional=[keys["train"][0], keys["val"][0]]))
    with pytest.raises(DataError, match=f"no file for the key '{keys['train'][1]}'"):
        FolderDataset(root, "train")
    edit(root, lambda content: content["modalities"]["depth"]["optional"].append(keys["train"][1]))
    assert [FolderDataset(root, "train")[n]["present"]["depth"] for n in (0, 1, 2)] == [False, False, True]
    edit(root, lambda content: content["modalities"]["depth"].update(optional=["nowhere"]))
    with pytest.raises(DataError, match=r"modalities\.depth\.optional: no split lists 'nowhere'"):
        FolderDataset(root, "train")


def test_a_sample_without_any_modality_is_refused(sparse):
    root, keys = sparse
    next((root / "rgb").glob(f"{keys['train'][0]}.*")).unlink()
    with pytest.raises(DataError, match=f"the sample '{keys['train'][0]}' of the split 'train' has none of rgb, depth"):
        FolderDataset(root, "train")
    assert any("has none of the modalities" in defect.problem for defect in check(root) if not defect.note)


def test_what_cannot_do_with_gaps_is_refused_before_a_training(sparse):
    root, _ = sparse
    task = Segmentation(fusion=Aggregation("concat"))
    task.trainer = type("Trainer", (), {"datamodule": FolderData(str(root), batch_size=2)})
    task.trainer.datamodule.setup("fit")
    with pytest.raises(ConfigError, match=r"samples lack modalities .* 'aggregation' cannot do with"):
        task.configure_model()


def test_a_run_on_such_data_scores_each_prediction_on_what_it_had(sparse, tmp_path, capsys):
    root, _ = sparse
    out = fit(
        [
            *(f"--config={recipe('folder')}", f"--data.root={root}", f"--trainer.default_root_dir={tmp_path / 'run'}"),
            *("--data.batch_size=6", "--data.eval_batch_size=2", "--trainer.max_epochs=1"),
            "--model.network_args={stem: 4, widths: [4, 4], decoder: 4}",
        ]
    )
    scores = json.loads((out / "scores.val.json").read_text())
    assert scores["lacking"] == {"rgb": 0, "depth": 1}
    assert scores["samples"] == 4
    net = checkpoint.load(out)
    counts = SegmentationScores(["rgb", "depth", "ensemble"], len(scores["classes"]))
    for scene in FolderDataset(root, "val", inputs=described(checkpoint.read_config(out)["metadata"])[0]):
        there = {name: scene["inputs"][name][None] for name, has in scene["present"].items() if has}
        with torch.no_grad():
            said = net(there, subset=True)
        for name, logits in {**said.per_modality, "ensemble": said.ensemble}.items():
            counts.update(name, logits, target_of(scene)[None])
    for name, figures in counts.compute().items():
        assert scores["predictions"][name]["mean_iou"] == pytest.approx(figures["mean_iou"], abs=0.2)
    page = html.unescape((out / "report.html").read_text())
    assert "A modality that a scene lacks has no picture." in page
    for key, depth in zip(
        sparse[1]["val"], (0, 1, 1, 1), strict=True
    ):  # none that nothing predicted, and no errors of it
        for words in ("depth", "prediction of depth", "errors of depth"):
            assert page.count(f'alt="{key}: {words}') == depth
        assert f'alt="{key}: prediction of rgb' in page
    said = "1 without depth: a modality's own scores are of the scenes that have it"
    assert said in page
    validate(out, "val", str(root))
    assert said in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"scenes of 'val' lack modalities"):
        validate(out, "val", str(root), subsets="all")
