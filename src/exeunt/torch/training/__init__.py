"""Training exits: the recipe, the epochs, the files that a training keeps, and the whole job of `exeunt train`."""
