# SR-LoRA on ViT-L/16, MedFMC with 1, 5 and 10 shots: each config with each combination of the options. Paths are
# relative to this file.
configs = [
    '../sr_lora/sr-lora_vit-large-p16_in21k-pre_1xb4-coslr-20e_medfmc-chest.py',
    '../sr_lora/sr-lora_vit-large-p16_in21k-pre_1xb4-coslr-20e_medfmc-colon.py',
    '../sr_lora/sr-lora_vit-large-p16_in21k-pre_1xb4-coslr-20e_medfmc-endo.py',
]
options = {'shot': [1, 5, 10], 'split': [1, 2, 3, 4, 5], 'randomness.seed': [666]}
