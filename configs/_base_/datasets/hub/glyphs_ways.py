# Printed letters of the training scripts, each script in many ways of writing (mmlora/datasets/glyph_ways.py): a task
# is a script and a way, so that what a LoRA must learn differs between tasks, and the images show it.
scripts = ['LATIN', 'CANADIAN SYLLABICS', 'CYRILLIC', 'GREEK', 'ARABIC', 'OLD ITALIC']
hub_sources = [
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
]
