"""Small things that every other room uses: errors, registries, seeds, files, ranges of settings, memory, the screen."""
