# The published pair: LoRAs of Florence-2 for classes of VOC 2012, and the states of its decoder as task vectors. The
# bank and the vectors are those of florence-2-base_lora-r8_1xb6-linear-200e_voc2012-bank.py and of tools/florence.py.
_base_ = ['../_base_/schedules/icm-lora_adamw_cosine_2000e.py', '../_base_/generator_runtime.py']
bank_folder = 'work_dirs/banks/florence-2-base_r8'
task_vectors = 'work_dirs/task_vectors/florence-2-base_r8.safetensors'
model = dict(type='ConvCVAE', task_encoder=dict(type='DecoderStates'))
data = dict(type='LoRABankDataset', banks='{bank_folder}', task_vectors='{task_vectors}')
sampler = dict(type='ResumableSampler', shuffle=True)
train_dataloader = dict(batch_size=2, drop_last=True, num_workers=0, sampler=sampler, dataset=data)
