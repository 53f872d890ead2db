"""One page about a folder: see :func:`write_report`."""

from .report import write_report

__all__ = ['write_report']
