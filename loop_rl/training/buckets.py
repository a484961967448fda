"""Sizes that the trainer allocates and the planner counts; loads without torch."""

REDUCE_BUCKET_ELEMENTS = 50_000_000
"""Of the gradients that DeepSpeed sends at a time. The buffer is allocated whole: 100 MB in bfloat16, which links are as fast
with as with DeepSpeed's default of ten times that, also where all weights are trained: a larger gradient, such as that of
an embedding, is reduced in its own place."""
