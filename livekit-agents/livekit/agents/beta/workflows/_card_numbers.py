"""What a number tells of a payment card. No I/O."""

from __future__ import annotations

CARD_ISSUERS_LOOKUP = {
    "34": "American Express",
    "37": "American Express",
    **dict.fromkeys(("300", "301", "302", "303", "304", "305", "36", "38"), "Diners Club"),
    "35": "JCB",
    "4": "Visa",
    **{str(prefix): "Mastercard" for prefix in (*range(51, 56), *range(2221, 2230))},
    **{str(prefix): "Mastercard" for prefix in (*range(223, 230), *range(23, 27), 270, 271, 2720)},
    **{str(prefix): "Discover" for prefix in (6011, *range(644, 650), 65)},
    "62": "UnionPay",
}
"""The digits that a card number begins with -> who has issued it. The longest that fits counts."""

OTHER_ISSUER = "Other"


def issuer_of(number: str) -> str:
    """Who issued a card, by `CARD_ISSUERS_LOOKUP`."""
    for length in range(4, 0, -1):
        issuer = CARD_ISSUERS_LOOKUP.get(number[:length])
        if issuer is not None:
            return issuer
    return OTHER_ISSUER


def is_card_number(digits: str) -> bool:
    """Whether digits can be the number of a card: by their count and the Luhn checksum."""
    if not (digits.isascii() and digits.isdigit() and 12 <= len(digits) <= 19):
        return False
    total = 0
    for place, sign in enumerate(reversed(digits)):
        digit = int(sign) * (1 + place % 2)
        total += digit - 9 if digit > 9 else digit
    return total % 10 == 0 and int(digits) > 0


__all__ = ["CARD_ISSUERS_LOOKUP", "OTHER_ISSUER", "is_card_number", "issuer_of"]
