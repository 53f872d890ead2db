"""Small data sets in the layouts in which VTAB-1k and MedFMC are published, with generated images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

Label = int | Sequence[int]
CHEST, ENDO = 19, 4  # Numbers of findings.


def write_image(path: Path, label: Label, seed: int) -> None:
    """Write a 32 px image whose colours depend on its label."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8)
    for index in [label] if isinstance(label, int) else label:
        image[index % 4 * 8:index % 4 * 8 + 8, :, index // 4 % 3] += 60 + 40 * (index // 12)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


def line_of(name: str, label: Label, num_classes: int = 0, between: str = ',') -> str:
    """Return the line of a list."""
    if isinstance(label, int):
        return f'{name} {label}'
    return f'{name} {between.join("1" if index in label else "0" for index in range(num_classes))}'


def write_lists(folder: Path, lists: Mapping[str, Sequence[str]]) -> None:
    """Write lists of lines, each under its name."""
    for name, lines in lists.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('\n'.join(lines) + '\n', encoding='utf-8')


def make_vtab(root: Path, folder: str = 'eurosat', num_classes: int = 10, per_class: int = 4) -> Path:
    """Write one set of VTAB-1k with ``per_class`` training and 2 test images of each class; return ``root``."""
    lines = {'train800val200': [], 'test': []}
    for part, count in (('train800val200', per_class), ('test', 2)):
        for number in range(count * num_classes):
            name = f'images/{part}/{number:06d}.jpg'
            write_image(root / folder / name, number % num_classes, number)
            lines[part].append(line_of(name, number % num_classes))
    train = lines['train800val200']
    cut = len(train) * 4 // 5
    write_lists(root / folder, {
        'train800val200.txt': train, 'train800.txt': train[:cut], 'val200.txt': train[cut:], 'test.txt': lines['test'],
        'few_shot_exps/train_1-shot_exp1.txt': train[:num_classes],
        'few_shot_exps/train_1-shot_exp2.txt': train[num_classes:2 * num_classes],
    })
    return root


def make_medfmc(root: Path, name: str, count: int = 24) -> Path:
    """Write one set of MedFMC with ``count`` trainval and ``count // 2`` test images; return its folder.

    Colon's names hold blanks. Every fourth image of chest and endo has no finding. The published leak is there: the val
    lists of chest and endo hold training images.
    """
    num_classes, between = {'chest': (CHEST, ','), 'endo': (ENDO, ' '), 'colon': (2, '')}[name]
    folder = root / name
    parts = {}
    for part, size in (('trainval', count), ('test_WithLabel', count // 2)):
        lines = parts.setdefault(part, [])
        for number in range(size):
            label = number % 2
            if name != 'colon':
                label = () if number % 4 == 3 else (number % num_classes, (number + 1) % num_classes)
            image = f'2019-06-11 12_07_{part}{number}.png' if name == 'colon' else f'{part}_{number}.png'
            write_image(folder / 'images' / image, label, number)
            lines.append(line_of(image, label, num_classes, between))
    trainval = parts['trainval']
    train = [*trainval[:6], trainval[0]] if name != 'colon' else trainval[:6]
    val = trainval[6:] if name == 'colon' else trainval[2:]
    write_lists(folder, {
        'trainval.txt': trainval, 'test_WithLabel.txt': parts['test_WithLabel'],
        f'{name}_1-shot_train_exp1.txt': train, f'{name}_1-shot_val_exp1.txt': val,
    })
    return folder
