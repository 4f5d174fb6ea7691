"""From a teacher to the training set of a student: structures, their choice, labels with provenance, a config file."""
