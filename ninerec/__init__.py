"""The command line: one file per verb, nothing else. Libraries are imported by their own names."""
