from tiny import images, plain_config_text  # noqa: F401
