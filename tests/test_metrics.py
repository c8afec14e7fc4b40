"""Scores must be those of the literature: the IoU of all pixels of a set, counted in one confusion matrix."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchmetrics.utilities import dim_zero_cat

from polymodal.errors import DataError
from polymodal.metrics import ImageScores, SegmentationScores
from polymodal.metrics.largest import largest

IGNORE = 255


def plain_scores(prediction: np.ndarray, target: np.ndarray, classes: int) -> dict:
    """The definitions, pixel by pixel and class by class, without a confusion matrix."""
    known = target != IGNORE
    p, t = prediction[known], target[known]
    ious, accuracies, weighted = [], [], 0.0
    for c in range(classes):
        both, either = np.sum((p == c) & (t == c)), np.sum((p == c) | (t == c))
        ious.append(100 * both / either if either else None)
        if np.any(t == c):
            accuracies.append(100 * both / np.sum(t == c))
            weighted += np.mean(t == c) * ious[-1]
    return {
        "pixel_accuracy": 100 * np.mean(p == t),
        "mean_accuracy": np.mean(accuracies),
        "mean_iou": np.mean([iou for iou in ious if iou is not None]),
        "frequency_weighted_iou": weighted,
        "iou": ious,
    }


def assert_scores(given_scores: dict, expected: dict) -> None:
    assert given_scores.keys() == expected.keys()
    for key, value in expected.items():
        assert given_scores[key] == pytest.approx(value, abs=1e-9), key


def count(*batches: tuple[np.ndarray, np.ndarray], classes: int, ignore: int = IGNORE) -> dict:
    scores = SegmentationScores(["a"], classes, ignore)
    for prediction, target in batches:
        scores.update("a", torch.from_numpy(prediction), torch.from_numpy(target))
    return scores.compute()["a"]


@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_scores_are_the_definitions_with_ignored_pixels_and_absent_classes(seed, classes):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, rng.integers(1, classes + 1), (3, 5, 7))
    prediction = rng.integers(0, rng.integers(1, classes + 1), (3, 5, 7))
    target[rng.random(target.shape) < 0.2] = IGNORE
    target[0, 0, 0] = 0
    assert_scores(count((prediction, target), classes=classes), plain_scores(prediction, target, classes))


def test_several_updates_are_one_whatever_the_batches():
    """Mean IoU over batches would depend on the batch size: figures could not be compared."""
    rng = np.random.default_rng(0)
    prediction, target = rng.integers(0, 3, (4, 6, 6)), rng.integers(0, 3, (4, 6, 6))
    target[2] = IGNORE
    whole = count((prediction, target), classes=3)
    parts = count(*((prediction[i : i + 1], target[i : i + 1]) for i in range(4)), classes=3)
    assert_scores(parts, whole)


def test_a_perfect_prediction_scores_100_and_an_absent_class_has_no_iou():
    target = np.array([[[0, 0, 2], [2, 2, IGNORE]]])
    prediction = np.where(target == IGNORE, 1, target)
    scores = count((prediction, target), classes=4)
    assert scores["iou"] == [100.0, None, 100.0, None]
    for key in ("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou"):
        assert scores[key] == pytest.approx(100.0)


def test_a_class_that_is_only_predicted_counts_with_iou_0():
    """Else a network that invents classes would not be punished."""
    target, prediction = np.zeros((1, 2, 2), int), np.array([[[0, 0], [0, 1]]])
    scores = count((prediction, target), classes=3)
    assert scores["iou"] == [pytest.approx(75.0), 0.0, None]
    assert scores["mean_iou"] == pytest.approx(37.5)
    assert scores["mean_accuracy"] == pytest.approx(75.0)


def test_an_ignored_class_costs_the_pixels_that_are_predicted_as_it_and_no_class():
    """Else one pixel called void, of which there is no truth, takes a whole class from the mean IoU."""
    target = np.array([[[0, 0, 1, 1], [2, 2, 2, 2]]])
    prediction = np.array([[[1, 0, 1, 0], [2, 2, 2, 2]]])
    scores = count((prediction, target), classes=3, ignore=0)
    assert scores["iou"] == [None, pytest.approx(50.0), pytest.approx(100.0)]
    assert scores["mean_iou"] == pytest.approx(75.0)


def test_logits_and_labels_are_counted_alike_and_predictions_apart():
    logits, target = torch.randn(2, 4, 5, 5), torch.randint(0, 4, (2, 5, 5))
    scores = SegmentationScores(["rgb", "ensemble"], 4, IGNORE)
    scores.update("rgb", logits, target)
    scores.update("ensemble", logits.argmax(1), target)
    result = scores.compute()
    assert result["rgb"] == result["ensemble"]
    scores.update("rgb", target, target)
    again = scores.compute()
    assert again["rgb"]["pixel_accuracy"] > result["rgb"]["pixel_accuracy"]
    assert again["ensemble"] == result["ensemble"]


def test_after_a_reset_an_epoch_counts_for_itself():
    target = torch.randint(0, 3, (1, 4, 4))
    scores = SegmentationScores(["a"], 3, IGNORE)
    scores.update("a", (target + 1) % 3, target)
    scores.reset()
    scores.update("a", target, target)
    assert scores.compute()["a"]["pixel_accuracy"] == 100


def test_a_name_that_no_attribute_can_have_is_scored():
    """Modalities are named by users: "near.ir" must not break the first validation."""
    scores = SegmentationScores(["near.ir", "train"], 2, IGNORE)
    scores.update("near.ir", torch.zeros(1, 2, 2, dtype=torch.long), torch.zeros(1, 2, 2, dtype=torch.long))
    scores.update("train", torch.zeros(1, 2, 2, dtype=torch.long), torch.ones(1, 2, 2, dtype=torch.long))
    assert {name: value["pixel_accuracy"] for name, value in scores.compute().items()} == {"near.ir": 100, "train": 0}


def test_a_data_set_without_ignored_labels_counts_every_pixel():
    scores = SegmentationScores(["a"], 2, None)
    scores.update("a", torch.tensor([[[0, 1]]]), torch.tensor([[[1, 1]]]))
    assert scores.compute()["a"]["pixel_accuracy"] == 50


def test_nothing_but_ignored_pixels_says_so_instead_of_nan():
    scores = SegmentationScores(["a"], 2, IGNORE)
    scores.update("a", torch.zeros(1, 2, 2, dtype=torch.long), torch.full((1, 2, 2), IGNORE))
    with pytest.raises(DataError, match=r"no labelled pixel was seen for a, .* Score other samples, or more of them"):
        scores.compute()


def test_what_cannot_be_counted_is_refused():
    """If this breaks, a diverged network scores as if it had predicted a class, and other shapes are counted anyhow."""
    scores = SegmentationScores(["x"], 3)
    with pytest.raises(DataError, match=r"x: expected labels of the target's shape \(1, 8, 8\), got \(4, 4, 4\)"):
        scores.update("x", torch.zeros(4, 4, 4).long(), torch.zeros(1, 8, 8).long())
    with pytest.raises(DataError, match="x: the prediction holds NaN"):
        scores.update("x", torch.full((1, 3, 8, 8), torch.nan), torch.zeros(1, 8, 8).long())


@pytest.mark.parametrize(
    ("prediction", "target", "wrong"),
    [(0, 3, "target of 3"), (4, 0, "prediction of 4"), (0, -1, "target of -1"), (-2, 0, "prediction of -2")],
)
def test_labels_of_no_class_are_refused_and_not_counted_as_another(prediction, target, wrong):
    """If this breaks, a label one row below is scored as a pixel of the next class, and no figure shows it."""
    scores = SegmentationScores(["x"], 3)
    labels = [torch.full((1, 2, 2), value) for value in (prediction, target)]
    with pytest.raises(DataError, match=f"x: expected classes from 0 to 2, got a {wrong}"):
        scores.update("x", *labels)
    scores.update("x", torch.tensor([[[1, 255]]]), torch.tensor([[[1, IGNORE]]]))
    assert scores.compute()["x"]["pixel_accuracy"] == 100, "without truth any label will do; what was refused is out"


def together(own, other) -> dict:
    """What a process computes that has `own`, where another one has `other`."""
    theirs = iter([dim_zero_cat(getattr(other, state)) for state in other._reductions if len(getattr(other, state))])
    own.dist_sync_fn = lambda tensor, group: [tensor, next(theirs)]
    own.distributed_available_fn = lambda: True
    return own.compute()


def test_the_scores_of_two_processes_are_those_of_one_to_the_bit():
    """If this breaks, a training on more GPUs chooses another checkpoint, or its scores are those of a part."""
    torch.manual_seed(0)
    batches = [(torch.rand(n, 3, 16, 16) * 2 - 1, torch.rand(n, 3, 16, 16) * 2 - 1) for n in (3, 1, 2, 3, 1)]
    known = [torch.rand(len(image), 1, 16, 16) > 0.3 for image, _ in batches]
    known[1][:] = False  # without any truth
    labels = [(image.argmax(1), target.argmax(1)) for image, target in batches]
    for make, set_of in (
        (lambda: ImageScores(["a.b", "ensemble"], Averages()), [(*b, k) for b, k in zip(batches, known, strict=True)]),
        (lambda: SegmentationScores(["a.b", "ensemble"], 3, IGNORE), labels),
    ):
        one, *dealt = make(), make(), make()
        for number, batch in enumerate(set_of):
            for scores in (one, dealt[number % 2]):
                for name in scores.names:
                    scores.update(name, *batch)
        assert together(*dealt) == one.compute()
        assert [score.key in one.compute()["a.b"] for score in one.scored] == [True] * len(one.scored)


class Averages(nn.Module):
    """An extractor that looks at colours."""

    name = "averages"

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([images.float().mean((2, 3)), images.float().std((2, 3))], 1)


@pytest.mark.parametrize("dim", [0, 1])
@given(values=st.lists(st.integers(-2, 2), min_size=24, max_size=24), classes=st.sampled_from([1, 2, 3, 4]))
def test_the_largest_class_is_the_first_of_the_largest_in_every_layout(dim, values, classes):
    scores = torch.tensor(values, dtype=torch.float32).view(classes, -1, 2).movedim(0, dim)
    for given_scores in (scores, scores.contiguous(), scores.movedim(dim, -1).contiguous().movedim(-1, dim)):
        best, labels = largest(given_scores, dim)
        assert np.array_equal(labels.numpy(), np.argmax(scores.numpy(), dim))
        assert np.array_equal(best.numpy(), np.max(scores.numpy(), dim))


def test_a_pixel_without_a_number_is_not_given_a_class_in_silence():
    scores = torch.rand(5, 3, 4)
    scores[2, 1, 1] = torch.nan
    best, _ = largest(scores, 0)
    assert best.isnan().nonzero().tolist() == [[1, 1]]
