"""Language models trained as blocks: a decoder under backprop, the frozen control and local rules, on a text.

    python -m experiments.decoders --text FOLDER --json decoders.json --check          # the table
    python -m experiments.decoders --text FOLDER --only shared-4 backprop --seeds 3    # some ways
    python -m experiments.decoders --text FOLDER --search --only shared-4              # settings, on validation text
    python -m experiments.decoders --text FOLDER --size small                          # does it run? under a minute

`ways.py` has the ways, `measure.py` what is measured of each: perplexity and bits per byte after every block, how often
the last hidden block agrees with the output, and beside backprop the FLOPs, the bytes that autograd holds, and the time
of a step. All ways see the same windows in the same order, from the same initial weights. `--search` measures on the
validation part and leaves the test part unread.

`--check`: with the shared table perplexity is at most 3 % above backprop's in 2 blocks and 8 % in 4, exits improve with
depth, and at 4 blocks at least 80 % of the distance between control and backprop is closed.
"""
