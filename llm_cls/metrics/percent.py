"""Scores as people read them: in percent, with two digits. Files keep fractions."""

from decimal import ROUND_HALF_UP, Decimal


def percent(value: float) -> Decimal:
    """``100 * value`` with two digits, ties rounded away from zero as in the published tables; never -0.00.

    >>> print(percent(0.97925), percent(float("nan")))
    97.93 NaN
    """
    return (100 * Decimal(repr(float(value)))).quantize(Decimal("0.01"), ROUND_HALF_UP) + Decimal("0.00")
