from tiny import images, plain_config_text, whole_run  # noqa: F401
