_base_ = [
    '../_base_/models/florence-2-base_lora.py',
    '../_base_/datasets/florence_voc2012_768.py',
    '../_base_/schedules/florence_adamw_linear_200e.py',
    '../_base_/default_runtime.py',
]
model = dict(lora_rank=8)
test_evaluator = dict(csv_file='work_dirs/florence-2-base_lora-r8_voc2012-{class_name}.csv')
