"""After a training: the best model is kept as a folder and scored, and the page is written."""

from typing import TYPE_CHECKING

from polymodal.run_folder import BEST, MODEL, REPORT
from polymodal.runs.averaging import holds_average
from polymodal.runs.checkpoints import read_checkpoint
from polymodal.runs.evaluation import remove_scores_of_others, save_model, score_split, write_scenes
from polymodal.runs.loggers import log_scores
from polymodal.runs.scored import scored_parts
from polymodal.runs.tested import Tested, name_of_split, split_of, trained

if TYPE_CHECKING:
    from polymodal.runs.training import RecipeCLI


def finish(cli: "RecipeCLI") -> None:
    """Keep the best model as a folder, score it on the splits there are, write scenes and report."""
    from polymodal.report import write_report

    folder, model, data = cli.folder, cli.model, cli.datamodule
    best = folder / BEST
    selected_on = None
    averaged = holds_average(cli.trainer, model)
    if averaged is False:
        print("the training ended before StochasticWeightAveraging did: the model holds no average")
    if averaged:
        print("the averaged weights are kept, as they are at the end: no validation chose among them")
    elif ended_best(cli):
        selected_on = name_of_split(data, data.val_split)
    elif best.is_file():
        model.load_state_dict(read_checkpoint(best)["state_dict"])
        selected_on = name_of_split(data, data.val_split)
    else:
        print("the training ended before its first validation: the model is kept as it is at the end")
    unseen = cli.recorder.epochs_since_validation()
    if selected_on and unseen:
        print(f"the training ended {unseen} epoch(s) after its last validation: what they learned is not in the model")
    splits = ("train", *(split_of(data, split) for split in cli.scored))
    facts = {
        "seconds": round(cli.recorder.seconds, 1),
        "epochs": len(cli.recorder.rows),
        "seed": int(cli._get(cli.config, "seed_everything")),
        "data_set": data.description.name,
        "identities": {name: data.identity(name) for name in splits},
        "selected_on": selected_on,
        **model.output_settings,
    }
    # In the precision that it is scored in and predicts with, whatever it was trained in.
    save_model(model.fused.float(), model.network, model.arguments, data, facts, folder / MODEL)
    remove_scores_of_others(folder)
    cli.recorder.write_scales(model.fused)
    limits = scored_parts(cli.trainer)
    lines = cli._get(cli.config, "trainer")["enable_progress_bar"] is not False
    net = trained(folder / MODEL)
    scores = [
        score_split(Tested(folder / MODEL, data, split, net=net), folder, limits[split], lines) for split in cli.scored
    ]
    log_scores(cli.trainer.loggers, scores, cli.trainer.global_step)
    write_scenes(Tested(folder / MODEL, data, "val", net=net), folder)
    if scores:
        print(f"report: {write_report([folder], folder / REPORT)}")
    else:
        print(f"nothing was scored, as the limits say; score the model with: polymodal validate {folder}")


def ended_best(cli: "RecipeCLI") -> bool:
    """Whether the training ended within an epoch, was validated there, and the model is the best as it is.

    best.ckpt is of whole epochs, as whoever continues the training needs it.
    """
    if cli.trainer.is_last_batch or not cli.recorder.rows:
        return False
    score, best = cli.recorder.rows[-1].get(str(cli.best.monitor)), cli.best.best_model_score
    if score is None or best is None:
        return score is not None
    return score > float(best) if cli.best.mode == "max" else score < float(best)
