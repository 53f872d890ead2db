# LoRAs of printed letters, from bank_vit-micro_glyphs-5way.py, beside 16 support sets of each task: 5 of its letters,
# since that is what a new task shows. The sources are those of the bank (hub/glyphs_ways.py).
bank_folder = 'work_dirs/banks/bank_vit-micro_glyphs-5way'
task_vectors = 'work_dirs/task_vectors/mean-feature_vit-micro_glyphs-5way.safetensors'
scripts = ['LATIN', 'CANADIAN SYLLABICS', 'CYRILLIC', 'GREEK', 'ARABIC', 'OLD ITALIC']
task_images = dict(
    sources=[
        dict(
            name=f'way-{way}',
            dataset=dict(
                type='Glyphs',
                split='train',
                scripts=[scripts[way % len(scripts)]],
                samples_per_class=15,
                distortion=f'way-{way}',
                pipeline=[dict(type='PackInputs')],
            ),
        )
        for way in range(96)
    ],
    n_way=5,
    shot=5,
    num_draws=16,
)
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type='ResumableSampler', shuffle=True),
    dataset=dict(type='LoRABankDataset', banks='{bank_folder}', task_vectors='{task_vectors}'),
)
