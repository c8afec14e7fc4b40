"""The loss is the papers' formula, and what is logged is what it says."""

import re
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from fixtures_data import target_of
from polymodal import fuse
from polymodal.errors import ConfigError, PolymodalError
from polymodal.fusion import Exchange, SiteState
from polymodal.metrics import SegmentationScores
from polymodal.models import create
from polymodal.nn import Prediction
from polymodal.runs.recorder import exchanged_shares
from polymodal.runs.trainer_settings import check_chosen
from polymodal.scores import OF_LABELS, Score
from polymodal.tasks import Segmentation
from polymodal.tasks.base import named_outputs
from polymodal.tasks.outputs import Labels
from polymodal.tasks.segmentation import AUXILIARY_WEIGHT

IGNORE = 255
CLASSES = 3


def task(**settings) -> Segmentation:
    """A task as a trainer sets it up, for two modalities."""
    data = SimpleNamespace(
        batch_size=2,
        num_classes=CLASSES,
        channels={"rgb": 3, "depth": 1},
        gaps=False,
        target=SimpleNamespace(name="target", ignore=IGNORE, classes=[f"class {i}" for i in range(CLASSES)]),
        class_frequencies=lambda: torch.tensor([0.75, 0.25, 0.0]),
    )
    vars(data).update(settings.pop("data", {}))
    small = {"stem": 4, "widths": (4, 4), "decoder": 4}
    made = Segmentation(network_args=small, fusion=Exchange(penalty=1e-3), stems="private", **settings)
    made._trainer = SimpleNamespace(datamodule=data, current_epoch=0, global_step=0)
    made._fabric = None
    made.configure_model()
    made.log = lambda *_, **__: None
    return made


def batch(size: int = 2) -> dict:
    target = torch.randint(0, CLASSES, (size, 12, 16))
    target[:, :3] = IGNORE
    inputs = {"rgb": torch.randn(size, 3, 12, 16), "depth": torch.randn(size, 1, 12, 16)}
    return {"inputs": inputs, "targets": {"target": target}, "key": [f"k{i}" for i in range(size)]}


def by_hand(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The mean of -w[y] log p[y] over the labelled pixels, weighted by w[y]."""
    total = norm = torch.tensor(0.0)
    for b, y, x in (target != IGNORE).nonzero().tolist():
        label = target[b, y, x]
        total = total - weight[label] * logits[b, :, y, x].log_softmax(0)[label]
        norm = norm + weight[label]
    return total / norm


def test_a_score_of_ones_own_chooses_the_checkpoint(monkeypatch):
    """If this breaks, a task is scored by its own score at the end alone, and the checkpoint is chosen by another."""
    worst = Score("worst", "worst IoU", "per cent", higher_is_better=True, digits=1)

    class Scores(SegmentationScores):
        scored = (*OF_LABELS, worst)

    class Worst(Labels):
        name = "worst"

        def scores(self, names):
            return Scores(names, len(self.target.classes), self.target.ignore)

    monkeypatch.setattr(Segmentation, "predicts", Worst)
    made = task()
    assert "val/worst/ensemble" in made.logged()
    check_chosen(made)
    monkeypatch.setattr(Segmentation, "chosen_by", "wrost")
    with pytest.raises(ConfigError, match="there is no score 'wrost'; did you mean worst"):
        check_chosen(made)


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5]])
def test_the_loss_is_the_formula_with_weights_and_without_ignored_pixels(weights):
    made, given = task(class_weights=weights), batch()
    made.eval()
    prediction = made(given["inputs"])
    weight = torch.tensor(weights or [1.0] * CLASSES)
    logits = [*prediction.per_modality.values(), prediction.ensemble]
    expected = sum(by_hand(each, target_of(given), weight) for each in logits)
    assert torch.allclose(made.segmentation_loss(prediction, target_of(given)), expected, rtol=1e-5)
    step = made.training_step(given, 0)
    assert torch.allclose(step, expected + made.fused.fusion_loss(), rtol=1e-5)


def test_a_batch_without_a_labelled_pixel_costs_nothing_and_is_no_nan():
    made, given = task(), batch()
    loss = made.segmentation_loss(made(given["inputs"]), torch.full_like(target_of(given), IGNORE))
    assert loss.item() == 0
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in made.parameters())


def test_the_ensembles_loss_trains_its_weights_alone():
    """CEN detaches the predictions: the ensemble must not pull the branches towards each other."""
    made, given = task(), batch()
    logits = named_outputs(made(given["inputs"]), target_of(given).shape[-2:])
    F.cross_entropy(logits["ensemble"], target_of(given), ignore_index=IGNORE).backward()
    assert made.fused.ensemble.alpha.grad.abs().sum() > 0
    assert [name for name, p in made.fused.named_parameters() if p.grad is not None] == ["ensemble.alpha"]


def test_an_auxiliary_head_counts_with_its_weight_and_small_logits_are_resized():
    made, target = task(), target_of(batch())
    one, aux = torch.randn(2, CLASSES, 12, 16), torch.randn(2, CLASSES, 6, 8)
    with_aux = Prediction({"rgb": {"out": one, "aux": aux}}, {"out": one, "aux": aux}, torch.ones(1))
    without = Prediction({"rgb": one}, one, torch.ones(1))
    resized = F.interpolate(aux, size=(12, 16), mode="bilinear")
    expected = made.segmentation_loss(without, target) + AUXILIARY_WEIGHT * by_hand(
        resized, target, torch.ones(CLASSES)
    )
    assert torch.allclose(made.segmentation_loss(with_aux, target), expected, rtol=1e-5)


def test_sqrt_weights_fall_with_the_frequency_and_have_mean_1():
    weight = task(class_weights="sqrt").class_weight
    assert weight.mean().item() == pytest.approx(1)
    assert (weight[1] / weight[0]).item() == pytest.approx(3**0.5, rel=1e-4)
    assert weight.isfinite().all()


def test_class_weights_of_the_wrong_number_are_refused():
    with pytest.raises(ConfigError, match="class_weights: expected one for each of 3 classes of the data set, got 2"):
        task(class_weights=[1.0, 2.0])


def test_batch_size_1_is_refused_with_batch_statistics_and_taken_with_frozen_ones():
    with pytest.raises(ConfigError, match="batch size 1"):
        task(data={"batch_size": 1})
    assert task(data={"batch_size": 1}, statistics="frozen").net is not None


@pytest.mark.parametrize(("statistics", "remedy"), [("batch", ", or"), ("frozen", ", take the weights .*, or")])
def test_a_loss_that_is_not_finite_names_the_samples(statistics, remedy):
    made, given = task(statistics=statistics), batch()
    given["inputs"]["rgb"][0, 0, 0, 0] = torch.nan
    for step in (made.training_step, made.validation_step):
        wanted = rf"the loss is nan .*samples k0, k1\. .*data check\){remedy} .*lr"
        with pytest.raises(PolymodalError, match=wanted):
            step(given, 0)


def test_the_exchanged_share_is_of_the_channels_that_may_be_exchanged_over_all_sites():
    """Of 4 and 2 allowed channels, 1 and 2 exchanged: 3 of 6, not the mean of the two shares."""

    def site(allowed: list[int], exchanged: list[int]) -> SiteState:
        may, gone = torch.tensor([allowed]).bool(), torch.tensor([exchanged]).bool()
        return SiteState(scale=torch.ones(may.shape), keep=~gone, part=torch.zeros_like(may), allowed=may)

    states = {"a": site([1, 1, 1, 1], [1, 0, 0, 0]), "b": site([1, 1, 0, 0], [1, 1, 0, 0])}
    assert exchanged_shares(states, ("rgb",)) == {"rgb": pytest.approx(0.5)}
    assert exchanged_shares({}, ("rgb",)) == {}


@pytest.mark.parametrize(("value", "text"), [(1.0, "no channel is exchanged.*Raise"), (0.0, "every channel.*Lower")])
def test_a_useless_exchange_is_said_with_what_to_do(value, text):
    plain = create("rooms-unet", classes=2, stem=4, widths=(4, 4), decoder=4)
    net = fuse(plain, ["a", "b"], Exchange())
    with torch.no_grad():
        for scale in net.scales().values():
            scale.fill_(value)
    assert re.search(text, net.fusion.remark(net.exchange_state()))


def test_a_single_class_is_refused_before_anything_trains():
    """Else the first validation ends in an index error, an epoch later."""
    with pytest.raises(ConfigError, match=r"own: target: `classes` names one class"):
        task(data={"num_classes": 1, "root": "own"})
