"""The spine: command line, typed configuration, run folder, checkpoints, metrics, reports. No science in here."""
