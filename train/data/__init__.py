"""Training data: `sources` opens datasets, `plan` says what each step sees, `mixing` reads it, `cache` encodes it.

The layouts on disk are described field by field in `triplets`, `rovi`, `refer_youtube_vos`, `gqa_inpaint` and `shards`;
`synthetic` draws clips with exact truth. `python -m train.data check DIR` says what is wrong with a dataset.
"""
