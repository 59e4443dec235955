"""Learning from few labels: what the label-free parts of the local losses are worth.

    python -m experiments.few_labels --data-folder FOLDER --share 0.1 --size trial

Ways, all with the labels of the same share of the training images but for `all`:

    all                      block-local with every label: what could be reached
    labelled                 block-local on the images that have a label alone, for as many updates as `all`
    labelled-strong          the same with the augmentation of the second view below
    backprop                 backprop on these images alone, for as many updates
    frozen                   the same, hidden blocks left at random: the control
    reconstruction           block-local on all images, those with a label repeated to half of an epoch; every block
                             predicts the image too
    barlow                   in its place the Barlow Twins term between two views
    consistency              in its place what a block is sure of in one view as the label of the other (FixMatch)
    consistency-once         consistency, every image once in an epoch
    both                     consistency and the Barlow Twins term
    backprop-consistency     backprop with the same consistency of the output

Accuracy of the output and of all blocks together on the test part, read once; on the validation part with `--search`.
The share of the distance: from `labelled` (0) to `all` (1). Two views cost twice the FLOPs of a step.
"""
