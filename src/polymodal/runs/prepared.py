"""A recipe made ready without being trained: its settings, its network and its data."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from polymodal.runs.training import RecipeCLI
from polymodal.tasks.base import Task


class Prepared(RecipeCLI):
    """A recipe with everything made that its training needs, and not trained."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Stop before the training."""

    @property
    def settings(self) -> dict[str, Any]:
        """All settings with their values, without those that differ from run to run."""
        # In JSON's types, as they come back from comparison.json.
        settings: dict[str, Any] = json.loads(json.dumps(self.config["fit"].as_dict(), default=str))
        for own in ("config", "seed_everything", "ckpt_path"):
            settings.pop(own, None)
        settings["trainer"].pop("default_root_dir")
        return settings


def built(recipe: Mapping[str, Any], data: dict[str, Any]) -> tuple[Task, Any]:
    """The task of a recipe with its network, and its data.

    Args:
        recipe: All settings.
        data: What is read already, by its settings: recipes that read the same share it, and the class frequencies that
            were counted.
    """
    prepared = Prepared(["--config", yaml.safe_dump(recipe)])
    shared = data.setdefault(json.dumps(recipe["data"]), prepared.datamodule)
    prepared.build(shared)
    return prepared.model, shared
