"""What the status of the machine says of a pass that has ended."""

from __future__ import annotations

from collections.abc import Callable

from ...errors import HwgenError
from ...registers import ERROR_OPERATOR, ERROR_PORT, ERROR_RESPONSE, ERROR_WRITE, Status

__all__ = ["check_status"]

#: Bits of STATUS, as numbers: what is done with flags makes new flags, which is slow.
_STOPPED, _ERROR = int(Status.STOPPED), int(Status.ERROR)


def check_status(read: Callable[[str], int], status: int) -> None:
    """Say what went wrong in a pass with this ``status``, if anything did; ``read`` gives the value of a register.

    Raises
    ------
    HwgenError
        Of kind ``"device"``: it was stopped, its program is damaged, or a memory port answered with an error.
    """
    if status & _STOPPED:
        raise HwgenError("device", f"the pass was stopped at operator {read('CURRENT')}", "start it again")
    if status & _ERROR:
        error = read("ERROR")
        if not ERROR_RESPONSE.extract(error):
            started = read("COUNT_OPERATORS")  # CURRENT is of the pass before until one has
            where = f"descriptor behind operator {read('CURRENT')}" if started else "first descriptor"
            raise HwgenError("device", f"the {where} is damaged: its check word is wrong", "load the model again")
        raise HwgenError(
            "device",
            f"memory port {ERROR_PORT.extract(error)} answered a {'write' if ERROR_WRITE.extract(error) else 'read'} "
            f"with response {ERROR_RESPONSE.extract(error)} at operator {ERROR_OPERATOR.extract(error)}",
            "check the address of the image in device memory",
        )
