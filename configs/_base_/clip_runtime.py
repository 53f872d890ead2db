# The classes of the model are those of the data set; checkpoints and log lines are by iterations, and seeds begin at 1.
# A run with LoRA leaves the folder adapter/ behind, which mmlora.clip.load, tools/test.py and peft take.
_base_ = './default_runtime.py'
custom_hooks = [dict(type='StepSeedHook'), dict(type='ClassNamesHook'), dict(type='AdapterFolderHook')]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=500))
log_processor = dict(by_epoch=False)
randomness = dict(seed=1)
