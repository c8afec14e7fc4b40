"""Scores of predicted images, each computed once over a whole set.

Ranges: predictions and targets come as -1..1, the range of the target's values; every score is taken on 0..1, so MAE
and MSE are shares of that range and of its square, and PSNR and SSIM have the data range 1.

Where a target has no truth, the prediction counts as right: the pixel is in no mean, and both images show the same to
the feature extractor. An image without any truth is in no score.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance
from torchmetrics.utilities import dim_zero_cat

from polymodal.errors import DataError
from polymodal.metrics.base import PredictionScores
from polymodal.scores import OF_FEATURES, OF_PIXELS, Score

KID_SUBSETS, KID_SUBSET = 100, 1000
FINEST_MSE = (1 / 510) ** 2  # of half a grey level of 8 bits, as much as rounding may be off
SSIM_WINDOW = 11  # pixels that the Gaussian with σ 1.5 reaches


class ImageScores(PredictionScores):
    """Pixel errors and distances between distributions, per named prediction, accumulated over a set.

    The scores of `compute`, where "lite0" stands for the extractor's name:

    - MAE, MSE: mean over all pixels with truth, of the whole set.
    - PSNR (dB), SSIM: mean over images, as is usual. No image counts as closer than half a grey level of 8 bits, an MSE
      of (1/510)² and 54.15 dB: a perfect one, such as an all-black target, would make the mean infinite. SSIM (Wang et
      al. 2004) with a Gaussian window of 11×11, σ 1.5.
    - FID[lite0] (Heusel et al. 2017): |μ - μ'|² + tr(Σ + Σ' - 2 √(ΣΣ')), from means and covariances of the features.
      It grows as images get fewer; compare it at equal numbers only.
    - KID[lite0] (Bińkowski et al. 2018): unbiased squared MMD with the kernel (x·y / D + 1)³, mean over 100 random
      subsets of 1000 images, the same ones every time; of a set of up to 1000 images, once over all of them. Papers
      print it times 100.

    With `stretched` every image, predicted or true, is first stretched to its own minimum and maximum (of all its
    channels, where there is truth; one without contrast becomes black), as the released code of channel exchanging does
    before it scores. All names then say so, as in "MAE[stretched]" and "FID[lite0, stretched]": such scores hide errors
    of brightness.

    Args:
        names: The predictions that are scored, for example the modalities and "ensemble".
        extractor: See `polymodal.metrics.features`; None for no FID and KID.
        stretched: Whether images are stretched before they are scored.
    """

    def __init__(self, names: Sequence[str], extractor: nn.Module | None, *, stretched: bool = False) -> None:
        super().__init__(names)
        self.stretched = stretched
        # In a tuple, as a submodule's weights would be trained and saved with the model that is scored.
        self._extractor = (extractor,)
        for index in range(len(names)):  # a prediction may have a name that no attribute can have
            for state in ("sums", "true", "predicted"):
                self.add_state(f"{state}_{index}", [], dist_reduce_fx="cat")
        # The pictures that were looked at last, and their features, of either side.
        self._seen: dict[str, tuple[Tensor, Tensor]] = {}

    def update(self, name: str, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            name: The prediction that is counted, one of `names`.
            prediction: (B, C, H, W), -1 to 1; what lies beyond counts as the end.
            target: Truth of the same shape and range.
            valid: bool (B, 1, H, W): where there is truth; everywhere when None.

        Raises:
            DataError: The shapes differ, the prediction is not finite, or the images cannot be scored by SSIM or the
                extractor.
        """
        self._check(name, prediction, target)
        known = torch.ones_like(target[:, :1], dtype=torch.bool) if valid is None else valid
        kept = known.flatten(1).any(1)
        of_images = torch.zeros(6, len(kept), device=target.device)  # an image without truth adds nothing
        if not kept.any():
            self.note_samples(name, self._ratios(of_images))
            return
        known = known[kept]
        # Where there is no truth, a target may hold anything, such as NaN, which a weight of 0 would not take away.
        truth = (target[kept].float().clamp(-1, 1) + 1) / 2
        truth = torch.where(known | truth.isfinite(), truth, 0)
        image = (prediction[kept].float().clamp(-1, 1) + 1) / 2
        if self.stretched:
            truth, image = _stretch(truth, known), _stretch(image, known)
        image = torch.where(known, image, truth)
        with torch.autocast(image.device.type, enabled=False):
            of_images[0, kept], of_images[1:, kept] = 1.0, self._sums(image, truth, known)
            features = self._features(image, truth)
        index = self.names.index(name)
        # The turn tells where a batch stands among those of all processes, which torchmetrics counts.
        turn = torch.tensor([self.update_count, len(truth)], device=truth.device)
        sums = torch.stack([values.sum() for values in of_images[1:, kept]])
        getattr(self, f"sums_{index}").append(torch.cat([turn, sums]))
        self.note_samples(name, self._ratios(of_images))
        for side, found in features.items():
            getattr(self, f"{side}_{index}").append(found.flatten())

    @property
    def scored(self) -> list[Score]:
        """What `compute` gives of each prediction; without an extractor there is no FID and no KID."""
        marks = ["stretched"] if self.stretched else []
        scores = [score.measured(_marks(*marks)) for score in OF_PIXELS]
        if (extractor := self._extractor[0]) is not None:
            scores += [score.measured(_marks(str(extractor.name), *marks)) for score in OF_FEATURES]
        return scores

    def compute(self) -> dict[str, dict[str, Any]]:
        """The scores of every prediction over all that was counted since `reset`, over all processes.

        Raises:
            DataError: Nothing was counted, or a single image, which has no covariance.
        """
        return {name: self._figures(index) for index, name in enumerate(self.names)}

    def reset(self) -> None:
        """Forget what was counted."""
        super().reset()
        self._seen = {}

    def _check(self, name: str, prediction: Tensor, target: Tensor) -> None:
        if prediction.shape != target.shape:
            raise DataError(
                f"{name}: expected a prediction of the target's shape {tuple(target.shape)}, "
                f"got {tuple(prediction.shape)}. Resize it to the target's size before it is scored."
            )
        if not prediction.isfinite().all():
            raise DataError(f"{name}: the prediction holds NaN or infinite values, which no score can count.")
        if min(target.shape[-2:]) < SSIM_WINDOW:
            raise DataError(
                f"images of {target.shape[-1]}x{target.shape[-2]} (width x height) are smaller than the window of "
                f"SSIM, {SSIM_WINDOW}x{SSIM_WINDOW}; score larger ones."
            )
        if self._extractor[0] is not None and target.shape[1] not in (1, 3):
            raise DataError(
                f"FID and KID need images of 1 or 3 channels, got {target.shape[1]}. Score them without an extractor."
            )

    def _sums(self, image: Tensor, truth: Tensor, known: Tensor) -> Tensor:
        """Of each image (5, B): values with truth, and over these errors and their squares; PSNR and SSIM."""
        weight = known.expand_as(truth).float()
        pixels = weight.flatten(1).sum(1)

        def means(values: Tensor) -> Tensor:
            return (values * weight).flatten(1).sum(1) / pixels

        error = (image - truth).abs()
        squares = means(error.square())
        _, similarity = structural_similarity_index_measure(
            image, truth, data_range=1.0, reduction=None, return_full_image=True
        )
        psnr = -10 * squares.clamp(min=FINEST_MSE).log10()
        return torch.stack([pixels, means(error) * pixels, squares * pixels, psnr, means(similarity)])

    def _ratios(self, of_images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """MAE, MSE, PSNR and SSIM from (6, B): 1 for an image that counts, then `_sums`."""
        images, pixels, *above = of_images[..., None]
        below = (pixels, pixels, images, images)
        return {score.key: (a, b) for score, a, b in zip(self.scored, above, below, strict=False)}

    def _features(self, image: Tensor, truth: Tensor) -> dict[str, Tensor]:
        extractor = self._extractor[0]
        if extractor is None:
            return {}
        extractor.to(image.device)
        # Every prediction of a batch is held against the same truth, and the ensemble of a single modality is that
        # modality's image again: what was just looked at is not looked at again.
        for side, images in (("true", truth), ("predicted", image)):
            pictures = _pictures(images)
            seen = self._seen.get(side)
            if seen is None or not torch.equal(seen[0], pictures):
                self._seen[side] = (pictures, extractor(pictures))
        return {side: features for side, (_, features) in self._seen.items()}

    def _figures(self, index: int) -> dict[str, float]:
        sums = _joined(getattr(self, f"sums_{index}")).view(-1, 7)
        if not len(sums):
            raise DataError(f"{self.names[index]}: no image with truth was seen, so there is nothing to score")
        counts = sums[:, 1].int().tolist()
        # In the order in which one process would have come to them.
        turns = sums[:, 0].argsort(stable=True).tolist()
        images, pixels, error, squares, psnr, similarity = sum((sums[turn, 1:] for turn in turns), torch.zeros(6))
        figures = [error / pixels, squares / pixels, psnr / images, similarity / images]
        if self._extractor[0] is not None:
            features = (_joined(getattr(self, f"{side}_{index}")) for side in ("predicted", "true"))
            blocks = (found.view(sum(counts), -1).split(counts) for found in features)
            predicted, true = (torch.cat([found[turn] for turn in turns]).double() for found in blocks)
            figures += [frechet_distance(predicted, true), kernel_distance(predicted, true)]
        return {score.key: float(figure) for score, figure in zip(self.scored, figures, strict=True)}


def frechet_distance(predicted: Tensor, true: Tensor) -> float:
    """FID of two sets of features, by torchmetrics in their own precision.

    Args:
        predicted: (N, D), on the CPU.
        true: Likewise.

    Raises:
        DataError: Fewer than two images.
    """
    _check_number(predicted, true, "FID")
    both = torch.cat([predicted, true])
    if len(both) < both.shape[1]:
        # So few images span a part of the feature space alone. In coordinates of that part, which are a rotation away,
        # the distance is the same and the root of its covariances takes a fraction of the time.
        basis = torch.linalg.qr(both.T).Q
        predicted, true = predicted @ basis, true @ basis
    metric = FrechetInceptionDistance(_Given(true.shape[1]))
    metric.update(true, real=True)
    metric.update(predicted, real=False)
    return metric.compute().item()


def kernel_distance(predicted: Tensor, true: Tensor) -> float:
    """KID of two sets of features, by torchmetrics in their own precision.

    Args:
        predicted: (N, D), on the CPU.
        true: Likewise.

    Returns:
        The mean over 100 subsets of 1000 images, drawn alike every time; over all of them when there are no more, which
        is the same estimate without the drawing.

    Raises:
        DataError: Fewer than two images.
    """
    _check_number(predicted, true, "KID")
    fewest = min(len(predicted), len(true))
    subsets = KID_SUBSETS if max(len(predicted), len(true)) > KID_SUBSET else 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*save all extracted features")  # they are here already
        metric = KernelInceptionDistance(_Given(true.shape[1]), subsets=subsets, subset_size=min(KID_SUBSET, fewest))
    metric.update(true, real=True)
    metric.update(predicted, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return metric.compute()[0].item()


class _Given(nn.Identity):
    """The extractor of torchmetrics where the features are there already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def _check_number(predicted: Tensor, true: Tensor, score: str) -> None:
    fewest = min(len(predicted), len(true))
    if fewest < 2:
        raise DataError(f"{score} compares distributions and needs at least 2 images of each, got {fewest}.")


def _joined(state: list[Tensor] | Tensor) -> Tensor:
    """What was appended to a state, or came of it where several processes have put theirs together."""
    return dim_zero_cat(state).cpu() if len(state) else torch.zeros(0)


def _marks(*how: str) -> str:
    return f"[{', '.join(how)}]" if how else ""


def _stretch(images: Tensor, known: Tensor) -> Tensor:
    low = images.where(known, torch.inf).amin((1, 2, 3), keepdim=True)
    high = images.where(known, -torch.inf).amax((1, 2, 3), keepdim=True)
    return ((images - low) / torch.where(high > low, high - low, 1.0)).clamp(0, 1)


def _pictures(images: Tensor) -> Tensor:
    """(B, 1 or 3, H, W) from 0 to 1 as 8-bit images of three channels, as they would be saved."""
    return (255 * images).round().byte().expand(-1, 3, -1, -1)
