"""The spine: command line, typed configuration, run folder, checkpoints, metrics and reports. No science in here."""
