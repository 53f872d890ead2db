# The LoRAs of the hub averaged into one, and class means. merge='change' averages the products B A.
tuner = dict(type='FeatureTuner', head='prototype', hub='{hub_folder}', merge='factors')
