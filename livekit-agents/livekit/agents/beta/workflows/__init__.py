"""Ready-made tasks for agents on the phone: find something out, in turn, or transfer the call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._lazy import attach

if TYPE_CHECKING:
    from .address import GetAddressResult, GetAddressTask
    from .dob import GetDOBResult, GetDOBTask
    from .email_address import GetEmailResult, GetEmailTask
    from .name import GetNameResult, GetNameTask
    from .phone_number import GetPhoneNumberResult, GetPhoneNumberTask
    from .utils import WorkflowInstructions

__all__ = [
    "GetAddressResult",
    "GetAddressTask",
    "GetDOBResult",
    "GetDOBTask",
    "GetEmailResult",
    "GetEmailTask",
    "GetNameResult",
    "GetNameTask",
    "GetPhoneNumberResult",
    "GetPhoneNumberTask",
    "WorkflowInstructions",
]

if not TYPE_CHECKING:  # a type checker shall know the names above and no others
    __getattr__, __dir__ = attach(
        __name__,
        {
            "GetAddressResult": ".address",
            "GetAddressTask": ".address",
            "GetDOBResult": ".dob",
            "GetDOBTask": ".dob",
            "GetEmailResult": ".email_address",
            "GetEmailTask": ".email_address",
            "GetNameResult": ".name",
            "GetNameTask": ".name",
            "GetPhoneNumberResult": ".phone_number",
            "GetPhoneNumberTask": ".phone_number",
            "WorkflowInstructions": ".utils",
        },
    )
