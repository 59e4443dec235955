"""Learning from few labels: what the label-free parts of the local losses are worth.

    python -m experiments.few_labels --data-folder FOLDER --share 0.1 --size trial

Ways, all with the labels of the same share of the training images but for `all`:

    all                      block-local with every label: what could be reached
    labelled                 block-local on the images that have a label alone, for as many updates
    backprop                 backprop on these images alone, for as many updates
    frozen                   the same, hidden blocks left at random: the control
    reconstruction           block-local on all images; every block predicts the image too
    barlow                   the same with the Barlow Twins term between two views
    consistency              the same with what a block is sure of in one view as the label of the other (FixMatch)
    both                     the last two together
    backprop-consistency     backprop with the same consistency of the output

Accuracy of the output and of all blocks together on the test part, read once; on the validation part with `--search`.
The share of the distance: from `labelled` (0) to `all` (1). Two views cost twice the FLOPs of a step.
"""
