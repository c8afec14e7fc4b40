"""A trained model as a function of images in memory: for cameras, notebooks and services."""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polymodal.anatomy import ByShapes, ghost
from polymodal.data import TargetSpec, resize_inputs
from polymodal.data.inputs import InputSpec, measures_nothing
from polymodal.data.resizing import aligned
from polymodal.errors import ConfigError, DataError
from polymodal.multimodal import Multimodal
from polymodal.runs.frames import as_stored
from polymodal.runs.opened import Opened
from polymodal.runs.parts import Thinned, predicted_parts, size_of, step_of
from polymodal.runs.predict import doubt_of, doubt_of_scaling, picture_of, read_scene
from polymodal.runs.predicted import Predicted, Stitched
from polymodal.runs.scenes import Scene
from polymodal.tasks.windows import Size, windows_of

STEPS = (2, 4, 8, 16, 32, 64, 128, 256)
"""Multiples to which a frame is resized for a network that does not take its own size, the first that it takes."""


@dataclass(frozen=True)
class _Frames:
    """Aligned frames of a scene, what they mean, and where each comes from, for messages."""

    raw: Mapping[str, np.ndarray]
    specs: Mapping[str, InputSpec]
    named: Mapping[str, str]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: array.shape for name, array in self.raw.items()}


class Predictor:
    """A trained model as a function: what cameras give in, a map out.

        predictor = polymodal.Predictor("runs/mine")
        predicted = predictor(rgb=frame, depth=millimetres)
        predicted["labels"], predicted["confidence"], predicted.arrays["rgb"]["labels"]

    Frames are normalised as the training's files were. They are aligned and of one size, whichever it is: where the
    network cannot take it, they are resized to the nearest that it can, and predictions back. Colours are red, green,
    blue: of OpenCV's frames give `frame[..., ::-1]`. Threads may share a predictor: they take turns in the network.

    Args:
        model: A run folder, a model folder, the name of a model that comes with the package, such as "nyudv2-39", a
            model on the Hugging Face Hub, `hf://user/name` or `hf://user/name@revision`, or a file that
            `polymodal export` wrote as ONNX.
        scales: By modality of kind depth or raw, how much one step of your numbers is in the model's unit, where that
            is not as in its training: `{"depth": 0.001}` for millimetres.
        window: Height and width of the parts in which a frame that is larger than one is predicted, a `Stitched`, with
            memory that does not grow with it beyond its arrays; see `polymodal.tasks.windows.blended`.
        stride: From one window to the next; two thirds of it if not given.
        certainty: Whether predictions in windows have maps of certainty, 4 bytes a pixel each.

    Raises:
        CheckpointError: The model cannot be used.
        ConfigError: A scale is none, or belongs to no modality that has one, or the windows cannot work.
        ExportError: A package that runs exported files is missing.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        scales: Mapping[str, float] | None = None,
        window: Size | None = None,
        stride: Size | None = None,
        certainty: bool = False,
    ) -> None:
        self._windows = windows_of(window, stride)
        self._certainty = certainty
        self._opened = Opened(Path(model), scales)
        self._taken: dict[tuple[tuple[str, ...], Size], Size] = {}
        self._doubted: set[tuple[str, bool]] = set()

    @property
    def modalities(self) -> dict[str, InputSpec]:
        """What the model takes, and what the values of each mean."""
        return dict(self._opened.specs)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by class number; empty for a model that predicts images.

        Raises:
            ConfigError: It predicts several targets.
        """
        targets = self._opened.output.targets
        if len(targets) > 1:
            raise ConfigError(f"the model predicts {', '.join(targets)}: each has classes of its own, see `targets`.")
        return next(iter(targets.values())).classes

    @property
    def targets(self) -> dict[str, TargetSpec]:
        """What the model predicts, and what the values of each mean."""
        return self._opened.output.targets

    @cached_property
    def network(self) -> Multimodal | None:
        """The network itself; None of an exported file."""
        return None if self._opened.session is not None else self._opened.network

    def __call__(self, **frames: Any) -> Predicted:
        """Predict one scene.

        Args:
            **frames: By modality, arrays (H, W), (H, W, C) or (C, H, W), tensors of these shapes, or Pillow images, in
                the numbers of the training's files: colours in uint8 or uint16 or from 0 to 1, depth in uint16, floats
                and the like. From a model folder, some of the modalities are enough.

        Returns:
            What is predicted, at the frames' size: of all modalities together `predicted["labels"]`, class numbers
            (H, W), or `predicted["values"]` of an image, (H, W, C); `predicted.arrays` has all arrays of each one, too.

        Raises:
            ConfigError: The model has no such modality, or cannot do without one.
            DataError: A frame is none that the model was trained for.
        """
        return next(self.many([frames]))

    def read(self, **files: str | os.PathLike[str]) -> Predicted:
        """Predict one scene from files, each read as `polymodal predict` reads it.

        Args:
            **files: By modality, PNG, JPEG, TIFF or npy.

        Returns:
            As for frames.

        Raises:
            ConfigError: As for frames.
            DataError: A file is missing, cannot be read, or is none that the model was trained for.
        """
        given = self._given(files)
        scene = Scene("", {name: Path(files[name]) for name in given})
        raw, specs = read_scene(scene, given, by_rows=self._windows is not None)
        if self._windows and self._windows.cover(size_of(raw)):
            raw = {name: array[:, :, :] for name, array in raw.items()}  # unpacked, all of it
        named = {name: str(files[name]) for name in given}
        for name, file in named.items():
            for doubt in (doubt_of_scaling(specs[name], given[name], file), doubt_of(raw[name], specs[name], file)):
                if doubt:
                    warnings.warn(doubt, stacklevel=2)
        return next(self._predicted([_Frames(raw, specs, named)]))

    def many(self, scenes: Iterable[Mapping[str, Any]], *, batch: int = 1) -> Iterator[Predicted]:
        """Predict scenes in turn, those of one size and the same modalities that follow one another together.

        Args:
            scenes: Frames by modality, as for one.
            batch: How many at a time; more than one pays on a GPU.

        Raises:
            ConfigError: As for one, or the batch is no number of scenes.
            DataError: As for one.
        """
        if type(batch) is not int or batch < 1:
            raise ConfigError(f"batch: expected a whole number of scenes above 0, got {batch!r}.")
        waiting: list[_Frames] = []
        for frames in scenes:
            scene = self._inputs(frames)
            if waiting and scene.shapes != waiting[0].shapes:
                yield from self._predicted(waiting)
                waiting = []
            waiting.append(scene)
            if len(waiting) == batch:
                yield from self._predicted(waiting)
                waiting = []
        yield from self._predicted(waiting)

    def _inputs(self, frames: Mapping[str, Any]) -> _Frames:
        """The frames of a scene in the model's order, aligned."""
        specs = self._given(frames)
        named = {name: name for name in specs}
        raw = aligned({name: as_stored(frames[name], specs[name], name) for name in specs}, specs, named)
        for name in specs:
            if doubt := doubt_of(raw[name], specs[name], name):
                said = name, measures_nothing(raw[name], specs[name])
                if said not in self._doubted:  # once, not with every frame
                    warnings.warn(doubt, stacklevel=4)
                self._doubted.add(said)
        return _Frames(raw, specs, named)

    def _given(self, scene: Mapping[str, Any]) -> dict[str, InputSpec]:
        """What the modalities of a scene mean, in the model's order."""
        self._opened.check_names(scene, subset=True, how_absent="Give at least one.")
        return {name: spec for name, spec in self._opened.specs.items() if name in scene}

    def _predicted(self, scenes: Sequence[_Frames]) -> Iterator[Predicted]:
        """Scenes of one shape, together; in windows, one after the other."""
        if not scenes:
            return
        size = size_of(scenes[0].raw)
        if self._windows and not self._windows.cover(size):
            yield from map(self._stitched, scenes)
            return
        taken = self._resized(scenes[0].specs, size)
        prepared = [resize_inputs(scene.raw, scene.specs, scene.named, taken)[0] for scene in scenes]
        images = {name: torch.stack([inputs[name] for inputs in prepared]) for name in prepared[0]}
        found = self._opened.predict(images, size, subset=True)
        for i, scene in enumerate(scenes):
            own = {name: scores[i] for name, scores in found.items()}
            picture = picture_of(scene.raw, scene.specs)
            yield Predicted(own, picture, self._opened.output, self._opened.temperatures)

    def _stitched(self, scene: _Frames) -> Stitched:
        """A scene in windows."""
        opened, size = self._opened, size_of(scene.raw)
        step = step_of(size)
        kept: dict[str, dict[str, Thinned]] = {}
        shown: dict[tuple[str, str], tuple[str, Thinned]] = {}
        takes = partial(self._resized, scene.specs)
        for part, scores in predicted_parts(opened, scene.raw, scene.specs, scene.named, self._windows, takes):
            sure = opened.output.certainty(scores, opened.temperatures) if self._certainty else {}
            for name, one in scores.items():
                for what, values in (opened.output.arrays(one) | sure.get(name, {})).items():
                    kept.setdefault(name, {}).setdefault(what, Thinned(size)).put(part, values)
                for target, own in opened.output.split(one).items():
                    ending, pixels = list(opened.output.parts[target].pixels(own).items())[-1]
                    shown.setdefault((target, name), (ending, Thinned(size, step)))[1].put(part, pixels)
        arrays = {name: {what: whole.array for what, whole in own.items()} for name, own in kept.items()}
        pictures = {of: (ending, pixels.array) for of, (ending, pixels) in shown.items()}
        picture = picture_of({name: array[:, ::step, ::step] for name, array in scene.raw.items()}, scene.specs)
        return Stitched({}, picture, opened.output, opened.temperatures, arrays, pictures)

    def _resized(self, specs: Mapping[str, InputSpec], size: Size) -> Size | None:
        """To which size frames of a size are resized; None where they keep it."""
        taken = self._opened.size or self._takes(specs, size)
        return None if taken == size else taken

    def _takes(self, specs: Mapping[str, InputSpec], size: Size) -> Size:
        """The nearest size that the network takes, asked once for every size and every set of modalities.

        Raises:
            DataError: It takes none that is near.
        """
        key = (tuple(specs), size)
        if key not in self._taken:
            session = self._opened.session
            if session is not None:
                self._taken[key] = session.size or _nearest(size, session.step)
            else:
                self._taken[key] = self._tried(specs, size)
        return self._taken[key]

    def _tried(self, specs: Mapping[str, InputSpec], size: Size) -> Size:
        reason: Exception | None = None
        for near in dict.fromkeys([size, *(_nearest(size, step) for step in STEPS)]):
            images = {name: torch.empty(1, spec.channels, *near, device="meta") for name, spec in specs.items()}
            try:
                with ByShapes(), self._opened.one_at_a_time:
                    self._ghost(images, subset=True)
            except NotImplementedError:  # of an operation without values, nothing is known
                return size
            except Exception as error:  # networks refuse sizes each by an error of its own
                reason = reason or error
            else:
                return near
        raise DataError(
            f"the network takes no frame of {size[1]}x{size[0]} (width x height), nor of a size near it: {reason}"
        ) from reason

    @cached_property
    def _ghost(self) -> torch.nn.Module:
        """The network without values, which says what it takes for the cost of looking."""
        return ghost(self._opened.network)


def _nearest(size: Size, step: int) -> Size:
    return max(1, round(size[0] / step)) * step, max(1, round(size[1] / step)) * step
