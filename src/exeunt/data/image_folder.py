"""Opening a folder of image files, with one folder per class or without classes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from exeunt._support.paths import AnyPath, RemotePath
from exeunt._support.text import listed
from exeunt.data.columns import FOLDERS, NO_LABELS, Columns
from exeunt.data.read_image import is_dangling
from exeunt.data.source import TEST_NAMES, TRAIN_NAMES, RawData, RawParts, find_parts
from exeunt.data.stored_inputs import ImageFiles
from exeunt.errors import InputError

_ENDINGS = "avif bmp gif ico j2k jfif jp2 jpeg jpg pbm pgm png ppm tga tif tiff webp"
IMAGE_SUFFIXES = frozenset(f".{ending}" for ending in _ENDINGS.split())


def image_files(folder: AnyPath) -> list[AnyPath]:
    """Return the image files at any depth below `folder`, sorted by path, without hidden ones.

    A link to a file that is missing counts: reading it says so, instead of leaving an input out without a word.
    """
    return sorted(_images_below(folder), key=lambda path: path.relative_to(folder).as_posix())


def read_image_folder(folder: AnyPath, columns: Columns) -> RawParts | None:
    """Return the images in `train/CLASS/*` and `test/CLASS/*` (or `val`), or in `CLASS/*`; None if there is none.

    Where `test` holds files without classes, as competitions have it, `val` is the test data; otherwise the validation
    data. With `columns.unlabelled` images in no folder of a class have no label; raises InputError if there are
    folders, and `columns.label` does not say whether they are classes.
    """
    if columns.unlabelled and columns.label != FOLDERS:
        return _unlabelled(folder, columns)
    train = next(iter(_existing(folder, TRAIN_NAMES)), None)
    if train is None and not _existing(folder, TEST_NAMES):
        train = folder
    classes = _class_folders(train)
    # The first folder with a folder of one of these classes; else the first with any class.
    class_folders = {test: _class_folders(test) for test in _existing(folder, TEST_NAMES)}
    known = [test for test, names in class_folders.items() if not set(names).isdisjoint(classes)]
    test = next(
        iter([*known, *(test for test, names in class_folders.items() if names or columns.unlabelled)]), None
    )
    classes = classes or _class_folders(test)
    if not classes:
        if columns.label == FOLDERS and image_files(folder):
            raise InputError(
                f"the images in {folder} lie in no folders of classes: leave out --label-column {FOLDERS}"
            )
        return None
    if set(classes) == {"images", "masks"}:
        raise InputError(f"{folder} holds images with masks, not folders of classes: say --task segment")
    return RawParts(
        train=None if train is None else _read(train, classes, folder, loose=columns.unlabelled),
        test=None if test is None else _read(test, classes, folder, loose=columns.unlabelled),
        validation=_read(known[1], classes, folder) if len(known) > 1 else None,
    )


def _unlabelled(folder: AnyPath, columns: Columns) -> RawParts | None:
    """Return the images in `train` and `test` (or `val`), or in the folder itself; None if there is none."""

    def read(part: AnyPath) -> RawData | None:
        if columns.label != NO_LABELS and (names := _class_folders(part)):
            raise InputError(
                f"{part} has folders of images, {listed(names, 3)}, and --unlabelled was given. If they are classes, "
                f"leave out --unlabelled, or add --label-column {FOLDERS} where images beside them have no label; if "
                f"not, add --label-column {NO_LABELS}"
            )
        files = image_files(part)
        return RawData(kind="image", stored=ImageFiles(files, root=folder)) if files else None

    parts = find_parts(lambda name: read(folder / name) if (folder / name).is_dir() else None)
    if not any(parts):
        parts = RawParts(train=read(folder), test=None)
    return parts if any(parts) else None


def _read(folder: AnyPath, classes: Sequence[str], root: AnyPath, *, loose: bool = False) -> RawData:
    """Return the images in folders of these classes below `folder`, named by their path below `root`.

    `loose`: also those directly in `folder`, without a label (-1).
    """
    if unknown := sorted(set(_class_folders(folder)) - set(classes)):
        raise InputError(f"{folder} has classes that the training data lacks: {', '.join(unknown[:5])}")
    files: list[AnyPath] = []
    labels: list[int] = []
    for k, name in enumerate(classes):
        images = image_files(folder / name) if (folder / name).is_dir() else []
        files += images
        labels += [k] * len(images)
    if loose:
        labelled = set(files)
        others = [file for file in image_files(folder) if file not in labelled]
        files += others
        labels += [-1] * len(others)
    stored = ImageFiles(files, root=root)
    return RawData(kind="image", stored=stored, labels=labels, class_names=tuple(classes))


def _class_folders(folder: AnyPath | None) -> list[str]:
    if folder is None:
        return []
    folders = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(path.name for path in folders if any(_images_below(path)))


def _images_below(folder: AnyPath) -> Iterator[AnyPath]:
    if isinstance(folder, RemotePath):  # which lists no folders among its files
        for file in folder.rglob("*"):
            hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
            if file.suffix.lower() in IMAGE_SUFFIXES and not hidden:
                yield file
        return
    for path in _files_below(folder):
        # Path.is_file raises where a link leads to a folder that may not be read.
        if path.suffix.lower() in IMAGE_SUFFIXES and (os.path.isfile(path) or is_dangling(path)):  # noqa: PTH113
            yield path


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield all but folders and hidden names at any depth.

    Links to folders are followed after everything else. Each folder is read once, whatever names lead to it, so
    that links in a circle end.
    """
    pending, visited = deque([folder]), set[str]()
    while pending:
        for here, folders, files in os.walk(pending.popleft()):
            real = os.path.realpath(here)
            folders[:] = [] if real in visited else [name for name in folders if not name.startswith(".")]
            if real not in visited:
                visited.add(real)
                pending += [path for name in folders if (path := Path(here, name)).is_symlink()]
                yield from (Path(here, name) for name in files if not name.startswith("."))


def _existing(folder: AnyPath, names: Sequence[str]) -> list[AnyPath]:
    return [folder / name for name in names if (folder / name).is_dir()]
