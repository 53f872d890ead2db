# The LoRAs of the hub averaged into one, and class means. merge='factors' averages A and B.
tuner = dict(type='FeatureTuner', head='prototype', hub='{hub_folder}', merge='change')
