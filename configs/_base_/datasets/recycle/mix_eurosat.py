_base_ = './mix.py'
dataset_name = 'eurosat'
test_dataloader = dict(
    dataset=dict(
        _delete_=True, type='MetaSplit', name='eurosat', data_root='data/eurosat', split='all',
        pipeline={{_base_.test_pipeline}},
    )
)
