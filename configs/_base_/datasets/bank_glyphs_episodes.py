# Episodes of the tasks of the banks, in their ways of writing; each comes with a LoRA. The letters are those of the
# bank (hub/glyphs_ways.py).
bank_folder = 'work_dirs/banks/bank_vit-micro_glyphs-5way'
scripts = ['LATIN', 'CANADIAN SYLLABICS', 'CYRILLIC', 'GREEK', 'ARABIC', 'OLD ITALIC']
letters_in_ways = [
    dict(
        type='Glyphs',
        split='train',
        scripts=[scripts[way % len(scripts)]],
        samples_per_class=15,
        distortion=f'way-{way}',
        pipeline=[dict(type='PackInputs')],
    )
    for way in range(96)
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='ResumableSampler', shuffle=False),
    batch_sampler=dict(
        type='BankEpisodeSampler', n_way=5, n_shot=5, n_query=10, num_episodes=2000, p_interpolate=0.0
    ),
    dataset=dict(type='BankEpisodes', banks='{bank_folder}', dataset=letters_in_ways),
)
