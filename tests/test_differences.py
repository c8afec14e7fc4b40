"""Differences of methods: what is printed as ahead is ahead of chance, by images and by seeds, or it is not printed."""

import time

import numpy as np
import pytest
import torch

from polymodal.bootstrap import RESAMPLES, Ratios, drawn_images, drawn_seeds, interval, resampled
from polymodal.errors import ConfigError
from polymodal.metrics import ImageScores, SegmentationScores
from polymodal.report.comparison import Comparison, Row
from polymodal.report.comparison_page import to_html, to_markdown
from polymodal.run_folder import ABOVE, BELOW, KEYS, images_file
from polymodal.runs.differences import differences_of
from polymodal.scores import as_plain

CLASSES, FEW = 4, 12


def scored(labels, truth):
    """The scores of one run, and what its images add to them."""
    metric = SegmentationScores(["ensemble"], CLASSES)
    metric.keep_samples()
    for part in (slice(0, 3), slice(3, None)):
        if len(truth[part]):
            metric.update("ensemble", torch.from_numpy(labels[part]), torch.from_numpy(truth[part]))
    return metric


def truth_of(images=5):
    """Labels without the last class, and with pixels that are ignored."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, CLASSES - 1, (images, 6, 6))
    truth[rng.random(truth.shape) < 0.1] = 255
    return truth


def predicted(truth, right, seed):
    """Labels of which a share is right."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(truth.shape) < right, truth % 255, rng.integers(0, CLASSES, truth.shape))


def ratios(metrics, key="mean_iou"):
    sums = [metric.of_samples()[key, "ensemble"] for metric in metrics]
    return Ratios(*(torch.stack([one[side] for one in sums]).numpy() for side in (0, 1)))


def plain_bootstrap(runs, truth, key):
    """Draw images and seeds, lay the images together, score them as a set: the first few resamples, one by one."""
    images, seeds = np.concatenate(list(drawn_images(len(truth)))), drawn_seeds(len(runs))
    assert len(images) == len(seeds) == RESAMPLES
    for drawn, chosen in zip(images[:FEW], seeds[:FEW], strict=True):
        yield np.mean([scored(runs[seed][drawn], truth[drawn]).compute()["ensemble"][key] for seed in chosen])


@pytest.mark.parametrize("key", ["mean_iou", "pixel_accuracy", "mean_accuracy"])
def test_a_resample_is_scored_as_a_set_of_its_images_would_be(key):
    """If this breaks, intervals are those of a mean over images or over seeds laid together, which no table shows."""
    truth = truth_of()
    runs = [predicted(truth, 0.5, seed) for seed in range(2)]
    found = resampled(ratios([scored(run, truth) for run in runs], key))
    whole = [scored(run, truth).compute()["ensemble"] for run in runs]
    assert found[0, 0] == pytest.approx(np.mean([figures[key] for figures in whole]), abs=1e-9)
    np.testing.assert_allclose(found[1 : FEW + 1, 0], list(plain_bootstrap(runs, truth, key)), atol=1e-9)
    if key == "mean_iou":
        np.testing.assert_allclose(found[0, 1:], np.mean([figures["iou"] for figures in whole], 0), atol=1e-9)


def test_an_interval_is_of_paired_differences_and_knows_what_is_absent():
    """Unpaired, the spread of the images would hide what all of them agree on."""
    truth = truth_of(30)
    better, worse = (resampled(ratios([scored(predicted(truth, right, 7), truth)])) for right in (0.6, 0.5))
    found = interval(better, worse)
    differences = better[1:, 0] - worse[1:, 0]
    assert (found.low[0], found.high[0]) == tuple(np.percentile(differences, [2.5, 97.5]))
    assert found.value[0] == better[0, 0] - worse[0, 0]
    assert found.high[0] - found.low[0] < np.ptp(np.percentile(better[1:, 0], [2.5, 97.5]))
    same = interval(better, better)
    assert (same.low[0], same.value[0], same.high[0]) == (0, 0, 0)
    absent = Ratios(np.zeros((1, 3, 2)), np.ones((1, 3, 2)) * [1, 0])
    assert np.isnan(interval(resampled(absent), resampled(absent)).low).tolist() == [False, False, True]


def test_seeds_are_resampled_too():
    """If this breaks, what one lucky seed did is printed as what the method does."""
    above = np.stack([np.full((50, 1), value) for value in (60.0, 50.0, 40.0)])
    steady = np.full_like(above, 50.0)
    below = np.ones_like(above)
    found = interval(resampled(Ratios(above, below)), resampled(Ratios(steady, below)))
    assert (found.low[0], found.value[0], found.high[0]) == (-10, 0, 10)


def test_the_errors_of_images_add_up_to_their_scores():
    """If this breaks, translations have intervals of something else, or an image without truth has an error."""
    generator = torch.Generator().manual_seed(0)
    target, image = (2 * torch.rand(4, 3, 12, 14, generator=generator) - 1 for _ in "ab")
    valid = torch.rand(4, 1, 12, 14, generator=generator) > 0.3
    valid[2] = False
    metric = ImageScores(["ensemble"], None, stretched=True)
    metric.keep_samples()
    for part in (slice(0, 2), slice(2, 3), slice(3, 4)):
        metric.update("ensemble", image[part], target[part], valid[part])
    figures = metric.compute()["ensemble"]
    assert set(figures) == {key for key, _ in metric.of_samples()} == {score.key for score in metric.scored}
    for (key, _), (above, below) in metric.of_samples().items():
        assert (above.shape, below.shape) == ((4, 1), (4, 1))
        assert (above.sum() / below.sum()).item() == pytest.approx(figures[key], rel=1e-5)
        assert above[2] == below[2] == 0


def comparison(folder, shares, seeds=(0, 1, 2), images=40, **changed):
    """Methods of which shares of the pixels are right, as far as they are scored, and their files of scores."""
    truth, rows, files = truth_of(images), [], {}
    for name, share in shares.items():
        runs, files[name] = {}, {}
        for seed in seeds:
            metric = scored(predicted(truth, share, 10 * seed + len(name)), truth)
            runs[seed] = {
                "predictions": metric.compute(),
                "exchanged": {},
                "scores": as_plain(metric.scored),
                "classes": list("abcd"),
            }
            files[name][seed] = folder / name / f"seed-{seed}" / "scores.val.json"
            files[name][seed].parent.mkdir(parents=True)
            arrays = {KEYS: np.array([f"{changed.get(name, '')}{i}" for i in range(images)])}
            for (key, prediction), (above, below) in metric.of_samples().items():
                arrays |= {f"{ABOVE}{key}/{prediction}": above, f"{BELOW}{key}/{prediction}": below}
            np.savez(files[name][seed].with_name(images_file("scores.val.json")), **arrays)
        rows.append(Row(name, name.title(), "", runs))
    return Comparison("set", "val", ["rgb"], rows, {}, "{}"), files


def with_differences(folder, shares, reference, **settings):
    found, files = comparison(folder, shares, **settings)
    return Comparison(**{**vars(found), "differences": differences_of(found, reference, files)})


def test_ahead_and_behind_are_said_where_the_interval_excludes_0_and_nowhere_else(tmp_path):
    """The promise of the table."""
    found = with_differences(tmp_path, {"good": 0.8, "level": 0.5, "base": 0.5, "worse": 0.3}, "base")
    told = {name: found.differences.scores[name, "ensemble", "mean_iou"] for name in ("good", "level", "worse")}
    assert {name: one.verdict for name, one in told.items()} == {"good": "ahead", "level": "", "worse": "behind"}
    assert told["level"].low <= 0 <= told["level"].high
    assert told["good"].low > 0
    plain = found.differences.as_plain()["methods"]["worse"]
    assert (plain["seeds"], plain["images"]) == (3, 40)
    iou = plain["predictions"]["ensemble"]["mean_iou"]
    assert (iou["verdict"], iou["high"] < 0) == ("behind", True)
    assert iou["per_class"]["a"][3] == "behind"
    for text in (to_markdown(found), to_html(found)):
        assert text.count(found.differences.scores["good", "ensemble", "mean_iou"].text(found.score)) == 1
        assert "fewer than five seeds" in text
        assert "Against Base" in text
    assert to_html(found).count("class by class") == 1


def test_lower_is_better_turns_the_verdict():
    from polymodal.runs.differences import _told_apart
    from polymodal.scores import OF_PIXELS

    one = np.ones((RESAMPLES + 1, 1))
    assert [_told_apart(one * 0.1, one * 0.2, score)[0].verdict for score in (OF_PIXELS[0], OF_PIXELS[2])] == [
        "ahead",
        "behind",
    ]


def test_what_is_not_known_is_said(tmp_path):
    """A single seed, other images, a run of an earlier version: each is named, none is printed as a figure."""
    alone = with_differences(tmp_path / "a", {"good": 0.8, "base": 0.5}, "base", seeds=(0,))
    assert "Of one seed the images alone are resampled, and another may say otherwise: good." in to_markdown(alone)
    other = with_differences(tmp_path / "b", {"good": 0.8, "base": 0.5}, "base", good="x")
    assert other.differences.lacking == {"good": "it was scored on other images"}
    assert not other.differences.scores
    single = with_differences(tmp_path / "d", {"good": 0.8, "base": 0.5}, "base", seeds=(0,), images=1)
    assert "single image" in single.differences.lacking["good"], "else it is ahead for sure, by an interval of no width"
    found, files = comparison(tmp_path / "c", {"good": 0.8, "base": 0.5})
    (tmp_path / "c" / "good" / "seed-1" / "images.val.npz").unlink()
    lacking = differences_of(found, "base", files).lacking
    assert "seed 1 does not say what each image adds" in lacking["good"]


def test_sums_of_other_scores_are_refused(tmp_path):
    """If this breaks, an interval may be of another model than the figure beside it."""
    found, files = comparison(tmp_path, {"good": 0.8, "base": 0.5})
    (tmp_path / "base" / "seed-0" / "images.val.npz").replace(tmp_path / "good" / "seed-0" / "images.val.npz")
    with pytest.raises(ConfigError, match=r"good/seed-0/images.val.npz: mean_iou of ensemble is .* Remove both files"):
        differences_of(found, "base", files)


def test_a_large_comparison_takes_a_second():
    rng = np.random.default_rng(0)
    above, below = (rng.integers(0, 9000, (5, 200, 13)) for _ in "ab")
    begun = time.process_time()
    interval(resampled(Ratios(above, below)), resampled(Ratios(below, above)))
    assert time.process_time() - begun < 2
