# SR-LoRA on MedFMC with 1, 5 and 10 shots and the five published lists of each, by every backbone: each config with
# each combination of the options. Paths are relative to this file. The published run_train_medfm.sh has the first list
# alone, as --set split=1 does; one backbone is --only '*vit-base*'.
configs = [
    f'../sr_lora/sr-lora_{backbone}_in21k-pre_1xb4-coslr-20e_medfmc-{name}.py'
    for backbone in ('vit-base-p16', 'swin-base-w12', 'vit-large-p16')
    for name in ('chest', 'colon', 'endo')
]
options = {'shot': [1, 5, 10], 'split': [1, 2, 3, 4, 5], 'randomness.seed': [666]}
