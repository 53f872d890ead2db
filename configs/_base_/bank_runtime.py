# Banks of LoRAs for a generator: as a hub, over one A that all LoRAs share and that stays frozen, so that the same B
# means the same in each. Checkpoints of the second half of each training are kept, ranked by the validation.
_base_ = './hub_runtime.py'
hub = dict(num_loras=200, shared_a=True)
bank = dict(start_epoch=6, interval=1, max_keep=None, metric='accuracy/top1')
