# LoRAs of printed letters, from bank_vit-micro_glyphs-5way.py, beside 16 support sets of each task.
bank_folder = 'work_dirs/banks/bank_vit-micro_glyphs-5way'
task_vectors = 'work_dirs/task_vectors/mean-feature_vit-micro_glyphs-5way.safetensors'
task_images = dict(
    sources=[
        dict(
            name='glyphs',
            dataset=dict(type='Glyphs', split='train', samples_per_class=20, pipeline=[dict(type='PackInputs')]),
        )
    ],
    shot=5,
    num_draws=16,
)
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type='ResumableSampler', shuffle=True),
    dataset=dict(type='LoRABankDataset', banks='{bank_folder}', task_vectors='{task_vectors}'),
)
