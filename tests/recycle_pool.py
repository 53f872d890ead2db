"""A tiny pool of images, written without any inversion: 2 LoRAs of 3 classes each, of which they share one."""

import torch

from mmlora.adapters import encode_mask
from mmlora.io.pool import Pool, PoolImage, image_name, write_image

CLASSES = ['ant', 'bee', 'cat', 'dog', 'eel']
LORAS = {'00000': [0, 1, 2], '00001': [4, 2, 3]}
GRID, SIDE = [4, 4], 32


def write_pool(folder, per_class=4, loras=LORAS, ratio='0.5', classes=range(5), **about):
    """Write the pool with some of the classes.

    An image is of one colour but for a corner, and keeps the 8 patches of its first two rows.
    """
    images, wanted = [], sorted(classes)
    mask = torch.zeros(16, dtype=torch.bool)
    mask[:8] = True
    for lora, labels in loras.items():
        for label, gt_label in enumerate(labels):
            for number in range(per_class):
                name = image_name(gt_label, CLASSES[gt_label], lora, label, number)
                pixels = torch.full((3, SIDE, SIDE), (gt_label + 1) / 10)
                pixels[0] += 0.02 * number
                pixels[:, :8, :8] = 0
                write_image(folder, name, pixels)
                right = number > 0
                masks = {ratio: encode_mask(mask)}
                images.append(PoolImage(name, wanted.index(gt_label), lora, label, 0.1, right, 0, 1, masks))
    about = dict(dict(grid=GRID, image_size=[SIDE, SIDE], loras=list(loras)), **about)
    pool = Pool(folder, about, [CLASSES[k] for k in wanted], [10 + k for k in wanted], images)
    pool.save()
    return pool
