"""Activation functions and their derivatives, for the kernels of ``activation.py``."""

import triton
import triton.language as tl


@triton.jit
def _reciprocal(x):
    """Of a number from 1 on, in fewer instructions than a division, which also handles numbers close to zero."""
    root = tl.rsqrt(x)
    return root * root


@triton.jit
def _sigmoid(x):
    return _reciprocal(1.0 + tl.exp(-x))


@triton.jit
def _normal(x):
    """Cumulative distribution of the standard normal and ``exp(-x^2 / 2)``, with one exponential for both.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: absolute error of erf at most 1.5e-7.
    """
    density = tl.exp2(x * x * -0.7213475204444817)
    t = _reciprocal(1.0 + 0.23164189 * tl.abs(x))
    poly = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
    tail = 0.5 * poly * density
    return tl.where(x < 0.0, tail, 1.0 - tail), density


@triton.jit
def function(x, KIND: tl.constexpr):
    if KIND == "gelu":
        cdf, _ = _normal(x)
        return x * cdf
    if KIND == "gelu_tanh":
        return x * _sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    return x * _sigmoid(x)


@triton.jit
def derivative(x, KIND: tl.constexpr):
    if KIND == "gelu":
        cdf, density = _normal(x)
        return cdf + x * density * 0.3989422804014327
    if KIND == "gelu_tanh":
        s = _sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
        return s + x * s * (1.0 - s) * 1.5957691216057308 * (1.0 + 0.134145 * x * x)
    s = _sigmoid(x)
    return s + x * s * (1.0 - s)
