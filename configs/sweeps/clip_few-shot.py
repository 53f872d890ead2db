# CLIP-LoRA on the eleven sets with 1 to 16 images of each class and three seeds, by every backbone: each config with
# each combination of the options. Paths are relative to this file. One backbone is --only '*vit-base-p16*', some sets
# are --datasets dtd eurosat.
configs = [
    f'../clip_lora/clip-lora_{backbone}_1xb32-cosine-500i-per-shot_{name}.py'
    for backbone in ('vit-base-p16', 'vit-base-p32', 'vit-large-p14')
    for name in (
        'imagenet', 'caltech101', 'oxford-pets', 'stanford-cars', 'oxford-flowers', 'food101', 'fgvc-aircraft',
        'sun397', 'dtd', 'eurosat', 'ucf101',
    )
]
options = {'shot': [1, 2, 4, 8, 16], 'randomness.seed': [1, 2, 3]}
