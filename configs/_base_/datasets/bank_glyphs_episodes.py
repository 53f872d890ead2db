# Episodes of printed letters; half of them are tasks of the banks, and come with a LoRA.
bank_folder = 'work_dirs/banks/bank_vit-micro_glyphs-5way'
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='ResumableSampler', shuffle=False),
    batch_sampler=dict(
        type='BankEpisodeSampler', n_way=5, n_shot=5, n_query=10, num_episodes=2000, p_interpolate=0.5
    ),
    dataset=dict(
        type='BankEpisodes',
        banks='{bank_folder}',
        dataset=dict(type='Glyphs', split='train', samples_per_class=20, pipeline=[dict(type='PackInputs')]),
    ),
)
