# 20 LoRAs of the hub, drawn for each episode, with weights found without gradients, and class means; head='linear'
# fits a head beside them.
tuner = dict(
    type='LoRAHubTuner', hub='{hub_folder}', head='prototype', members=20, evaluations=40, l1=0.05, bound=1.5, views=1
)
