"""Ready-made tasks for agents on the phone: find something out, in turn, or transfer the call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._lazy import attach

if TYPE_CHECKING:
    from .address import GetAddressResult, GetAddressTask
    from .credit_card import GetCreditCardResult, GetCreditCardTask
    from .dob import GetDOBResult, GetDOBTask
    from .dtmf_inputs import GetDtmfResult, GetDtmfTask
    from .email_address import GetEmailResult, GetEmailTask
    from .name import GetNameResult, GetNameTask
    from .phone_number import GetPhoneNumberResult, GetPhoneNumberTask
    from .task_group import TaskCompletedEvent, TaskGroup, TaskGroupResult
    from .utils import WorkflowInstructions
    from .warm_transfer import (
        TwilioConnectorWarmTransferTask,
        WarmTransferResult,
        WarmTransferTask,
    )

__all__ = [
    "GetAddressResult",
    "GetAddressTask",
    "GetCreditCardResult",
    "GetCreditCardTask",
    "GetDOBResult",
    "GetDOBTask",
    "GetDtmfResult",
    "GetDtmfTask",
    "GetEmailResult",
    "GetEmailTask",
    "GetNameResult",
    "GetNameTask",
    "GetPhoneNumberResult",
    "GetPhoneNumberTask",
    "TaskCompletedEvent",
    "TaskGroup",
    "TaskGroupResult",
    "TwilioConnectorWarmTransferTask",
    "WarmTransferResult",
    "WarmTransferTask",
    "WorkflowInstructions",
]

if not TYPE_CHECKING:  # a type checker shall know the names above and no others
    __getattr__, __dir__ = attach(
        __name__,
        {
            "GetAddressResult": ".address",
            "GetAddressTask": ".address",
            "GetCreditCardResult": ".credit_card",
            "GetCreditCardTask": ".credit_card",
            "GetDOBResult": ".dob",
            "GetDOBTask": ".dob",
            "GetDtmfResult": ".dtmf_inputs",
            "GetDtmfTask": ".dtmf_inputs",
            "GetEmailResult": ".email_address",
            "GetEmailTask": ".email_address",
            "GetNameResult": ".name",
            "GetNameTask": ".name",
            "GetPhoneNumberResult": ".phone_number",
            "GetPhoneNumberTask": ".phone_number",
            "TaskCompletedEvent": ".task_group",
            "TaskGroup": ".task_group",
            "TaskGroupResult": ".task_group",
            "TwilioConnectorWarmTransferTask": ".warm_transfer",
            "WarmTransferResult": ".warm_transfer",
            "WarmTransferTask": ".warm_transfer",
            "WorkflowInstructions": ".utils",
        },
    )
