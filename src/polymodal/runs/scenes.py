"""The scenes to predict: files of several modalities that belong together, and the names of their pictures."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from polymodal.data import EXTENSIONS, Store
from polymodal.data.content import FileSpec
from polymodal.data.naming import PLAIN, advice, key_of
from polymodal.errors import ConfigError, DataError
from polymodal.files import LONGEST_NAME, require_empty
from polymodal.locks import LOCK
from polymodal.names import on_any_disk

SHOWN_STEMS = 8
"""How many scenes a message lists."""


@dataclass(frozen=True)
class Scene:
    """Aligned files of a modality each.

    Args:
        stem: What the names of its pictures start with, with the folders that it lies in.
        files: By modality.
    """

    stem: str
    files: dict[str, Path]

    @property
    def named(self) -> dict[str, str]:
        """The files for messages, by modality."""
        return {name: str(file) for name, file in self.files.items()}


@dataclass(frozen=True)
class Folder:
    """The files of one modality below a folder.

    Args:
        store: The folder.
        part: What its files are called.
        files: The absolute ones of each key.
    """

    store: Store
    part: FileSpec
    files: dict[str, list[Path]]

    @classmethod
    def of(cls, path: Path, declared: FileSpec) -> "Folder":
        """The files that are called as declared; where none is, those that are called like their scenes."""
        store = Store(path.resolve())
        for part in (declared, PLAIN):
            found = {key_of(name, part): files for name, files in store.keys(".").items()}
            files = {key: [store.path / file for file in files] for key, files in found.items() if key is not None}
            if files:
                break
        return cls(store, part, files)

    @property
    def rank(self) -> tuple[int, int]:
        """How narrowly the files are described: by a deeper folder, then by more letters of their names."""
        return len(self.store.path.parts), len(self.part.prefix + self.part.suffix)

    def file(self, key: str) -> Path:
        """The one file of a key.

        Raises:
            DataError: There is none, or more than one.
        """
        return self.store.path / self.store.find(".", key, self.part)


def find_scenes(
    inputs: Mapping[str, Path], declared: Mapping[str, FileSpec], *, subset: bool = False, whole: bool = False
) -> list[Scene]:
    """The scenes in files, or in folders and those below them, matched by the files' names without ending.

    Args:
        inputs: All files, or all folders, by modality.
        declared: What the files of the training were called, by modality.
        subset: Whether scenes may lack modalities.
        whole: Whether the network takes no other than complete scenes, as an exported one.

    Raises:
        DataError: A path does not exist, files and folders are mixed, or a file has no partner.
    """
    for name, path in inputs.items():
        if not path.exists():
            raise DataError(f"{path}: there is no such file or folder for {name!r}.")
    folders = [name for name, path in inputs.items() if path.is_dir()]
    if not folders:
        name, file = next(iter(inputs.items()))
        return [Scene(key_of(file.stem, declared[name]) or file.stem, dict(inputs))]
    if len(folders) < len(inputs):
        files = ", ".join(name for name in inputs if name not in folders)
        raise DataError(f"expected only files or only folders, got a folder for {', '.join(folders)}, not for {files}.")

    found = {name: Folder.of(path, declared[name]) for name, path in inputs.items()}
    keys = _keys(found)
    stems = sorted(set().union(*keys.values()))
    if not stems:
        raise DataError(f"{', '.join(map(str, inputs.values()))}: no file ends in {', '.join(EXTENSIONS)}.")
    lacking = {stem: [name for name in inputs if stem not in keys[name]] for stem in stems}
    lonely = all(len(names) == len(inputs) - 1 > 0 for names in lacking.values())
    if any(lacking.values()) and (lonely or not subset):
        raise _no_partners(found, lacking, subset=subset, whole=whole)
    return [
        Scene(stem, {name: found[name].file(stem) for name in inputs if name not in lacking[stem]}) for stem in stems
    ]


def not_read(inputs: Mapping[str, Path]) -> list[str]:
    """Which folders hold pictures in formats that are not read, a line for people each."""
    folders = dict.fromkeys(path for path in inputs.values() if path.is_dir())
    return [f"{path}: {left}" for path in folders if (left := Store(path.resolve()).left_out("."))]


def _keys(found: Mapping[str, Folder]) -> dict[str, list[str]]:
    """The keys of each modality; a file that several could claim, as in one folder, is that of the narrowest."""
    narrowest: dict[Path, tuple[int, int]] = {}
    for folder in found.values():
        for file in (file for files in folder.files.values() for file in files):
            narrowest[file] = max(folder.rank, narrowest.get(file, folder.rank))
    return {
        name: [key for key, files in folder.files.items() if any(narrowest[file] == folder.rank for file in files)]
        for name, folder in found.items()
    }


def _no_partners(
    found: Mapping[str, Folder], lacking: Mapping[str, Sequence[str]], *, subset: bool, whole: bool
) -> DataError:
    texts = [f"{stem} (no {', '.join(names)})" for stem, names in lacking.items() if names]
    more = f", ... ({len(texts)} in all)" if len(texts) > SHOWN_STEMS else ""
    stem, (name, *_) = next((stem, names) for stem, names in lacking.items() if names)
    folder = found[name]
    remedy = (
        "No scene has two modalities: name the files alike, or predict with one modality at a time."
        if subset
        else "Complete the scenes: an exported network takes all of them; the model folder predicts with what each has."
        if whole
        else "Complete the scenes, or predict each with the modalities that it has by --subset."
    )
    return DataError(
        f"files without partners: {', '.join(texts[:SHOWN_STEMS])}{more}. {folder.store.path}: "
        f"{advice(stem, folder.part, folder.store.keys('.'))} A scene has a file of the same name, whatever its ending "
        f"(with the prefix and suffix that the training's dataset.yaml declares, if any), for every modality. {remedy}"
    )


def check_out(out: Path, inputs: Mapping[str, Path]) -> None:
    """Refuse a folder for pictures that holds anything, or lies where files are read.

    Raises:
        ConfigError: With the remedy.
    """
    if not (out / LOCK).is_file():  # what a process that was killed began is looked at when it is to be gone on with
        require_empty(out)
    for name, path in inputs.items():
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise ConfigError(
                f"{out} lies in {path}, where {name} is read from: the pictures would be taken for scenes by the next "
                "call. Name a folder outside of it."
            )


def check_pictures(
    scenes: Sequence[Scene], predictions: Sequence[str], endings: Sequence[str], *, whole: bool = False
) -> None:
    """Refuse scenes of which two pictures would have one name, or one that no disk takes.

    Args:
        scenes: All of them.
        predictions: Names of predictions beside those of the modalities.
        endings: What the names of the pictures of one prediction end in.
        whole: Whether the network takes no other than complete scenes, as an exported one.

    Raises:
        DataError: With the name, and the two scenes and predictions.
    """
    owners: dict[str, str] = {}
    for scene in scenes:
        for prediction in (*scene.files, *predictions):
            for ending in endings:
                name = picture_name(scene, prediction, ending)
                owner = f"{prediction} of {scene.stem}"
                if (length := len(os.fsencode(Path(name).name))) > LONGEST_NAME:
                    raise DataError(
                        f"a picture would be called {name}, {length} bytes, and up to {LONGEST_NAME} can be written. "
                        "Give the scene a shorter name."
                    )
                if (known := on_any_disk(name)) in owners:
                    other = "" if whole else ", or predict with one of the modalities at a time (--subset)"
                    raise DataError(
                        f"two pictures would be called {name}: one by {owners[known]} and one by {owner}. Rename the "
                        f"scenes{other}."
                    )
                owners[known] = owner


def picture_name(scene: Scene, prediction: str, ending: str) -> str:
    """The file of a picture, from the folder for pictures on."""
    return f"{scene.stem}_{prediction}{ending}.png"
