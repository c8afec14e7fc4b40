"""The run folder: what lies in it under which name, and what is called how within these files.

Whoever writes a run and whoever reads it takes the names from here.
"""

CONFIG = "config.yaml"
"""All settings; with them the run can be made again."""
ENVIRONMENT = "environment.json"
"""Versions and machine."""
START = "start.json"
"""What was taken over from the model that the training started from, and what was not."""
METRICS = "metrics.csv"
"""A row for every epoch."""
SCALES = "scales.npz"
"""What a fusion decides by, epoch by epoch."""
SCENES = "samples.npz"
"""Some validation scenes with every prediction."""
PICTURES = "samples"
"""Pictures that a task keeps while it trains."""
REPORT = "report.html"
"""The page of it all, also of comparisons and demos."""

MODEL = "model"
"""The model folder within, which also stands alone."""
MODEL_CONFIG = "config.json"
MODEL_WEIGHTS = "model.safetensors"

CHECKPOINTS = "checkpoints"
BEST = f"{CHECKPOINTS}/best.ckpt"
LAST = f"{CHECKPOINTS}/last.ckpt"

NOT_ITS_OWN_ALONE = (CONFIG, CHECKPOINTS, MODEL, SCENES, SCALES, REPORT)
"""Names that a person may use for other things, too."""

EVERY_SCORES = "scores.*.json"
"""What finds all files of scores."""


def scores_file(split: str, *how: str) -> str:
    """The scores of a split; on other data or by another protocol, these are named, too."""
    return ".".join(("scores", split, *filter(None, how), "json"))


RELIABILITY = "reliability"
"""The key under which a file of scores says whether each prediction's confidence can be believed."""

TEMPERATURES = "temperatures"
"""What a model's metadata call those that `polymodal calibrate` fitted, by prediction."""

WITH = " + "
"""What stands between modalities in the name of a set of them."""


def subsets_file(scores: str) -> str:
    """The scores by every set of modalities, beside those of all of them."""
    return scores.removesuffix(".json") + ".subsets.json"


def corruptions_file(scores: str) -> str:
    """The scores with one modality corrupted at a time, beside those without."""
    return scores.removesuffix(".json") + ".corruptions.json"


def images_file(scores: str) -> str:
    """What every image adds to the scores of a file, beside it."""
    return scores.replace("scores.", "images.", 1).removesuffix(".json") + ".npz"


# Columns of METRICS.
TRAIN_LOSS, VAL_LOSS, PENALTY = "train/loss", "val/loss", "penalty"
VAL, EXCHANGED, WEIGHT = "val/", "exchanged/", "weight/"


def score_column(score: str, prediction: str) -> str:
    """The validation score of a prediction."""
    return f"{VAL}{score}/{prediction}"


def scored_in(column: str) -> str:
    """The inverse of `score_column`, without the prediction; empty for other columns."""
    return column.removeprefix(VAL).rpartition("/")[0] if column.startswith(VAL) else ""


# Arrays of SCENES, each with the name of a modality or a prediction, and of SCALES, each with that of a site.
INPUT, PREDICTION, PRESENT = "input:", "prediction:", "present:"
SCALE, KEEP, PART = "scale:", "keep:", "part:"
# Arrays of `images_file`, each with the key of a score and the name of a prediction, beside the keys of the images.
KEYS, ABOVE, BELOW = "keys", "above:", "below:"
