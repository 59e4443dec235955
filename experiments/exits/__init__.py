"""What early exits, confidences and the blocks' disagreement are worth, beside networks that learn end to end.

    python -m experiments.exits --data-folder FOLDER --case fashion --size trial

Ways, each trained as a run (`--runs FOLDER` keeps them, so the same command again goes on):

    backprop            calibrated with one temperature
    deep-supervision    backprop from a classifier behind every block, with block-local's readouts
    ensemble            four backprop networks, the mean of their probabilities: four times the cost
    block-local         the library's defaults, readouts of two layers
    block-local-1       readouts of one layer
    frozen              the control: all blocks but the last at random

Weights, temperatures and exits are fitted on the validation part. On the test part, read once: accuracy of the output
and of all blocks together; accuracy at a half, a quarter and three quarters of the network's FLOPs; calibration error
per block, also on training images that no part of the run holds; the area under the risk-coverage curve; and how well
foreign images are told (AUROC), by each score.
"""
