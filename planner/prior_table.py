"""Figures learnt from published curves: see ``planner.prior`` for what they mean.

Written by ``python -m benchmarks.learn_prior curves.csv --write``; do not edit. Learnt from
280 curves of 16 models:

- argonne-lcf/LLM-Inference-Bench (BSD-3-Clause)
- InferenceMAX measurements as kept by ai-dynamo/aiconfigurator (Apache-2.0)
- llama.cpp batched-bench results, ggml-org/llama.cpp (MIT)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.prior import Bands, FamilyPrior, RegimePrior

if TYPE_CHECKING:
    from planner.prior import Prior

__all__ = ["PRIOR"]

PRIOR: Prior = {
    "throughput": {
        "llama.cpp": FamilyPrior(
            slope=(-0.103, 1.039, 0.0706, -0.1405),
            sharpness=(-1.386, 0.2),
            inside=RegimePrior(
                errors={
                    "softroof": 0.025,
                    "linear step": 0.02577,
                    "pchip": 0.0246,
                    "spline": 0.02281,
                    "exponential": 0.04481,
                    "kriging": 0.02116,
                },
                bands=Bands(
                    per_octave=0.01321, per_doubt=0.3011, per_spread=2.987, median_share=0.3401
                ),
            ),
            beyond=RegimePrior(
                errors={"slope": 0.1341, "linear step": 0.2386, "power": 0.1182},
                bands=Bands(
                    per_octave=0.1319, per_doubt=0.3943, per_spread=0.997, median_share=0.4468
                ),
            ),
        ),
        "serving": FamilyPrior(
            slope=(-0.1666, 1.091, 0.06605, -0.1398),
            sharpness=(0.0, 0.4989),
            inside=RegimePrior(
                errors={
                    "softroof": 0.01367,
                    "linear step": 0.0143,
                    "pchip": 0.01669,
                    "spline": 0.01791,
                    "exponential": 0.02093,
                    "kriging": 0.01383,
                },
                bands=Bands(
                    per_octave=0.01286, per_doubt=0.2931, per_spread=2.908, median_share=0.2475
                ),
            ),
            beyond=RegimePrior(
                errors={"slope": 0.06758, "linear step": 0.06063, "power": 0.1328},
                bands=Bands(
                    per_octave=0.1147, per_doubt=0.3429, per_spread=0.8669, median_share=0.2609
                ),
            ),
        ),
        "static batch": FamilyPrior(
            slope=(0.0901, 0.2582, 0.007301, -0.06693),
            sharpness=(0.6931, 0.6011),
            inside=RegimePrior(
                errors={
                    "softroof": 0.06129,
                    "linear step": 0.05345,
                    "pchip": 0.05998,
                    "spline": 0.07535,
                    "exponential": 0.05775,
                    "kriging": 0.05649,
                },
                bands=Bands(
                    per_octave=0.02151, per_doubt=0.4903, per_spread=4.864, median_share=0.2196
                ),
            ),
            beyond=RegimePrior(
                errors={"slope": 0.1058, "linear step": 0.1958, "power": 0.3458},
                bands=Bands(
                    per_octave=0.09508, per_doubt=0.2841, per_spread=0.7184, median_share=0.3253
                ),
            ),
        ),
    },
    "ttft": {
        "llama.cpp": FamilyPrior(
            slope=(0.9969, 0.003002, 0.002804, -0.002857),
            sharpness=(1.956, 1.541),
            inside=RegimePrior(
                errors={
                    "softroof": 0.002597,
                    "linear step": 0.007746,
                    "pchip": 0.01411,
                    "spline": 0.01227,
                },
                bands=Bands(
                    per_octave=0.01153, per_doubt=0.09067, per_spread=0.7395, median_share=0.05875
                ),
            ),
            beyond=RegimePrior(
                errors={"slope": 0.002413, "linear step": 0.04171, "power": 0.03252},
                bands=Bands(
                    per_octave=0.0003773, per_doubt=0.08451, per_spread=0.1799, median_share=0.136
                ),
            ),
        ),
        "serving": FamilyPrior(
            slope=(0.4428, 0.2721, 0.03856, -0.1007),
            sharpness=(0.0, 1.028),
            inside=RegimePrior(
                errors={
                    "softroof": 0.05685,
                    "linear step": 0.0566,
                    "pchip": 0.05224,
                    "spline": 0.05299,
                },
                bands=Bands(
                    per_octave=0.05722, per_doubt=0.4499, per_spread=3.67, median_share=0.2153
                ),
            ),
            beyond=RegimePrior(
                errors={"slope": 0.1608, "linear step": 0.2183, "power": 0.2975},
                bands=Bands(
                    per_octave=0.01676, per_doubt=3.753, per_spread=7.988, median_share=0.05438
                ),
            ),
        ),
    },
    "tpot": {
        "llama.cpp": FamilyPrior(
            slope=(0.06299, 1.04, 0.07038, -0.1412),
            sharpness=(-1.386, 0.2),
            inside=RegimePrior(
                errors={
                    "softroof": 0.02503,
                    "linear step": 0.02582,
                    "pchip": 0.02412,
                    "spline": 0.02293,
                },
                bands=Bands(
                    per_octave=0.0116, per_doubt=0.5276, per_spread=1.137, median_share=0.3473
                ),
            ),
            beyond=RegimePrior(
                errors={"slope": 0.1339, "linear step": 0.2386, "power": 0.1183},
                bands=Bands(per_octave=0.0, per_doubt=1.64, per_spread=1.351, median_share=0.3658),
            ),
        ),
        "serving": FamilyPrior(
            slope=(0.09278, 0.9756, 0.05965, -0.09421),
            sharpness=(-0.3567, 0.5288),
            inside=RegimePrior(
                errors={
                    "softroof": 0.01617,
                    "linear step": 0.01741,
                    "pchip": 0.01797,
                    "spline": 0.01903,
                },
                bands=Bands(
                    per_octave=0.01409, per_doubt=0.6406, per_spread=1.38, median_share=0.2552
                ),
            ),
            beyond=RegimePrior(
                errors={"slope": 0.05849, "linear step": 0.06866, "power": 0.1153},
                bands=Bands(per_octave=0.0, per_doubt=1.402, per_spread=1.154, median_share=0.2852),
            ),
        ),
    },
}
