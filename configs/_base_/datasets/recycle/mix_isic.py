_base_ = './mix.py'
dataset_name = 'isic'
test_dataloader = dict(
    dataset=dict(
        _delete_=True, type='MetaSplit', name='isic', data_root='data/isic', split='all',
        pipeline={{_base_.test_pipeline}},
    )
)
