# Three methods, two numbers of images of each class and three draws of these on Digits, which need no download: each
# config with each combination of the options. Paths are relative to this file; keys joined by + take the same value.
configs = [
    '../quickstart/vit-micro_linear_digits-5shot.py',
    '../quickstart/vit-micro_lora-r8_digits-5shot.py',
    '../quickstart/vit-micro_sr-lora_digits-5shot.py',
    '../quickstart/vit-micro_linear_digits-20shot.py',
    '../quickstart/vit-micro_lora-r8_digits-20shot.py',
    '../quickstart/vit-micro_sr-lora_digits-20shot.py',
]
options = {
    'dataset_name': ['digits'],
    'default_hooks.checkpoint.interval': [20],  # of 60 or 200 iterations, to go on from when a run is killed
    'randomness.seed+train_dataloader.dataset.seed': [0, 1, 2],
}
