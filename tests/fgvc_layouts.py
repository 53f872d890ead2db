"""Small FGVC sets in the layouts of VPT and of the official archives, with generated images."""

import json
from pathlib import Path

import numpy as np
from layouts import write_image
from scipy.io import savemat

CUB_CLASSES = ('001.Black_footed_Albatross', '002.Laysan_Albatross', '003.Sooty_Albatross')
NABIRDS = {295: 'Common Eider (Adult male)', 297: 'King Eider', 817: 'Oak Titmouse'}
TREE = {0: 'Birds', 1: 'Ducks, Geese, and Swans', 500: 'Titmice'}  # Nodes of which there are no images.
DOGS = ('n02085620-Chihuahua', 'n02085782-Japanese_spaniel')
CARS = ('AM General Hummer SUV 2000', 'Acura RL Sedan 2012')
TRAIN, TEST = 10, 2  # Images of each class.


def _images(folder, names):
    for number, name in enumerate(names):
        write_image(folder / name, number % 4, number)


def _lines(path: Path, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(f'{key} {value}\n' for key, value in rows))


def _birds(folder: Path, images: list[tuple[str, int, int]], classes, key) -> Path:
    _images(folder / 'images', [name for name, _, _ in images])
    for file, column in (('images.txt', 0), ('image_class_labels.txt', 1), ('train_test_split.txt', 2)):
        _lines(folder / file, [(key(number), image[column]) for number, image in enumerate(images, 1)])
    _lines(folder / 'classes.txt', classes)
    return folder


def make_cub(folder: Path) -> Path:
    """Write CUB with its official files; an image has a blank in its name, and classes come in no order."""
    images = [(f'{CUB_CLASSES[label]}/{CUB_CLASSES[label][4:]} {number}.jpg', label + 1, int(number < TRAIN))
              for number in range(TRAIN + TEST) for label in (2, 0, 1)]
    return _birds(folder, images, [(int(name[:3]), name) for name in CUB_CLASSES], str)


def make_nabirds(folder: Path) -> Path:
    """Write NABirds with its official files, whose class ids have gaps."""
    images = [(f'{label:04d}/{label}{number:08x}.jpg', label, int(number < TRAIN))
              for number in range(TRAIN + TEST) for label in NABIRDS]
    folder = _birds(folder, images, [*TREE.items(), *NABIRDS.items()], lambda number: f'{number:08x}-21dc')
    _lines(folder / 'hierarchy.txt', [(1, 0), *((label, 500) for label in NABIRDS)])
    return folder


def make_flowers(folder: Path) -> Path:
    """Write Flowers with its official files: 24 images, of which 8 are for training, 6 for val and 10 for testing."""
    labels = np.array([number % 102 + 1 for number in (0, 101, 40) * 8], np.uint8)
    _images(folder / 'jpg', [f'image_{number:05d}.jpg' for number in range(1, 25)])
    savemat(folder / 'imagelabels.mat', dict(labels=labels[None]))
    numbers = np.arange(1, 25, dtype=np.uint16)[None]
    savemat(folder / 'setid.mat', dict(trnid=numbers[:, 16:], valid=numbers[:, 10:16], tstid=numbers[:, :10]))
    return folder


def _cells(values) -> np.ndarray:
    cells = np.empty((len(values), 1), object)
    cells[:, 0] = values
    return cells


def make_dogs(folder: Path) -> Path:
    """Write Dogs with its official files, in the folder ``lists`` of its archive."""
    (folder / 'lists').mkdir(parents=True)
    for split, numbers in (('train', range(TRAIN)), ('test', range(TRAIN, TRAIN + TEST))):
        pairs = [(f'{name}/{name[:9]}_{number}.jpg', label)
                 for label, name in enumerate(DOGS, 1) for number in numbers]
        _images(folder / 'Images', [name for name, _ in pairs])
        savemat(folder / 'lists' / f'{split}_list.mat', dict(
            file_list=_cells([name for name, _ in pairs]), annotation_list=_cells([name[:-4] for name, _ in pairs]),
            labels=np.array([[label] for _, label in pairs], np.uint8)))
    return folder


def make_cars(folder: Path) -> Path:
    """Write Cars with the files of its devkit."""
    devkit = folder / 'devkit'
    devkit.mkdir(parents=True)
    for split, count in (('train', TRAIN), ('test', TEST)):
        names = [f'{number:05d}.jpg' for number in range(1, 2 * count + 1)]
        _images(folder / f'cars_{split}', names)
        kind = np.dtype([(field, object) for field in ('bbox_x1', 'class', 'fname')])
        rows = np.array([[(np.uint16(9), np.uint8(1 + number % 2), name) for number, name in enumerate(names)]], kind)
        savemat(devkit / f'cars_{split}_annos{"_withlabels" if split == "test" else ""}.mat', dict(annotations=rows))
    savemat(devkit / 'cars_meta.mat', dict(class_names=_cells(CARS).T))
    return folder


def make_cars_annos(folder: Path) -> Path:
    """Write Cars with the one file in which images have a number of their own."""
    names = [f'car_ims/{number:06d}.jpg' for number in range(1, 2 * (TRAIN + TEST) + 1)]
    _images(folder, names)
    kind = np.dtype([(field, object) for field in ('relative_im_path', 'class', 'test')])
    rows = np.array([[(name, np.uint8(1 + number % 2), np.uint8(number >= 2 * TRAIN))
                      for number, name in enumerate(names)]], kind)
    savemat(folder / 'cars_annos.mat', dict(annotations=rows, class_names=_cells(CARS).T))
    return folder


def make_json(folder: Path, images: str = 'images', ids=(3, 7, 8), trainval: bool = False) -> Path:
    """Write VPT's files: classes with gaps in their ids, of which the first is not in val and the second not in test.

    Args:
        folder: Folder of the set.
        images: Folder of the images below it.
        ids: Ids of the three classes.
        trainval: Whether to write RLRR's ``trainval.json``, too.
    """
    splits = dict(
        train={f'a/bird {label}_{number}.jpg': ids[label] for number in range(4) for label in range(3)},
        val={f'a/v{label}.jpg': ids[label] for label in (1, 2)},
        test={f'b/t{label}_{number}.jpg': ids[label] for number in range(2) for label in (2, 0)},
    )
    if trainval:
        splits['trainval'] = {**splits['train'], **splits['val']}
    for split, entries in splits.items():
        _images(folder / images, entries)
        (folder / f'{split}.json').write_text(json.dumps(entries))
    return folder


OFFICIAL = dict(cub=make_cub, nabirds=make_nabirds, flowers=make_flowers, dogs=make_dogs, cars=make_cars)
