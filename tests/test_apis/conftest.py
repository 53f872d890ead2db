from tiny import images, quick  # noqa: F401
