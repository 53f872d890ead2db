from tiny import images, quick, whole_run  # noqa: F401
