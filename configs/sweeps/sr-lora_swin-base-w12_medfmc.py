# SR-LoRA on Swin-B, MedFMC with 1, 5 and 10 shots: each config with each combination of the options. Paths are
# relative to this file. The published run_train_medfm.sh has split 1 alone.
configs = [
    '../sr_lora/sr-lora_swin-base-w12_in21k-pre_1xb4-coslr-20e_medfmc-chest.py',
    '../sr_lora/sr-lora_swin-base-w12_in21k-pre_1xb4-coslr-20e_medfmc-colon.py',
    '../sr_lora/sr-lora_swin-base-w12_in21k-pre_1xb4-coslr-20e_medfmc-endo.py',
]
options = {'shot': [1, 5, 10], 'split': [1, 2, 3, 4, 5], 'randomness.seed': [666]}
