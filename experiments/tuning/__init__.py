"""A trained decoder is tuned on another text, end to end and block by block: what it learns, forgets and costs.

    python -m experiments.tuning --text FOLDER --onto OTHER

A decoder is trained on the text FOLDER with backpropagation, written as a folder of the Llama type, and read from there
by transformers (`--start shared-2`: trained in two blocks with the shared table, and read with its readout). Then it is
tuned on the text OTHER with the same tokenizer, in several ways, from the same weights:

    end-to-end          backpropagation through all layers
    end-to-end-fast     the same at a rate three times larger
    lora                the same, of low-rank adapters alone
    shared-2            two blocks, the lower one with the table of the upper one (twin shared) and a small rate
    shared-lora-2       the same, of low-rank adapters alone
    reconstruction-2    two blocks, the lower one keeps what it reads (LoPT, arXiv 2605.04913)
    frozen-2            two blocks, the lower one stays as it is: the control

Figures: perplexity of the new text, and of the old one (before tuning, and after: what is forgotten); kept bytes, FLOPs
and time of a step beside end-to-end tuning. Settings are chosen on validation parts (`--search`); the test parts are
read once.
"""
