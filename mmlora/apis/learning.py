"""One line on what learns, in the place of mmengine's line for each parameter that does not."""

import logging

from mmengine.runner import Runner

from ..adapters import parameter_report
from ..engine.adaptation import unwrap_model


class FrozenParameterFilter(logging.Filter):
    """Drop the warning of mmengine's optimizer constructor for each frozen parameter: freezing them is the point."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is logged."""
        return not record.getMessage().endswith(' is skipped since its requires_grad=False')


def announce_learning(runner: Runner) -> None:
    """Log how many parameters learn, and keep the frozen ones out of the log."""
    report = str(parameter_report(unwrap_model(runner.model)))
    runner.logger.info(report.splitlines()[0])
    runner.logger.addFilter(FrozenParameterFilter())
