"""Backprop, the frozen control and block-local learning on four kinds of network: accuracy, kept bytes, and time.

    python -m experiments.networks --data-folder FOLDER --json networks.json --check      # all four
    python -m experiments.networks --data-folder FOLDER --json networks.json --only vit   # one; the others' rows stay
    python -m experiments.networks --data-folder FOLDER --only vit --choose               # rates, on validation
    python -m experiments.networks --data-folder FOLDER --size small                      # does it run? under a minute

A ViT and a BERT-type classifier of Hugging Face, the library's ResNet-50, and a U-Net whose skips are carried across
the cuts (`cases.py`), on real data (`data.py`), in 4 blocks. Every rule trains for the same epochs, from the same
weights, on the same batches. `--choose` compares the same learning rates for every rule on the validation part, which
no rule trains on; what it finds best belongs into `cases.py`. Kept: the peak of the bytes that autograd holds in a
step. Times: the rules take steps in turn, round after round, and a ratio compares the two times of one round; give them
a quiet machine.

`--check`: block-local is above the control, and at most 2 points below backprop, in the mean over the seeds.
"""
