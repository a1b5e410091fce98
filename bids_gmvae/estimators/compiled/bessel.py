"""Modified Bessel functions in forms that vectorise."""

from __future__ import annotations

import math

from bids_gmvae.signal_models.compiled import exp, jit

#: Where the expansion in (z / SPLIT)^2 gives way to the one in SPLIT / z.
SPLIT = 8.0


@jit()
def scaled_bessel(z):  # type: ignore[no-untyped-def]
    """Give exp(-z) I0(z) and exp(-z) I1(z) for z >= 0, to 1e-9 of their value.

    Chebyshev interpolation of I0 and I1 / z below `SPLIT`, and of sqrt(z) times the scaled
    functions above. Both sides are computed and one chosen: branches would not vectorise.
    """
    x = min(z / SPLIT, 1.0) ** 2
    zeroth_low = 1.000000000005861 + x * (15.999999998019371 + x * (64.00000011078905 + x * (
        113.7777753455536 + x * (113.77780548550498 + x * (72.81759021940924 + x * (
        32.364270124238914 + x * (10.565302241301294 + x * (2.6465729893082144 + x * (
        0.5155756990313006 + x * (0.08916649059657404 + x * (0.0078029299640926825
        + x * 0.002254088075967493)))))))))))  # fmt: skip
    first_low = 4.000000000001618 + x * (31.999999999453212 + x * (85.33333336392066 + x * (
        113.77777710618776 + x * (91.02222987442718 + x * (48.54513337174869 + x * (
        18.493628651056614 + x * (5.2831779327205535 + x * (1.1754732947088735 + x * (
        0.20700326494453253 + x * (0.03193551083812933 + x * (0.0027795347827106504
        + x * 0.0006648777678046263)))))))))))  # fmt: skip
    decay = exp(-min(z, SPLIT))
    v = min(SPLIT / z, 1.0)
    zeroth_high = 0.39894228039888224 + v * (0.006233473747234673 + v * (0.00043826669102578757
        + v * (5.7442266668719106e-05 + v * (8.030632858146502e-06 + v * (1.5633314269291296e-05
        + v * (-3.39494042484861e-05 + v * (5.8546433326822705e-05 + v * (-5.842391550941335e-05
        + v * (3.234752660024978e-05 + v * -7.305336865319856e-06)))))))))  # fmt: skip
    first_high = 0.39894228040419416 + v * (-0.01870042006070834 + v * (-0.0007304587378086911
        + v * (-8.03003353373736e-05 + v * (-1.0919051300483664e-05 + v * (-1.726361270271476e-05
        + v * (3.647763074412698e-05 + v * (-6.296486953990562e-05 + v * (6.265207732516273e-05
        + v * (-3.460023730654152e-05 + v * 7.783402758796522e-06)))))))))  # fmt: skip
    root = math.sqrt(v / SPLIT)
    low = 1.0 if z < SPLIT else 0.0
    zeroth = low * decay * zeroth_low + (1 - low) * root * zeroth_high
    first = low * decay * (z / SPLIT) * first_low + (1 - low) * root * first_high
    return zeroth, first
