"""Small sets of CoOp in the folders of CoOp and of CLIP-LoRA's code. Images are empty unless they are to be read."""

import json
from pathlib import Path

from layouts import write_image

from mmlora.datasets import COOP_SETS, IMAGENET_SHIFTS

WNIDS = [f'n{number:08d}' for number in range(100, 100 + 3 * 1000, 3)]
PER_CLASS = dict(train=6, val=5, test=2)


def touch(path, real=False, label=0):
    if real:
        write_image(path, label % 12, label)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def rows_of(num_classes, counts=PER_CLASS):
    """Return the content of a split file, in which classes take turns."""
    return {split: [[f'{split}/class_{label}/{number}.jpg', label, f'the_class {label}']
                    for number in range(count) for label in range(num_classes)] for split, count in counts.items()}


def make_listed(folder, name, images=True, counts=PER_CLASS, real=False):
    """Write a set with a split file, or FGVC-Aircraft."""
    coop_set = COOP_SETS[name]
    content = rows_of(coop_set.num_classes, counts)
    folder.mkdir(parents=True, exist_ok=True)
    if name == 'fgvc_aircraft':
        (folder / 'variants.txt').write_text(''.join(f'Type {label}/B\n' for label in range(100)))
        for split, rows in content.items():
            lines = [f'{number:07d} Type {row[1]}/B\n' for number, row in enumerate(rows, first_number(split))]
            (folder / f'images_variant_{split}.txt').write_text(''.join(lines))
            for row, line in zip(rows, lines, strict=True):
                row[0] = f'{line.split()[0]}.jpg'
    else:
        (folder / coop_set.split_file).write_text(json.dumps(content))
    if images:
        for rows in content.values():
            for path, label, _ in rows:
                touch(folder / coop_set.image_folders[0] / path, real, label)
    return folder


def first_number(split):
    """Numbers of aircraft images differ between the splits."""
    return dict(train=1, val=100001, test=200001)[split]


def make_imagenet(folder, below='', per_class=2, names=False):
    """Write ImageNet in folders of CoOp (``below='images'``) or of CLIP-LoRA."""
    for split, count in (('train', per_class), ('val', 1)):
        for wnid in WNIDS:
            for number in range(count):
                touch(folder / below / split / wnid / f'{wnid}_{number}.JPEG')
    if names:
        (folder / 'classnames.txt').write_text(class_names())
    return folder


def class_names(wnids=WNIDS):
    """Return the lines of classnames.txt, in the order of CoOp: any."""
    return ''.join(f'{wnid} thing {WNIDS.index(wnid)}\n' for wnid in reversed(wnids))


def make_shift(root, name):
    """Write a set with ImageNet's classes; return the wnids that it has."""
    coop_set = IMAGENET_SHIFTS[name]
    place = root / coop_set.folders[0] / coop_set.image_folders[0]
    wnids = WNIDS[::5] if coop_set.num_classes == 200 else WNIDS
    for label, wnid in enumerate(wnids):
        touch(place / (str(label) if name == 'imagenetv2' else wnid) / f'{wnid}.jpeg')
    return wnids


def spelled(root: Path, name: str, spelling: int) -> Path:
    """Return the folder of a set in CoOp's spelling (0) or in that of CLIP-LoRA's code (-1)."""
    return root / COOP_SETS[name].folders[spelling]
